//! The pod of a Job: the user's settings where there are some, and the least of rights.

use std::collections::BTreeMap;

use holdfast_crds::JobTemplate;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::order::JobSettings;
use super::{CONTAINER, TERMINATION_LOG, WORK_VARIABLE};

/// The user and group of the image.
const USER: i64 = 65_532;

/// How long a pod may take to end its runs well when it is asked to.
const GRACE_SECONDS: i64 = 60;

/// What goes into a pod besides the settings.
pub(super) struct PodParts {
    /// The work as JSON.
    pub(super) work: String,
    /// Volumes of secrets and claims.
    pub(super) volumes: Vec<Volume>,
    /// Where they are mounted.
    pub(super) mounts: Vec<VolumeMount>,
    /// What a user `root`, should the policy ask for it, needs to do this work.
    pub(super) root_capabilities: &'static [&'static str],
}

/// The spec of the pod.
pub(super) fn spec(parts: PodParts, template: &JobTemplate, settings: &JobSettings) -> PodSpec {
    let PodParts {
        work,
        mut volumes,
        mut mounts,
        root_capabilities,
    } = parts;
    volumes.push(Volume {
        name: "holdfast-tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    mounts.push(VolumeMount {
        name: "holdfast-tmp".to_owned(),
        mount_path: "/tmp".to_owned(),
        ..VolumeMount::default()
    });
    volumes.extend(template.volumes.iter().cloned());
    mounts.extend(template.volume_mounts.iter().cloned());
    let security = security(template.security_context.clone().unwrap_or_default());
    let capabilities = if security.run_as_user == Some(0) {
        root_capabilities
    } else {
        &[]
    };
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(vec!["worker".to_owned()]),
        env: Some(environment(work)),
        resources: Some(template.resources.clone().unwrap_or_else(resources)),
        volume_mounts: Some(mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                add: (!capabilities.is_empty())
                    .then(|| capabilities.iter().map(|&one| one.to_owned()).collect()),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            ..SecurityContext::default()
        }),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        // The worker talks to no API.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: template
            .service_account_name
            .clone()
            .or_else(|| settings.service_account.clone()),
        image_pull_secrets: own_or(&template.image_pull_secrets, &settings.image_pull_secrets),
        node_selector: [&template.node_selector, &settings.node_selector]
            .into_iter()
            .find(|labels| !labels.is_empty())
            .cloned(),
        tolerations: own_or(&template.tolerations, &settings.tolerations),
        affinity: template.affinity.clone(),
        priority_class_name: template.priority_class_name.clone(),
        security_context: Some(security),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// What the policy says, or else what the operator says of all pods.
fn own_or<T: Clone>(own: &[T], all: &[T]) -> Option<Vec<T>> {
    let list = if own.is_empty() { all } else { own };
    (!list.is_empty()).then(|| list.to_vec())
}

fn environment(work: String) -> Vec<EnvVar> {
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    // `$(NAME)` in a value would be replaced by Kubernetes; `$$` stands for `$`.
    let work = work.replace('$', "$$");
    vec![
        variable(WORK_VARIABLE, work),
        variable("HOLDFAST_LOG_FORMAT", "json".to_owned()),
        variable("HOME", "/tmp".to_owned()),
        variable("TMPDIR", "/tmp".to_owned()),
    ]
}

/// Enough for a large database; a policy with a larger one says so in `spec.job.resources`.
fn resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| {
        list.iter()
            .map(|&(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "256Mi")])),
        limits: Some(quantities(&[("memory", "1Gi")])),
        ..ResourceRequirements::default()
    }
}

/// The user's security context, with ours where it says nothing.
fn security(own: PodSecurityContext) -> PodSecurityContext {
    let root = own.run_as_user == Some(0);
    PodSecurityContext {
        run_as_non_root: own.run_as_non_root.or((!root).then_some(true)),
        run_as_user: own.run_as_user.or(Some(USER)),
        run_as_group: own.run_as_group.or((!root).then_some(USER)),
        fs_group: own.fs_group.or(Some(USER)),
        // A repository has many files; to go through them at each start takes minutes.
        fs_group_change_policy: own
            .fs_group_change_policy
            .or_else(|| Some("OnRootMismatch".to_owned())),
        seccomp_profile: own.seccomp_profile.or_else(|| {
            Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            })
        }),
        ..own
    }
}
