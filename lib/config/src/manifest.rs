//! One file: the objects that it claims, good or bad, and its problems. A pure function of the file's bytes; the
//! treatment of bad objects is the ledger's business.

use std::{collections::BTreeMap, sync::Arc};

use underpass_core::{
    Kind, ObjectKey, ObjectName,
    objects::{MESH_CONFIG, Pod, WAYPOINT_CLASSES},
};
use underpass_door::{Observation, Source, Strictness};

use crate::{
    Fault, ObjectId, Path, Problem, Segment, Severity,
    convert::{self, observe, stand_in},
    header::Header,
    hint::nearest,
    kinds::{self, Class},
    path::At,
    shapes,
    yaml::{self, Document, Tree, Value},
};

/// The longest name that Kubernetes knows: a DNS name.
const MAX_NAME_CHARS: usize = 253;
/// The key of `metadata` that tells one object of a name from another.
const NAMESPACE: &str = "namespace";
/// The most problems of one object that get a line each.
pub(crate) const MAX_FAULTS: usize = 32;

/// An object that stands in a file, good or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The object.
    pub key: ObjectKey,
    /// Its document, from 1.
    pub document: u32,
    /// Its line, from 1.
    pub line: u32,
    /// Its path in the document; empty, but in a list.
    pub place: Path,
    /// Its state: this object, or that it cannot be served; a problem has the reason.
    pub observed: Observation,
}

/// The content of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// The objects it is about, in order.
    pub claims: Vec<Claim>,
    /// Its problems and notices, in order.
    pub problems: Vec<Problem>,
    /// The counts of objects of other kinds, by `apiVersion kind`.
    pub ignored: BTreeMap<String, usize>,
    /// Pods that its workload kinds will make, as far as they are known, under the names of these. None of them is
    /// served; they keep `underpass analyze` from missing pods that are only not there yet.
    pub templates: Vec<Pod>,
    /// Service accounts, which are not served: their pods may come later, or from elsewhere.
    pub accounts: Vec<ObjectName>,
    /// A part of it could not even be attributed to an object.
    pub has_unreadable: bool,
}

/// Reads a file. `file` is its name in problems.
#[must_use]
pub fn read(file: &Arc<str>, bytes: &[u8]) -> Manifest {
    let mut reader = Reader { file, out: Manifest::default() };
    match yaml::documents(bytes) {
        Err(fault) => {
            reader.out.problems.push(Problem::new(Source::file(file), fault.clone()));
            reader.out.has_unreadable = true;
            reader.policies_of(&String::from_utf8_lossy(bytes), &fault);
        }
        // Nothing is what a file says while it is written in place, and no wish to delete.
        Ok(documents) if documents.iter().all(|d| matches!(d.tree, Ok(None))) => {
            reader.out.problems.push(Problem::new(Source::file(file), Fault::Empty { gave: false }));
            reader.out.has_unreadable = true;
        }
        Ok(documents) => documents.iter().for_each(|d| reader.document(d)),
    }
    reader.out
}

/// A file that could not be read at all.
#[must_use]
pub fn unreadable(file: &Arc<str>, fault: Fault) -> Manifest {
    Manifest { problems: vec![Problem::new(Source::file(file), fault)], has_unreadable: true, ..Manifest::default() }
}

pub(crate) struct Reader<'a> {
    file: &'a Arc<str>,
    pub(crate) out: Manifest,
}

/// A mapping that should be an object: where it stands, and what a list around it says about it.
pub(crate) struct Candidate<'t> {
    pub(crate) tree: &'t Tree,
    pub(crate) outer: Path,
    document: u32,
    api_version: Option<&'t str>,
    kind: Option<&'t str>,
}

impl Candidate<'_> {
    fn line(&self) -> Option<u32> {
        Some(self.tree.line).filter(|l| *l > 0)
    }
}

impl Reader<'_> {
    fn document(&mut self, document: &Document<'_>) {
        match &document.tree {
            Ok(None) => {}
            Ok(Some(tree)) => {
                let (outer, number) = (Path::default(), document.number);
                let candidate = Candidate { tree, outer, document: number, api_version: None, kind: None };
                self.object(&candidate);
                self.series(&candidate, document);
            }
            Err(e) => {
                self.out.has_unreadable = true;
                let seen = Header::of(document.text);
                let source = self.source(document.number, e.line.or(Some(document.line)));
                let reason = if document.text.contains("{{") { Fault::Template } else { e.clone().into() };
                let object = seen.as_ref().map(Header::id);
                self.out.problems.push(Problem { object, ..Problem::new(source, reason) });
                self.refuse(document.number, document.line, Path::default(), seen.and_then(|s| s.key()), &Tree::NULL);
            }
        }
    }

    /// The policies of a file that cannot be read, each with a problem of its own.
    fn policies_of(&mut self, text: &str, fault: &Fault) {
        for (number, line, text) in yaml::texts(text) {
            let Some(seen) = Header::of(text) else { continue };
            if self.refuse(number, line, Path::default(), seen.key(), &Tree::NULL) {
                let source = self.source(number, Some(line));
                self.out.problems.push(Problem { object: Some(seen.id()), ..Problem::new(source, fault.clone()) });
            }
        }
    }

    /// An unreadable security policy, known by its kind and name, is claimed by a stand-in that refuses, as is a policy
    /// that can be read and is broken.
    fn refuse(&mut self, document: u32, line: u32, place: Path, key: Option<ObjectKey>, tree: &Tree) -> bool {
        let Some((key, object)) = key.and_then(|k| stand_in(k.kind, k.name.clone(), tree).map(|o| (k, o))) else {
            return false;
        };
        self.out.claims.push(Claim {
            key,
            document,
            line,
            place,
            observed: Observation::Bad { stand_in: Some(object) },
        });
        true
    }

    fn object(&mut self, c: &Candidate<'_>) {
        if !matches!(c.tree.value, Value::Map(_)) {
            self.out.has_unreadable = true;
            return self.say(c, None, Path::default(), Fault::NotAMapping { found: c.tree.value.describe() });
        }
        let said = |field: &str| c.tree.field(field).and_then(Tree::text).filter(|t| !t.is_empty());
        let (api_version, kind) = (said("apiVersion").or(c.api_version), said("kind").or(c.kind));
        let id = kind.and_then(|kind| identify(kind, c.tree));
        let has = |field: &str| c.tree.field(field).is_some();
        if !["apiVersion", "kind", "metadata", "spec"].into_iter().any(has) && c.outer.is_empty() {
            // Half an edit, or another kind of file: what this one gave before may still be meant.
            self.out.has_unreadable = true;
            return self.no_object(c);
        }
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let missing = if api_version.is_none() { "apiVersion" } else { "kind" };
            let meant = kind.and_then(|kind| kinds::meant(api_version, kind));
            return self.mistake(c, id, meant, missing, Fault::Missing);
        };
        match kinds::classify(api_version, kind) {
            Class::Served(Kind::Gateway) if !is_waypoint(c.tree) => {
                kinds::other_gateway().into_iter().for_each(|known| self.known(c, id.as_ref(), api_version, known));
            }
            Class::Served(Kind::MeshConfig) if metadata(c.tree, "name") != Some(MESH_CONFIG) => {
                self.ignore(api_version, kind);
            }
            Class::Served(kind) => self.served(c, kind, id),
            Class::List(item) => self.list(c, item.as_deref().map(|item| (api_version, item))),
            Class::Known(known) => self.known(c, id.as_ref(), api_version, known),
            Class::Template(at) => {
                self.ignore(api_version, kind);
                self.template(c, id.as_ref(), at);
            }
            Class::Foreign(fault) => self.say(c, id, At::ROOT.field("kind").path(), fault),
            Class::Other => {
                if (api_version, kind) == ("v1", "ServiceAccount") {
                    // They are named as pods are.
                    self.out.accounts.extend(key(Kind::Pod, c.tree).map(|key| key.name));
                }
                self.ignore(api_version, kind);
            }
            Class::Mistake(field, fault, meant) => self.mistake(c, id, meant, field, fault),
        }
    }

    /// A field without which the kind of an object is unknown, and the kind that was probably meant.
    fn mistake(
        &mut self,
        c: &Candidate<'_>,
        id: Option<ObjectId>,
        meant: Option<Kind>,
        field: &'static str,
        fault: Fault,
    ) {
        self.out.has_unreadable = true;
        let id = meant.map_or(id, |kind| identify(kind.as_str(), c.tree));
        self.say(c, id, At::ROOT.field(field).path(), fault);
        let key = meant.and_then(|kind| key(kind, c.tree));
        self.refuse(c.document, c.tree.line, c.outer.clone(), key, c.tree);
    }

    fn list(&mut self, c: &Candidate<'_>, item: Option<(&str, &str)>) {
        let Some(items) = c.tree.field("items") else {
            // Cut short, or misspelled: an empty list is written as one.
            self.out.has_unreadable = true;
            return self.say(c, None, At::ROOT.field("items").path(), Fault::Missing);
        };
        if items.value == Value::Null {
            return;
        }
        let Value::List(trees) = &items.value else {
            self.out.has_unreadable = true;
            let (found, expected) = (items.value.describe().into(), "a list".into());
            return self.say(c, None, At::ROOT.field("items").path(), Fault::WrongType { found, expected });
        };
        for (i, tree) in trees.iter().enumerate() {
            let outer: Path = [Segment::Field("items".into()), Segment::Index(i)].into_iter().collect();
            let (outer, document) = (outer.inside(&c.outer), c.document);
            let (api_version, kind) = item.unzip();
            self.object(&Candidate { tree, outer, document, api_version, kind });
        }
    }

    fn served(&mut self, c: &Candidate<'_>, kind: Kind, id: Option<ObjectId>) {
        let key = key(kind, c.tree);
        let (observed, faults) = observe(kind, key.as_ref().map(|k| &k.name), c.tree, Strictness::File);
        self.metadata(c, id.as_ref(), kind);
        let count = faults.len().saturating_sub(MAX_FAULTS);
        for f in faults.into_iter().take(MAX_FAULTS) {
            self.say(c, id.clone(), f.field, f.fault);
        }
        if count > 0 {
            self.say(c, id, Path::default(), Fault::More { count });
        }
        match key {
            Some(key) => {
                let (document, line) = (c.document, c.tree.line);
                self.out.claims.push(Claim { key, document, line, place: c.outer.clone(), observed });
            }
            None => self.out.has_unreadable = true,
        }
    }

    fn ignore(&mut self, api_version: &str, kind: &str) {
        let count = self.out.ignored.entry(format!("{api_version} {kind}")).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn say(&mut self, c: &Candidate<'_>, object: Option<ObjectId>, field: Path, reason: Fault) {
        let line = match &reason {
            Fault::DuplicateKey { line, .. } => Some(*line),
            _ => Some(c.tree.line_of(&field)).filter(|l| *l > 0).or_else(|| c.line()),
        };
        self.say_at(c, object, line, field, reason);
    }

    pub(crate) fn say_at(
        &mut self,
        c: &Candidate<'_>,
        object: Option<ObjectId>,
        line: Option<u32>,
        field: Path,
        reason: Fault,
    ) {
        let (source, field) = (self.source(c.document, line), field.inside(&c.outer));
        self.out.problems.push(Problem { source, object, field, reason, effect: None });
    }

    fn source(&self, document: u32, line: Option<u32>) -> Source {
        Source::File { file: Arc::clone(self.file), document: Some(document), line }
    }
}

/// A Gateway of a waypoint's class.
fn is_waypoint(tree: &Tree) -> bool {
    let class = tree.field("spec").and_then(|spec| spec.field("gatewayClassName")).and_then(Tree::text);
    class.is_some_and(|class| WAYPOINT_CLASSES.contains(&class))
}

fn metadata<'t>(tree: &'t Tree, field: &str) -> Option<&'t str> {
    tree.field("metadata")?.field(field)?.text().filter(|t| !t.is_empty())
}

/// The namespace, also under a misspelled key, which is an error of the object.
fn namespace(tree: &Tree) -> Option<&str> {
    let misspelled = || {
        let Value::Map(entries) = &tree.field("metadata")?.value else { return None };
        let (_, value) = entries.iter().find(|(key, _)| nearest(&key.name, [NAMESPACE]).is_some())?;
        value.text()
    };
    metadata(tree, NAMESPACE).or_else(misspelled)
}

/// The key, if the name is valid; also of an object with other broken fields.
fn key(kind: Kind, tree: &Tree) -> Option<ObjectKey> {
    named(kind, namespace(tree), metadata(tree, "name")?)
}

pub(crate) fn named(kind: Kind, namespace: Option<&str>, name: &str) -> Option<ObjectKey> {
    let (name, namespace) = (name.to_owned(), namespace.map(str::to_owned));
    let meta = shapes::ObjectMeta { name, namespace, ..shapes::ObjectMeta::default() };
    let name = convert::object_name(kind, &meta, &mut convert::Faults::default())?;
    Some(ObjectKey::new(kind, name))
}

/// Kind and name for people, of any kind, valid or not.
pub(crate) fn identify(kind: &str, tree: &Tree) -> Option<ObjectId> {
    let name = metadata(tree, "name")?;
    Some(id(kind, namespace(tree), name))
}

pub(crate) fn id(kind: &str, namespace: Option<&str>, name: &str) -> ObjectId {
    // No valid one is longer; one that is not valid is only for the message.
    let short = |text: &'_ str| -> Arc<str> { text.chars().take(MAX_NAME_CHARS).collect::<String>().into() };
    let (kind, namespace, name) = (short(kind), namespace.map(short), short(name));
    let name = match namespace {
        _ if kinds::is_cluster_scoped(&kind) => ObjectName::cluster(name),
        Some(namespace) => ObjectName::new(namespace, name),
        None => ObjectName::new("default", name),
    };
    ObjectId { kind, name }
}

impl Manifest {
    /// Errors only.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity() == Severity::Error)
    }
}
