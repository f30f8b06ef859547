{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "holdfast.fullname" -}}
{{- $name := include "holdfast.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A Service's name is a DNS label and begins with a letter; a release's may hold dots or begin with a digit. */}}
{{- define "holdfast.service" -}}
{{- $name := include "holdfast.fullname" . | replace "." "-" -}}
{{- if regexMatch "^[a-z]" $name -}}
{{- printf "%s-metrics" $name -}}
{{- else -}}
{{- printf "metrics-%s" $name -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "holdfast.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "holdfast.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do in the namespaces that it watches. */}}
{{- define "holdfast.rules" -}}
# What people declare. A specification is never written.
- apiGroups: [holdfast.dev]
  resources: [destinations, backuppolicies, backups, restores]
  verbs: [list, watch]
- apiGroups: [holdfast.dev]
  resources: [destinations/status, backuppolicies/status, backups/status, restores/status]
  verbs: [patch]
# Finalizers, where data outside of the cluster is to be deleted, and the labels of the catalogue.
- apiGroups: [holdfast.dev]
  resources: [destinations, backups]
  verbs: [patch]
# The catalogue: a Backup for each restore point.
- apiGroups: [holdfast.dev]
  resources: [backups]
  verbs: [create, delete]
# The runs, and what became of them. Jobs are deleted by their time to live, or with their owner.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The passwords of destinations, to list what is in them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
{{- if .Values.sharedDestinations }}
# A run in another namespace than its Destination gets a copy of that Destination's secrets. The copy is
# owned by the policy, the Backup or the Restore that the run is for, and goes with it.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
