//! Kinds that configure a mesh and are not served: the effect on traffic until then, field by field, and advice. A
//! table, so that the words of `underpass analyze`, of the agent's reports and of docs/resources.md are one.

use underpass_door::{Field, KnownKind, Support};

use super::rows::{note, warn};

const V1: &[&str] = &["v1", "v1beta1", "v1alpha3"];
pub(super) const NETWORKING: &str = "networking.istio.io";
pub(super) const SECURITY: &str = "security.istio.io";
pub(super) const GATEWAY_API: &str = "gateway.networking.k8s.io";

const KEEP: &str = "keep it: it will take effect once it is served";
const NO_GATEWAY: &str = "no gateway runs: nothing listens for it";

/// Every known kind, by group and kind.
pub const KNOWN: &[KnownKind] = &[
    KnownKind {
        group: NETWORKING,
        kind: "Gateway",
        versions: V1,
        future: Support::Later,
        meanwhile: note("", NO_GATEWAY),
        instead: "keep the ingress that you have; its pods can be in the mesh",
        below: &[],
        fields: &[note("spec.servers", NO_GATEWAY)],
    },
    KnownKind {
        group: NETWORKING,
        kind: "ServiceEntry",
        versions: V1,
        future: Support::Later,
        meanwhile: note("", "its hosts stay outside the mesh: connections to them are not captured"),
        instead: "for pods of this cluster write a Service without selector and an EndpointSlice",
        below: &[],
        fields: SERVICE_ENTRY,
    },
    KnownKind {
        group: NETWORKING,
        kind: "Sidecar",
        versions: V1,
        future: Support::Never,
        meanwhile: note("", "there are no sidecars to configure"),
        instead: "delete it; restrict callers by an AuthorizationPolicy at the destination",
        below: &[],
        fields: SIDECAR,
    },
    KnownKind {
        group: NETWORKING,
        kind: "EnvoyFilter",
        versions: &["v1alpha3"],
        future: Support::Never,
        meanwhile: note("", "there is no Envoy: none of its patches is applied"),
        instead: "use an API that does not depend on a proxy: AuthorizationPolicy for access, \
                  VirtualService or HTTPRoute for routing, Telemetry for tags of spans and labels of metrics",
        below: &[],
        fields: &[note("spec.configPatches", "not applied")],
    },
    KnownKind {
        group: NETWORKING,
        kind: "WorkloadEntry",
        versions: V1,
        future: Support::Later,
        meanwhile: note("", "the machine that it names is outside the mesh: it has no identity"),
        instead: "policies that require an identity refuse it; allow its address with ipBlocks where it needs access",
        below: &[],
        fields: WORKLOAD_ENTRY,
    },
    KnownKind {
        group: NETWORKING,
        kind: "WorkloadGroup",
        versions: V1,
        future: Support::Later,
        meanwhile: note("", "machines cannot register: it has no workloads"),
        instead: "run the workload as a pod, or allow its address with ipBlocks where it needs access",
        below: &[],
        fields: &[note("spec.template", "has no workloads")],
    },
    KnownKind {
        group: NETWORKING,
        kind: "ProxyConfig",
        versions: &["v1beta1"],
        future: Support::Never,
        meanwhile: note("", "there is no proxy per pod to configure"),
        instead: "delete it; docs/settings.md lists the agent's settings",
        below: &[],
        fields: &[
            note("spec.concurrency", "the agent has a worker per core of the node, four at most, or `workers`"),
            note("spec.environmentVariables", "there is no proxy to hand them to"),
            note("spec.image", "there is no proxy image"),
        ],
    },
    KnownKind {
        group: "telemetry.istio.io",
        kind: "Telemetry",
        versions: &["v1", "v1alpha1"],
        future: Support::Later,
        meanwhile: note("", "metrics and access log follow the agent's settings"),
        instead: "keep it, and set the agent's access log",
        below: &[],
        fields: &[
            note("spec.tracing", "no spans are written at L4: an application's own trace headers pass unchanged"),
            note("spec.metrics", "metrics keep their labels, and none is switched off"),
            note("spec.accessLogging", "the access log has one line per connection, as the agent is set to write it"),
        ],
    },
    KnownKind {
        group: "extensions.istio.io",
        kind: "WasmPlugin",
        versions: &["v1alpha1"],
        future: Support::Never,
        meanwhile: warn("", "no module is loaded: its checks and changes are missing"),
        instead: "do it in the application, or in a proxy in front of it",
        below: &[],
        fields: &[note("spec.url", "not loaded"), note("spec.pluginConfig", "not read")],
    },
    KnownKind {
        group: "install.istio.io",
        kind: "IstioOperator",
        versions: &["v1alpha1"],
        future: Support::Never,
        meanwhile: note("", "it installs Istio; Underpass does not read its configuration from it"),
        instead: "write what you need of it as settings of the agent (underpass-agent --help)",
        below: &[("spec", MESH_CONFIG), ("spec.values", VALUES)],
        fields: OPERATOR,
    },
    gateway_api("GatewayClass", &["v1", "v1beta1"], "no controller of Underpass's takes it", &[]),
    gateway_api(
        "Gateway",
        &["v1", "v1beta1"],
        "it is no waypoint, and no gateway runs: nothing listens for it",
        &[note("spec.listeners", NO_GATEWAY)],
    ),
    gateway_api("UDPRoute", &["v1", "v1alpha2"], "UDP is not carried by the mesh: it is not captured", L4_ROUTE),
    gateway_api(
        "BackendTLSPolicy",
        &["v1", "v1alpha3", "v1alpha2"],
        "no gateway runs: none speaks TLS to its targets",
        &[note("spec.validation", "not checked")],
    ),
    gateway_api("ListenerSet", &["v1"], NO_GATEWAY, &[note("spec.listeners", NO_GATEWAY)]),
];

/// Any other kind of the Gateway API, which grows with every release.
pub(crate) const GATEWAY_API_OTHER: KnownKind = gateway_api(
    "",
    &["v1"],
    "this kind of the Gateway API is not served yet: traffic is routed as if it did not exist",
    &[],
);

const fn gateway_api(
    kind: &'static str,
    versions: &'static [&'static str],
    meanwhile: &'static str,
    fields: &'static [Field],
) -> KnownKind {
    KnownKind {
        group: GATEWAY_API,
        kind,
        versions,
        future: Support::Later,
        meanwhile: note("", meanwhile),
        instead: KEEP,
        below: &[],
        fields,
    }
}

const SERVICE_ENTRY: &[Field] = &[
    note("spec.hosts", "not resolved, and in no metric as a destination service"),
    note("spec.addresses", "not captured"),
    note("spec.endpoints", "no endpoints of any Service"),
    note("spec.workloadSelector", "selects no pods"),
    note("spec.subjectAltNames", "not checked"),
];

const SIDECAR: &[Field] = &[
    note("spec.egress", "pods can reach every Service that policies allow"),
    note("spec.ingress", "ignored"),
    warn(
        "spec.outboundTrafficPolicy",
        "connections to destinations outside the mesh are not refused: use a NetworkPolicy",
    ),
    note("spec.inboundConnectionPool", "connections have no such limit"),
];

const WORKLOAD_ENTRY: &[Field] = &[
    note("spec.address", "outside the mesh"),
    note("spec.serviceAccount", "no identity is issued"),
    note("spec.labels", "selected by no Service and no policy"),
];

const L4_ROUTE: &[Field] = &[
    note("spec.parentRefs", "the route is attached to nothing"),
    note("spec.rules[].backendRefs[].weight", "connections are not split by weight"),
];

const OPERATOR: &[Field] =
    &[note("spec.components", "nothing of it is installed"), note("spec.profile", "nothing of it is installed")];

/// `meshConfig`, of an IstioOperator and of a chart's values.
const MESH_CONFIG: &[Field] = &[
    note("meshConfig.enableTracing", "no spans are written at L4: an application's own trace headers pass unchanged"),
    note("meshConfig.defaultConfig.tracing", "no spans are written at L4"),
    note("meshConfig.extensionProviders", "no provider is called"),
    note("meshConfig.accessLogFile", "the access log is a setting of the agent"),
    note("meshConfig.accessLogFormat", "the access log's format is a setting of the agent: text or JSON"),
    note("meshConfig.trustDomain", "the trust domain is a setting of the agent"),
    note("meshConfig.pathNormalization", "the normalisation of paths is a setting of the agent"),
    note("meshConfig.rootNamespace", "the root namespace is a setting of the agent"),
    warn(
        "meshConfig.outboundTrafficPolicy",
        "connections to destinations outside the mesh are not refused: use a NetworkPolicy",
    ),
    warn(
        "meshConfig.extensionProviders[].envoyExtAuthzHttp",
        "providers are read from the ConfigMap `istio` of the root namespace: without it what CUSTOM policies match is refused",
    ),
    warn(
        "meshConfig.extensionProviders[].envoyExtAuthzGrpc",
        "not served: what CUSTOM policies with this provider match is refused",
    ),
];

/// Values of Istio's charts, which are no Kubernetes objects.
const VALUES: &[Field] = &[
    note("global.proxy.accessLogFile", "the access log is a setting of the agent"),
    note("global.proxy.resources", "there is no proxy per pod that could need them"),
    note("global.proxy.holdApplicationUntilProxyStarts", "not needed: a pod is in the mesh before it starts"),
    note("global.proxy_init", "no init container changes a pod"),
    note("pilot", "Istio's control plane is not part of Underpass"),
    note("sidecarInjectorWebhook", "nothing is injected"),
];

/// Fields of a chart's values, where it is one of Istio's.
pub(crate) const CHART_VALUES: &[&[Field]] = &[MESH_CONFIG, VALUES];
