//! Values: what a user writes has its effect, or an answer.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    helm::{CHART, Helm, at, strings},
    programs::{arguments_of_control, settings_of_agent},
};

/// The defaults.
pub(crate) const NONE: &str = "{}";

/// Every part of the chart asked for something.
pub(crate) const ALL: &str = "
global:
  hub: registry.example:5000/mesh
  tag: '7'
  imagePullSecrets: [registry]
  proxy: {clusterDomain: cluster.example}
  multiCluster: {clusterName: east}
image: {pullPolicy: Always}
meshConfig:
  trustDomain: mesh.example
  trustDomainAliases: [old.example, older.example]
  rootNamespace: mesh-root
  accessLogEncoding: JSON
profile: demo
networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}]}
control:
  replicas: 3
  dnsNames: [istiod.istio-system.svc]
  trustedNodeAccounts: [istio-system/ztunnel]
  certificateLifetime: 3600
  logLevel: info,underpass_xds=debug
  logFormat: json
  resources: {limits: {memory: 1Gi}}
  nodeSelector: {pool: system}
  tolerations: [{key: system, operator: Exists}]
  podAnnotations: {a: b}
  podLabels: {team: mesh}
cni:
  binDir: /var/lib/kubernetes/bin
  confDir: /var/lib/cni/net.d
  excludeNamespaces: [kube-system, storage]
agent:
  settings: {release-drain: 1m, node-memory: 512, sidecar-keys: false, certificate-lifetime: 30m}
  drainSeconds: 60
  logLevel: debug
  logFormat: json
  rollingUpdate: {maxSurge: 0, maxUnavailable: 10%}
  resources: {requests: {memory: 1Gi}}
  nodeSelector: {mesh: 'yes'}
  affinity: {nodeAffinity: {}}
  tolerations: []
  podAnnotations: {prometheus.io/scrape: 'false'}
  podLabels: {team: mesh, istio.io/dataplane-mode: ambient}
";

/// Values as they are written for Istio's own charts.
pub(crate) const ISTIO: &str = r#"
global:
  proxy:
    accessLogFile: /dev/stdout
    resources:
      requests: {cpu: 50m, memory: 64Mi}
      limits: {cpu: 300m, memory: 128Mi}
pilot:
  resources:
    requests: {cpu: 250m, memory: 700Mi}
    limits: {cpu: 900m, memory: 1500Mi}
  enableProtocolSniffingForInbound: true
  enableProtocolSniffingForOutbound: true
meshConfig:
  enableTracing: true
  defaultConfig: {tracing: {sampling: 10.0}}
  accessLogFormat: |
    [%START_TIME%] "%REQ(:METHOD)% %PROTOCOL%" %RESPONSE_CODE%
  trustDomain: istio.example
cni:
  cniBinDir: /opt/istio/bin
  cniConfDir: /etc/istio/net.d
  excludeNamespaces: [istio-system, kube-system]
  chained: true
"#;

/// A key that does not exist is an error with its name, beside the same value by its right name.
pub(crate) fn a_misspelt_one_is_named() -> Result<()> {
    let helm = Helm::new()?;
    for (wrong, word, right) in [
        ("agnet: {}", "agnet", "agent: {}"),
        ("agent: {drianSeconds: 1}", "drianSeconds", "agent: {drainSeconds: 1}"),
        ("agent: {settings: {relase-drain: 1m}}", "relase-drain", "agent: {settings: {release-drain: 1m}}"),
        ("agent: {rollingUpdate: {maxSurges: 1}}", "maxSurges", "agent: {rollingUpdate: {maxSurge: 1}}"),
        ("agent: {resources: {request: {}}}", "request", "agent: {resources: {requests: {}}}"),
        ("control: {replica: 2}", "replica", "control: {replicas: 2}"),
        ("cni: {binDri: /b}", "binDri", "cni: {binDir: /b}"),
        ("cleanup: {enable: false}", "enable", "cleanup: {enabled: false}"),
        ("cleanup: {timeoutSeconds: 0}", "timeoutSeconds", "cleanup: {timeoutSeconds: 1}"),
        ("networkPolicy: {enable: true}", "enable", "networkPolicy: {enabled: true}"),
        ("monitoring: {serviceMonitor: {label: {}}}", "label", "monitoring: {serviceMonitor: {labels: {}}}"),
        (
            "monitoring: {serviceMonitor: {interval: soon}}",
            "interval",
            "monitoring: {serviceMonitor: {interval: 1m30s}}",
        ),
        ("monitoring: {prometheusRule: {enable: true}}", "enable", "monitoring: {prometheusRule: {enabled: true}}"),
        ("profile: dmeo", "profile", "profile: demo"),
        ("image: {pullpolicy: Always}", "pullpolicy", "image: {pullPolicy: Always}"),
        ("global: {hbu: x}", "hbu", "global: {hub: x}"),
        ("pilot: {resources: {limit: {}}}", "limit", "pilot: {resources: {limits: {}}}"),
        // A value that cannot be meant.
        ("control: {replicas: two}", "replicas", "control: {replicas: 1}"),
        ("meshConfig: {trustDomain: 'a b'}", "trustDomain", "meshConfig: {trustDomain: a.b}"),
        ("meshConfig: {accessLogEncoding: xml}", "accessLogEncoding", "meshConfig: {accessLogEncoding: JSON}"),
        ("agent: {settings: {release-drain: soon}}", "release-drain", "agent: {settings: {release-drain: 90}}"),
        ("cni: {confDir: net.d}", "confDir", "cni: {cniConfDir: ''}"),
        ("cni: {excludeNamespaces: [a b]}", "excludeNamespaces", "cni: {excludeNamespaces: []}"),
        ("agent: {settings: {cni-bin-dir: /b}}", "cni-bin-dir", "agent: {settings: {workers: 2}}"),
        ("agent: {settings: {take-over: true}}", "take-over", "agent: {settings: {kernel-log: true}}"),
    ] {
        let said = helm.text(wrong).err().with_context(|| format!("{wrong} is taken"))?;
        let said = format!("{said:#}");
        ensure!(said.contains(word) && said.contains("don't meet the specifications"), "{wrong}: {said}");
        helm.text(right)?;
    }
    Ok(())
}

/// Where Istio's have a meaning, it holds; the others are named, and change nothing.
pub(crate) fn istios_are_taken() -> Result<()> {
    let helm = Helm::new()?;
    let objects = helm.render(ISTIO)?;
    let resources =
        |kind: &str, name: &str| Ok::<_, anyhow::Error>(objects.container(kind, name)?["resources"].clone());
    let control = resources("Deployment", "underpass-control")?;
    let (requests, limits) = (json!({"cpu": "250m", "memory": "700Mi"}), json!({"cpu": "900m", "memory": "1500Mi"}));
    ensure!(control == json!({ "requests": requests, "limits": limits }), "{control}");
    // What was meant for the proxy of one pod would starve the agent of a node.
    let agent = resources("DaemonSet", "underpass-agent")?;
    ensure!(agent == json!({"requests": {"cpu": "100m", "memory": "256Mi"}}), "{agent}");
    for arguments in
        [arguments_of_control(&objects)?, strings(&objects.container("DaemonSet", "underpass-agent")?["args"])]
    {
        ensure!(arguments.iter().any(|one| one == "--trust-domain=istio.example"), "{arguments:?}");
    }
    let own = helm.render(&format!("{ISTIO}\ncontrol: {{resources: {{requests: {{cpu: 1}}}}}}"))?;
    let control = &own.container("Deployment", "underpass-control")?["resources"];
    ensure!(*control == json!({"requests": {"cpu": 1}}), "the chart's own value counts: {control}");

    let settings = settings_of_agent(&objects)?;
    for (name, value) in [("cni-bin-dir", "/opt/istio/bin"), ("cni-config-dir", "/etc/istio/net.d")] {
        ensure!(settings.iter().any(|(n, v)| n == name && v == value), "{name}: {settings:?}");
    }

    let notes = helm.notes(ISTIO)?;
    let named: BTreeSet<_> = without_effect(&notes).into_iter().collect();
    let expected = [
        "cni.chained",
        "global.proxy.resources",
        "meshConfig.accessLogFormat",
        "meshConfig.defaultConfig",
        "meshConfig.enableTracing",
        "pilot.enableProtocolSniffingForInbound",
        "pilot.enableProtocolSniffingForOutbound",
    ];
    ensure!(named == BTreeSet::from(expected.map(str::to_owned)), "{notes}");
    for said in
        ["agent.resources", "meshConfig.accessLogEncoding", "istio.io/dataplane-mode=ambient", "underpass status"]
    {
        ensure!(notes.contains(said), "no {said}: {notes}");
    }
    for silent in [NONE, ALL] {
        let notes = helm.notes(silent)?;
        ensure!(without_effect(&notes).is_empty() && !notes.contains("no effect"), "{notes}");
    }
    let to_a_file = helm.notes("meshConfig: {accessLogFile: /var/log/mesh}\ngateways: {istio-ingressgateway: {}}")?;
    ensure!(without_effect(&to_a_file) == ["gateways", "meshConfig.accessLogFile"], "{to_a_file}");
    ensure!(to_a_file.contains("agent.settings.access-log"), "{to_a_file}");
    Ok(())
}

/// The names in the part of the notes about values without an effect.
fn without_effect(notes: &str) -> Vec<String> {
    let part = notes.split_once("have no effect in Underpass:\n").map_or("", |(_, part)| part);
    let lines = part.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim().to_owned()).collect()
}

/// Values of each kind, and what they become.
pub(crate) fn reach_their_places() -> Result<()> {
    let helm = Helm::new()?;
    let objects = helm.render(ALL)?;
    for workload in objects.workloads() {
        let pod = at(workload, "spec.template.spec");
        for container in super::helm::containers(pod) {
            ensure!(container["image"] == "registry.example:5000/mesh/underpass:7", "{container}");
            ensure!(container["imagePullPolicy"] == "Always", "{container}");
        }
        ensure!(pod["imagePullSecrets"] == json!([{"name": "registry"}]), "{pod}");
        let labels = at(workload, "spec.template.metadata.labels");
        if workload["metadata"]["annotations"]["helm.sh/hook"] == "test" {
            ensure!(labels["team"].is_null(), "{labels}");
            continue;
        }
        ensure!(labels["team"] == "mesh" && labels["istio.io/dataplane-mode"] == "none", "{labels}");
    }
    let (control, agent) =
        (objects.one("Deployment", "underpass-control")?, objects.one("DaemonSet", "underpass-agent")?);
    ensure!(control["spec"]["replicas"] == 3, "{control}");
    let pod = at(agent, "spec.template.spec");
    let new_nodes = json!([{"key": "underpass.dev/agent-not-ready", "operator": "Exists"}]);
    ensure!(pod["terminationGracePeriodSeconds"] == 75 && pod["tolerations"] == new_nodes, "{pod}");
    ensure!(pod["nodeSelector"] == json!({"kubernetes.io/os": "linux", "mesh": "yes"}), "{pod}");
    ensure!(at(agent, "spec.template.metadata.annotations")["prometheus.io/scrape"] == "false", "{agent}");
    ensure!(*at(agent, "spec.updateStrategy.rollingUpdate") == json!({"maxSurge": 0, "maxUnavailable": "10%"}));

    // Settings of the mesh have one source.
    let arguments = arguments_of_control(&objects)?;
    let settings = settings_of_agent(&objects)?;
    let of_agent = |name: &str| settings.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
    for (name, value) in [
        ("cluster", "east"),
        ("cluster-domain", "cluster.example"),
        ("trust-domain", "mesh.example"),
        ("root-namespace", "mesh-root"),
    ] {
        ensure!(arguments.contains(&format!("--{name}={value}")) && of_agent(name) == value, "{name}: {settings:?}");
    }
    ensure!(arguments.contains(&"--trust-domain-aliases=old.example,older.example".to_owned()), "{arguments:?}");
    let aliases = of_agent("trust-domain-aliases");
    ensure!(aliases.contains("old.example") && aliases.contains("older.example"), "{aliases}");
    let accounts = format!("--trusted-node-accounts={}/underpass-agent,istio-system/ztunnel", super::helm::NAMESPACE);
    ensure!(arguments.contains(&accounts), "{arguments:?}");
    for (name, value) in [
        ("drain", "60"),
        ("release-drain", "1m"),
        ("node-memory", "512"),
        ("sidecar-keys", "false"),
        ("log", "debug"),
        ("access-log-format", "json"),
        ("cni-config-dir", "/var/lib/cni/net.d"),
        ("cni-bin-dir", "/var/lib/kubernetes/bin"),
        ("cni-socket", "/run/underpass/cni.sock"),
    ] {
        ensure!(of_agent(name) == value, "{name} is {:?}", of_agent(name));
    }
    let exempt = of_agent("cni-exempt");
    ensure!(exempt.contains("kube-system") && exempt.contains("storage"), "{exempt}");

    // What a running agent follows replaces none; anything else does.
    let hash = |values: &str| -> Result<Value> {
        let objects = helm.render(values)?;
        Ok(at(objects.one("DaemonSet", "underpass-agent")?, "spec.template.metadata.annotations").clone())
    };
    let before = hash(NONE)?;
    ensure!(before == hash("agent: {logLevel: debug, settings: {release-drain: 1m}}")?, "{before}");
    ensure!(before != hash("agent: {settings: {workers: 2}}")?, "{before}");
    Ok(())
}

/// The CNI plugin is installed by two directories of the node, both writable under the node's own paths, or not at all.
pub(crate) fn the_cni_plugin_can_be_left_out() -> Result<()> {
    let helm = Helm::new()?;
    let check = |values: &str, expected: &[&str], exempt: Option<&str>| -> Result<()> {
        let objects = helm.render(values)?;
        let pod = at(objects.one("DaemonSet", "underpass-agent")?, "spec.template.spec");
        let container = objects.container("DaemonSet", "underpass-agent")?;
        let of_plugin = |one: &&Value| one["name"].as_str().is_some_and(|name| name.starts_with("cni-"));
        let mounts = container["volumeMounts"].as_array().into_iter().flatten().filter(of_plugin);
        let mounts: Vec<_> = mounts.map(|mount| (&mount["mountPath"], mount["readOnly"] == true)).collect();
        let volumes = pod["volumes"].as_array().into_iter().flatten().filter(of_plugin);
        let volumes: Vec<_> = volumes.map(|volume| (&volume["hostPath"]["path"], false)).collect();
        ensure!(mounts == volumes, "{values}: {mounts:?} and {volumes:?}");
        let paths: Vec<_> = mounts.iter().filter_map(|(path, _)| path.as_str()).collect();
        ensure!(paths == expected, "{values}: {paths:?}");
        let given = strings(&container["args"]);
        let given: Vec<_> = given.iter().filter_map(|one| one.strip_prefix("--cni-exempt=")).collect();
        ensure!(given == Vec::from_iter(exempt), "{values}: {given:?}");
        let installs = settings_of_agent(&objects)?.iter().any(|(name, _)| name == "cni-config-dir");
        let may_write =
            strings(&container["securityContext"]["capabilities"]["add"]).contains(&"DAC_OVERRIDE".to_owned());
        ensure!((installs, may_write) == (exempt.is_some(), exempt.is_some()), "{values}: {container}");
        Ok(())
    };
    check(NONE, &["/opt/cni/bin", "/etc/cni/net.d"], Some("kube-system"))?;
    check("cni: {excludeNamespaces: []}", &["/opt/cni/bin", "/etc/cni/net.d"], Some(""))?;
    check("cni: {cniBinDir: /b, binDir: /a, excludeNamespaces: [a, b]}", &["/b", "/etc/cni/net.d"], Some("a,b"))?;
    check("cni: {enabled: false}", &[], None)?;
    let [with, without] = [NONE, "cni: {enabled: false}"].map(|values| helm.notes(values));
    ensure!(
        with?.contains("CNI plugin in /opt/cni/bin") && without?.contains("Without the CNI plugin"),
        "the notes say so"
    );
    Ok(())
}

/// A setting is given by the chart, by a value of its own, or by `agent.settings`: by one of them.
pub(crate) fn every_setting_of_an_agent_has_one_place() -> Result<()> {
    const BY_THE_CHART: [&str; 34] = [
        "config",
        "print-config",
        "node",
        "manifests",
        // With manifests alone: in a cluster an agent runs no waypoints.
        "waypoint-program",
        "waypoint-access-log",
        "waypoint-access-log-encoding",
        "waypoint-access-log-format",
        "path-normalization",
        "control-plane",
        "control-plane-name",
        "control-plane-roots",
        "control-plane-token",
        "kubeconfig",
        "state",
        "bpffs",
        "cgroup-root",
        "admin-socket",
        "cni-config-dir",
        "cni-bin-dir",
        "cni-socket",
        "cni-exempt",
        "probe-socket",
        "cluster",
        "access-log-format",
        "log-format",
        "log",
        "trust-domain",
        "trust-domain-aliases",
        "root-namespace",
        "cluster-domain",
        "drain",
        "take-over",
        "stay",
    ];
    let schema = std::fs::read_to_string(format!("{CHART}/values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema)?;
    let listed = &schema["properties"]["agent"]["properties"]["settings"]["properties"];
    let listed: BTreeSet<_> = listed.as_object().context("settings")?.keys().cloned().collect();
    let table = underpass_agent::config::markdown();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let expected: BTreeSet<_> = names.filter(|name| !BY_THE_CHART.contains(name)).map(str::to_owned).collect();
    ensure!(listed == expected, "{listed:?} and {expected:?}");
    Ok(())
}
