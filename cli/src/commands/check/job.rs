//! The Job that looks at one node: `underpass-agent check` there, with what an agent has and no more.

use serde_json::{Value, json};

/// The time for which the API server keeps a Job that has ended, should the command not delete it.
const KEPT_S: u32 = 60;
/// More than the command waits: the Job ends also where the command is gone.
const LONGER_S: u64 = 30;
/// Where the pod has the node's directory of CNI configurations, under its own path.
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
    let volume = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    let mount = |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only, "mountPropagation": "HostToContainer"});
    let mut command = vec!["/usr/local/bin/underpass-agent", "check", "--json"];
    let mut capabilities = vec!["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"];
    let mut volumes = vec![volume("bpffs", "/sys/fs/bpf"), volume("cgroup", "/sys/fs/cgroup")];
    let mut mounts = vec![
        mount("bpffs", "/sys/fs/bpf", false), // whether it can be written is asked, and nothing is
        mount("cgroup", "/sys/fs/cgroup", true),
    ];
    if !cni_conf_dir.is_empty() {
        command.extend(["--host-root", HOST, "--cni-config-dir", cni_conf_dir]);
        // It is another user's on some nodes.
        capabilities.push("DAC_OVERRIDE");
        volumes.push(volume("cni-conf", cni_conf_dir));
        mounts.push(mount("cni-conf", &format!("{HOST}/{}", cni_conf_dir.trim_start_matches('/')), true));
    }
    let labels = json!({
        "app.kubernetes.io/name": "underpass-check",
        "app.kubernetes.io/part-of": "underpass",
        // No mesh takes its connections.
        "istio.io/dataplane-mode": "none",
        "sidecar.istio.io/inject": "false",
    });
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
            "capabilities": {"drop": ["ALL"], "add": capabilities},
            "appArmorProfile": {"type": "Unconfined"},
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "spc_t", "level": "s0"},
        },
        "volumeMounts": mounts,
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
                    "volumes": volumes,
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cni_conf_dir: &str) -> Value {
        object(&Plan { namespace: "s", name: "c-1", node: "n", image: "i:1", cni_conf_dir, patience_s: 60 })
    }

    fn plan() -> Value {
        with("/etc/cni")
    }

    fn texts<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
        list.as_array().unwrap().iter().filter_map(|one| one.pointer(field)?.as_str()).collect()
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
        let mut has = texts(&context["capabilities"]["add"], "");
        wanted.sort_unstable();
        has.sort_unstable();
        assert_eq!(has, wanted);
        for host in ["hostNetwork", "hostPID"] {
            assert!(chart.contains(&format!("{host}: true")) && pod[host] == true, "{host}");
        }
        assert!(chart.contains("type: spc_t") && context["seLinuxOptions"]["type"] == "spc_t");
        let of_agent = chart.split("hostPath:\n").skip(1).filter_map(|part| part.trim_start().strip_prefix("path: "));
        let of_agent: Vec<&str> = of_agent.filter_map(|part| part.lines().next()).collect();
        let paths = texts(&pod["volumes"], "/hostPath/path");
        assert_eq!(paths, ["/sys/fs/bpf", "/sys/fs/cgroup", "/etc/cni"]);
        assert!(paths.iter().all(|path| of_agent.contains(path) || *path == "/etc/cni"), "{of_agent:?}");
        assert!(of_agent.iter().any(|path| path.contains("underpass.cniConfDir")), "{of_agent:?}");
    }

    #[test]
    fn the_runtimes_directory_alone_is_mounted_where_it_is_looked_for() {
        let job = plan();
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(texts(&container["command"], "")[3..], ["--host-root", "/host", "--cni-config-dir", "/etc/cni"]);
        let mount = &container["volumeMounts"][2];
        assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!("/host/etc/cni"), &json!(true)));
        let without = with("");
        let pod = &without["spec"]["template"]["spec"];
        assert_eq!(texts(&pod["volumes"], "/hostPath/path"), ["/sys/fs/bpf", "/sys/fs/cgroup"]);
        let container = &pod["containers"][0];
        assert_eq!(texts(&container["command"], "").len(), 3);
        assert!(!texts(&container["securityContext"]["capabilities"]["add"], "").contains(&"DAC_OVERRIDE"));
    }
}
