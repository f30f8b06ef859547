package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// writeNodeConfig writes what containerd, the network plugins, the kubelet and kube-proxy read.
func writeNodeConfig(place folder, config nodeConfig) error {
	n := config.Network
	files := map[string]string{
		"config/containerd.toml": fmt.Sprintf(containerdConfig,
			place.path("containerd"), containerdSocket, pauseImage, cniPlugins, place.path("cni")),
		"cni/10-e2e.conflist": fmt.Sprintf(cniConfig, n.Pods),
		"config/kubelet.yaml": fmt.Sprintf(kubeletConfig,
			n.Node, place.path("pki/ca.crt"), place.path("pki/node.crt"), place.path("pki/node.key"),
			containerdSocket, config.Cgroup, n.Node),
		"config/proxy.yaml": fmt.Sprintf(proxyConfig, place.path("pki/proxy.conf"), nodeName, n.Node, n.Pods),
	}
	for name, content := range files {
		path := place.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return writePauseImage(filepath.Join(filepath.Dir(self), "pause"), place.path("config/pause.tar"))
}

// The snapshotter is the kernel's own overlay. Nothing may lower its out-of-memory score without
// CAP_SYS_RESOURCE, so nothing tries to.
const containerdConfig = `version = 2
root = %q
state = "/run/containerd/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = %q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`

// A pair of interfaces for each pod, and routes: no bridge, so everything passes through the rules of
// kube-proxy, that to a pod's own service too.
const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "e2e",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: AlwaysAllow}
tlsCertFile: %q
tlsPrivateKeyFile: %q
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
cgroupRoot: /%s
cgroupsPerQOS: true
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
resolvConf: ""
clusterDNS: [%s]
clusterDomain: cluster.local
localStorageCapacityIsolation: false
readOnlyPort: 0
healthzPort: 0
serializeImagePulls: false
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
fileCheckFrequency: 0s
httpCheckFrequency: 0s
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
maxPods: 200
registerNode: true
`

// The settings of connection tracking that are the whole machine's are left alone (0).
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
bindAddress: %s
clusterCIDR: %s
healthzBindAddress: ""
metricsBindAddress: "127.0.0.1:10249"
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nodePortAddresses: ["127.0.0.0/8"]
`
