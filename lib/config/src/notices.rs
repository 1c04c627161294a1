//! Notices about objects that are not served, and about fields without effect on objects that are: the tables of
//! [`crate::kinds`] applied to a tree. Nothing here changes what is served.

use underpass_core::Kind;
use underpass_door::{Field, KnownKind};

use crate::{
    Fault, ObjectId, Path, Segment,
    convert::{self, FieldFault},
    kinds::{
        CHART_VALUES,
        metadata::{self, On},
        rows::places,
        series,
    },
    manifest::{Candidate, Reader},
    shapes,
    yaml::{Document, Tree, Value, from_tree},
};

/// The most places of one field that are looked for.
const MAX_PLACES: usize = 100;
/// The most metrics that are named of one document.
const MAX_SERIES: usize = 32;

impl Reader<'_> {
    /// A kind that is known and not served, and its fields.
    pub(crate) fn known(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, version: &str, known: &'static KnownKind) {
        if !known.has(version) {
            let at: Path = [Segment::Field("apiVersion".into())].into_iter().collect();
            self.say(c, id.cloned(), at, Fault::KnownVersion { found: version.into(), known });
        }
        self.unenforced(c, id, known);
    }

    /// An object that nothing enforces, and its fields.
    pub(crate) fn unenforced(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, known: &'static KnownKind) {
        let kind: Path = [Segment::Field("kind".into())].into_iter().collect();
        let line = Some(c.tree.line_of(&kind)).filter(|l| *l > 0);
        self.say_at(c, id.cloned(), line, Path::default(), Fault::KindNotServed { known });
        for (below, field) in known.fields() {
            self.field(c, id, below, field);
        }
    }

    /// A field of a table, where the object has it.
    fn field(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, below: &str, field: &'static Field) {
        let mut found = places(c.tree, below, field.path, MAX_PLACES).into_iter();
        let Some(first) = found.next() else { return };
        let line = c.tree.line_of(&first);
        let mut also: Vec<u32> = found.map(|p| c.tree.line_of(&p)).filter(|l| *l > line).collect();
        also.dedup();
        self.say(c, id.cloned(), first, Fault::Field { field, also });
    }

    /// The pod template of a workload kind: not served, but there are notices about its keys.
    pub(crate) fn template(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, at: &str) {
        let Some(place) = places(c.tree, at, "metadata", 1).pop() else { return };
        let Some(meta) = c.tree.at(&place) else { return };
        self.keys(c, id, &place, meta, On::Template);
        let spec = places(c.tree, at, "spec", 1).pop().and_then(|p| c.tree.at(&p));
        let text =
            |tree: Option<&Tree>, name: &str| tree.and_then(|t| t.field(name)).and_then(Tree::text).map(str::to_owned);
        let own = c.tree.field("metadata");
        let metadata = shapes::ObjectMeta {
            name: text(own, "name").unwrap_or_default(),
            namespace: text(own, "namespace"),
            ..from_tree(meta).unwrap_or_default()
        };
        // Also of a broken one: its labels and the identity of its pods.
        let rest =
            || shapes::PodSpec { service_account_name: text(spec, "serviceAccountName"), ..shapes::PodSpec::default() };
        let spec = spec.and_then(|s| from_tree(s).ok()).unwrap_or_else(rest);
        let shape = shapes::Pod { metadata, spec, status: shapes::PodStatus::default() };
        let bare = || convert::pod(&shapes::Pod { spec: rest(), ..shape.clone() });
        self.out.templates.extend(convert::pod(&shape).or_else(|_| bare()).ok().map(|pod| pod.object));
    }

    /// Labels and annotations of an object that is served.
    pub(crate) fn metadata(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, kind: Kind) {
        for FieldFault { field, fault } in of_metadata(kind, c.tree) {
            self.say(c, id.cloned(), field, fault);
        }
    }

    fn keys(&mut self, c: &Candidate<'_>, id: Option<&ObjectId>, place: &Path, meta: &Tree, on: On) {
        for FieldFault { field, fault } in of_keys(place, meta, on) {
            self.say(c, id.cloned(), field, fault);
        }
    }

    /// A mapping that is not an object.
    pub(crate) fn no_object(&mut self, c: &Candidate<'_>) {
        let has = |field: &str| c.tree.field(field).is_some();
        let looks = if has("dashboard") || has("panels") {
            Some("a Grafana dashboard")
        } else if has("global") || has("meshConfig") || has("pilot") {
            Some("values of Istio's chart")
        } else {
            None
        };
        self.say(c, None, Path::default(), Fault::NoObject { looks });
        for field in CHART_VALUES.iter().flat_map(|f| f.iter()) {
            self.field(c, None, "", field);
        }
    }

    /// Metrics of rules and dashboards that do not exist.
    pub(crate) fn series(&mut self, c: &Candidate<'_>, document: &Document<'_>) {
        let kind = c.tree.field("kind").and_then(Tree::text);
        if !matches!(kind, None | Some("PrometheusRule" | "ConfigMap" | "GrafanaDashboard" | "ServiceMonitor")) {
            return;
        }
        let id = kind.and_then(|kind| crate::manifest::identify(kind, c.tree));
        for (line, name, says) in series::mentioned(document.text).into_iter().take(MAX_SERIES) {
            let line = Some(document.text_line.saturating_add(line));
            self.say_at(c, id.clone(), line, Path::default(), Fault::Series { found: name.into(), says });
        }
    }
}

/// Labels and annotations of a served object that mean something else here than their author may think.
pub(crate) fn of_metadata(kind: Kind, tree: &Tree) -> Vec<FieldFault> {
    let on = match kind {
        Kind::Pod => On::Pod,
        Kind::Namespace => On::Namespace,
        Kind::Service => On::Target,
        Kind::Node
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::RequestAuthentication
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::ReferenceGrant
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::MeshConfig => return Vec::new(),
    };
    let place: Path = [Segment::Field("metadata".into())].into_iter().collect();
    tree.field("metadata").map(|meta| of_keys(&place, meta, on)).unwrap_or_default()
}

fn of_keys(place: &Path, meta: &Tree, on: On) -> Vec<FieldFault> {
    let mut found = Vec::new();
    for map in ["labels", "annotations"] {
        let Some(Tree { value: Value::Map(entries), .. }) = meta.field(map) else { continue };
        for (key, value) in entries {
            let Some(field) = metadata::meaning(on, &key.name, value.text()) else { continue };
            let steps = [Segment::Field(map.into()), Segment::Field(key.name.as_str().into())];
            let path = steps.into_iter().collect::<Path>().inside(place);
            found.push(FieldFault { field: path, fault: Fault::Field { field, also: Vec::new() } });
        }
    }
    found
}
