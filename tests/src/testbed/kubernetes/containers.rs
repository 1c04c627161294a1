//! The configuration of a node's container runtime, its network for pods, and its kubelet.

use std::path::Path;

use serde_json::json;

use super::Subnets;

/// The image in every pod's sandbox.
const PAUSE: &str = "localhost/pause:testbed";

/// containerd's, with the programs of this folder.
pub(super) fn configuration(programs: &Path) -> String {
    let runc = programs.join("runc");
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Not every machine lets a score be lowered.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{}"
  SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
"#,
        runc.display()
    )
}

/// The network of a node's pods (CNI): a pair of devices for each pod, both families, routes and no translation.
pub(super) fn network(subnets: &Subnets) -> String {
    let range = |subnet: &String| json!([{ "subnet": subnet }]);
    json!({
        "cniVersion": "1.0.0",
        "name": "testbed",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [range(&subnets.v4), range(&subnets.v6)],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        }],
    })
    .to_string()
}

/// The kubelet's. `resolver`: its resolv.conf for pods of the node's network. `taints`: keys of those that its node
/// joins with.
pub(super) fn kubelet(resolver: &Path, dns_server: &str, taints: &[String]) -> String {
    let taints: Vec<_> = taints.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        // A hybrid machine has its controllers in version 1.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [dns_server],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "enforceNodeAllocatable": ["pods"],
        // Images come from no registry, so that one that was removed would be gone.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "localStorageCapacityIsolation": false,
        "syncFrequency": "2s",
        "nodeStatusUpdateFrequency": "4s",
        "registerWithTaints": taints,
        "resolvConf": resolver,
        // By default it is made below /usr.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
    .to_string()
}
