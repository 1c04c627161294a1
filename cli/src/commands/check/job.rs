//! The Job that looks at one node: `underpass-agent check` there, with what an agent has and no more.

use serde_json::{Value, json};

/// The time for which the API server keeps a Job that has ended, should the command not delete it.
const KEPT_S: u32 = 60;
/// More than the command waits: the Job ends also where the command is gone.
const LONGER_S: u64 = 30;
/// Where the pod has the node's files.
const HOST: &str = "/host";

/// What a Job is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) node: &'a str,
    pub(super) image: &'a str,
    /// Empty: the CNI plugin is left out.
    pub(super) cni_conf_dir: &'a str,
    pub(super) patience_s: u64,
}

/// The object.
pub(super) fn object(plan: &Plan<'_>) -> Value {
    let Plan { namespace, name, node, image, cni_conf_dir, patience_s } = plan;
    let mut command = vec!["/usr/local/bin/underpass-agent", "check", "--json", "--host-root", HOST];
    if !cni_conf_dir.is_empty() {
        command.extend(["--cni-config-dir", cni_conf_dir]);
    }
    let labels = json!({
        "app.kubernetes.io/name": "underpass-check",
        "app.kubernetes.io/part-of": "underpass",
        // No mesh takes its connections.
        "istio.io/dataplane-mode": "none",
        "sidecar.istio.io/inject": "false",
    });
    let volume = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    let mount = |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only, "mountPropagation": "HostToContainer"});
    let container = json!({
        "name": "check",
        "image": image,
        "command": command,
        "env": [{"name": "NODE_NAME", "value": node}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {
            "privileged": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"]},
            "appArmorProfile": {"type": "Unconfined"},
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "spc_t", "level": "s0"},
        },
        "volumeMounts": [
            mount("bpffs", "/sys/fs/bpf", false), // whether it can be written is asked, and nothing is
            mount("cgroup", "/sys/fs/cgroup", true),
            mount("host", HOST, true),
        ],
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": patience_s.saturating_add(LONGER_S),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeName": node,
                    "hostNetwork": true,
                    "hostPID": true,
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                    "volumes": [
                        volume("bpffs", "/sys/fs/bpf"),
                        volume("cgroup", "/sys/fs/cgroup"),
                        volume("host", "/"),
                    ],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Value {
        object(&Plan { namespace: "s", name: "c-1", node: "n", image: "i:1", cni_conf_dir: "/etc/cni", patience_s: 60 })
    }

    #[test]
    fn it_ends_and_goes_by_itself() {
        let job = plan();
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 90);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 60);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        assert_eq!(job["spec"]["template"]["spec"]["restartPolicy"], "Never");
    }

    /// Else what it sees would not be what an agent sees.
    #[test]
    fn it_has_the_rights_of_an_agent() {
        let chart = include_str!("../../../../deploy/helm/underpass/templates/agent.yaml");
        let job = plan();
        let pod = &job["spec"]["template"]["spec"];
        let context = &pod["containers"][0]["securityContext"];
        let added = chart.split("add:\n").nth(1).unwrap().split("appArmorProfile").next().unwrap();
        let mut wanted: Vec<&str> = added.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
        let mut has: Vec<&str> =
            context["capabilities"]["add"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        wanted.sort_unstable();
        has.sort_unstable();
        assert_eq!(has, wanted);
        for host in ["hostNetwork", "hostPID"] {
            assert!(chart.contains(&format!("{host}: true")) && pod[host] == true, "{host}");
        }
        assert!(chart.contains("type: spc_t") && context["seLinuxOptions"]["type"] == "spc_t");
    }
}
