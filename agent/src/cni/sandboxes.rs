//! The sandboxes that the runtime has named. A record of each is on the node, from before the plugin is answered until the sandbox
//! ends: an agent that comes between that and the sandbox's first process knows whose its network namespace is.
//!
//! What must hold: a record whose namespace is gone, or is another one by now (after a reboot), is none. The agent opens it by the
//! runtime's path, which is to be the same in its container.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use underpass_abi::Cookie;
use underpass_cni::protocol::{PodName, Sandbox};
use underpass_core::{
    Few, ObjectName,
    enrol::{EnrolmentReason, decide},
    objects::Pod,
    resolve::{Local, LocalPod, Sources},
    world::MeshSettings,
};
use underpass_net::netns::Netns;

/// A sandbox with its namespace.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its container.
    pub(crate) container: String,
    /// Its pod.
    pub(crate) pod: PodName,
    /// Its addresses.
    pub(crate) addresses: Few<IpAddr>,
    /// Its network namespace.
    pub(crate) netns: Arc<Netns>,
}

/// The folder of the records, in that of the agent's state.
pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("sandboxes")
}

/// The files in the folder of the records. None where there is no folder.
pub(crate) fn records(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

impl Named {
    /// The cookie of its namespace.
    pub(crate) fn cookie(&self) -> Cookie {
        Cookie(self.netns.cookie())
    }

    /// Whether its pod, with these addresses, is to be in the mesh; none where that is not known: the object is missing or another's,
    /// or its namespace would decide and is missing.
    pub(crate) fn is_wanted(&self, sources: &Sources, settings: &MeshSettings) -> Option<bool> {
        let object = self.object(sources)?;
        let namespace = sources.namespace(object.name.namespace()).map(|namespace| &**namespace);
        let placed = Pod { addresses: self.addresses.clone(), ..Pod::clone(object) };
        let decided = decide(&placed, namespace, settings);
        (namespace.is_some() || decided.because() != EnrolmentReason::NoKey).then_some(decided.is_enrolled())
    }

    /// The name of its pod.
    pub(crate) fn name(&self) -> ObjectName {
        ObjectName::new(&self.pod.namespace, &self.pod.name)
    }

    /// The object of its pod.
    pub(crate) fn object<'a>(&self, sources: &'a Sources) -> Option<&'a Arc<Pod>> {
        sources.pod(&self.name()).filter(|object| *object.uid == *self.pod.uid)
    }
}

/// A record on the node.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    sandbox: Sandbox,
    cookie: u64,
}

/// The sandboxes of a node, by the uid of their pod: the newest of each.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    folder: PathBuf,
    all: BTreeMap<String, Named>,
}

impl Sandboxes {
    /// Those that are on record in this folder.
    pub(crate) fn load(folder: PathBuf) -> Self {
        let mut all = BTreeMap::new();
        let found = records(&folder).unwrap_or_else(|error| {
            tracing::error!(%error, folder = %folder.display(), "reading the records of sandboxes failed");
            Vec::new()
        });
        for path in found {
            match load(&path) {
                Ok(Some(named)) => drop(all.insert(named.pod.uid.clone(), named)),
                Ok(None) => drop(fs::remove_file(&path)), // it fails where it is gone
                Err(error) => {
                    tracing::warn!(%error, file = %path.display(), "a record of a sandbox cannot be read");
                }
            }
        }
        Self { folder, all }
    }

    /// Remembers a sandbox, also across a restart. An earlier one of the same pod is forgotten.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) fn add(&mut self, sandbox: Sandbox, netns: Netns) -> io::Result<Named> {
        let path = self.path(&sandbox.container)?;
        fs::create_dir_all(&self.folder)?;
        let record = Record { cookie: netns.cookie(), sandbox };
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_vec(&record)?)?;
        fs::rename(&aside, path)?;
        let Sandbox { container, pod, addresses, .. } = record.sandbox;
        let addresses = first_of_each_family(&addresses);
        let named = Named { container, pod, addresses, netns: Arc::new(netns) };
        let earlier = self.all.insert(named.pod.uid.clone(), named.clone());
        if let Some(earlier) = earlier.filter(|earlier| earlier.container != named.container) {
            self.forget_record(&earlier.container);
        }
        Ok(named)
    }

    /// Forgets a sandbox.
    pub(crate) fn remove(&mut self, container: &str) -> Option<Named> {
        self.forget_record(container);
        let uid = self.all.values().find(|named| named.container == container)?.pod.uid.clone();
        self.all.remove(&uid)
    }

    fn forget_record(&self, container: &str) {
        if let Ok(path) = self.path(container) {
            let _ = fs::remove_file(path); // it fails where there is none
        }
    }

    /// Forgets all sandboxes but these; those that it forgot.
    pub(crate) fn keep(&mut self, containers: &[String]) -> Vec<Named> {
        let all = self.all.values().map(|named| named.container.clone());
        let gone: Vec<_> = all.filter(|container| !containers.contains(container)).collect();
        gone.iter().filter_map(|container| self.remove(container)).collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Named> {
        self.all.values()
    }

    /// Forgets those whose record is gone: another agent of this node has.
    pub(crate) fn forget_unrecorded(&mut self) -> Vec<Named> {
        let is_gone = |named: &&Named| self.path(&named.container).is_ok_and(|path| !path.exists());
        let gone: Vec<_> = self.all.values().filter(is_gone).cloned().collect();
        gone.iter().for_each(|named| drop(self.all.remove(&named.pod.uid)));
        gone
    }

    /// The pods of this node, where a pod whose object has no address yet, or one of an earlier sandbox, has those of its sandbox: a
    /// kubelet tells the addresses of a sandbox only once a container has started in it.
    pub(crate) fn placed(
        &self,
        local: &Arc<[LocalPod]>,
        sources: &Sources,
        settings: &MeshSettings,
    ) -> Arc<[LocalPod]> {
        let sandbox = |pod: &LocalPod| {
            let named = self.all.get(&*pod.pod_uid)?;
            let told = !pod.addresses.is_empty() && pod.addresses.iter().all(|ip| named.addresses.contains(ip));
            if told {
                return None;
            }
            named.is_wanted(sources, settings)?.then_some(named)
        };
        if self.all.is_empty() || !local.iter().any(|pod| sandbox(pod).is_some()) {
            return Arc::clone(local);
        }
        let place = |pod: &LocalPod| match sandbox(pod) {
            Some(named) => LocalPod { addresses: named.addresses.clone(), local: Local::Enrolled, ..pod.clone() },
            None => pod.clone(),
        };
        local.iter().map(place).collect()
    }

    /// The file of a container's record. A runtime names its containers by letters and digits.
    fn path(&self, container: &str) -> io::Result<PathBuf> {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if container.is_empty() || container.starts_with('.') || !container.chars().all(safe) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{container:?} is no name of a container"),
            ));
        }
        Ok(self.folder.join(format!("{container}.json")))
    }
}

/// A sandbox on record; none where its namespace is gone.
fn load(path: &Path) -> io::Result<Option<Named>> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(None); // half-written
    }
    let Record { sandbox, cookie } = serde_json::from_slice(&fs::read(path)?)?;
    if !sandbox.netns.exists() {
        return Ok(None);
    }
    let netns = Netns::open(&sandbox.netns).map_err(io::Error::other)?;
    if netns.cookie() != cookie {
        return Ok(None);
    }
    let Sandbox { container, pod, addresses, .. } = sandbox;
    let addresses = first_of_each_family(&addresses);
    Ok(Some(Named { container, pod, addresses, netns: Arc::new(netns) }))
}

/// A pod has one address of each family at most; its network may give its sandbox more (Kubernetes' `status.podIPs`).
fn first_of_each_family(addresses: &[IpAddr]) -> Few<IpAddr> {
    let first = |is: fn(&IpAddr) -> bool| addresses.iter().position(is);
    let mut firsts: Vec<_> = [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)].into_iter().flatten().collect();
    firsts.sort_unstable();
    firsts.into_iter().filter_map(|at| addresses.get(at).copied()).collect()
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::{ambient, labels, model, namespace, pod};

    use super::*;

    fn of(container: &str, object: &Pod, addresses: &[&str], netns: &str) -> Sandbox {
        let (namespace, name) = (object.name.namespace().to_owned(), object.name.name().to_owned());
        let pod = PodName { namespace, name, uid: object.uid.to_string() };
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Sandbox { container: container.into(), pod, netns: netns.into(), addresses }
    }

    #[test]
    fn a_record_counts_while_its_namespace_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let own = || Netns::own().unwrap();
        let path = format!("/proc/{}/ns/net", std::process::id());
        let (a, b) = (ambient("default/a", "", ""), ambient("default/b", "", ""));
        let mut sandboxes = Sandboxes::load(folder.path().join("sandboxes"));
        sandboxes.add(of("one", &a, &["10.0.0.1"], &path), own()).unwrap();
        sandboxes.add(of("gone", &b, &["10.0.0.2"], "/nonexistent"), own()).unwrap();
        for bad in ["", "../x", ".x", "a/b"] {
            assert!(sandboxes.add(of(bad, &a, &[], &path), own()).is_err(), "{bad}");
        }
        let uids = |sandboxes: &Sandboxes| sandboxes.all().map(|named| named.pod.name.clone()).collect::<Vec<_>>();
        assert_eq!(uids(&sandboxes), ["a", "b"]);
        let load = || Sandboxes::load(folder.path().join("sandboxes"));
        assert_eq!(uids(&load()), ["a"]);
        // The next sandbox of the same pod.
        let mut sandboxes = load();
        sandboxes.add(of("two", &a, &["10.0.0.3"], &path), own()).unwrap();
        let [named] = &load().all().cloned().collect::<Vec<_>>()[..] else { panic!("one alone") };
        assert_eq!(*named.addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        assert!(sandboxes.remove("one").is_none());
        // Another agent has forgotten it.
        let mut other = load();
        assert!(other.forget_unrecorded().is_empty());
        fs::rename(folder.path().join("sandboxes/two.json"), folder.path().join("aside")).unwrap();
        assert_eq!((other.forget_unrecorded().len(), other.all().count()), (1, 0));
        fs::rename(folder.path().join("aside"), folder.path().join("sandboxes/two.json")).unwrap();
        assert_eq!(sandboxes.keep(&["two".into()]).len(), 0);
        assert_eq!(sandboxes.keep(&[]).len(), 1);
        assert_eq!(uids(&load()), Vec::<String>::new());
    }

    #[test]
    fn a_pod_without_an_address_has_those_of_its_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let check = |object: Pod, uid: &str, expected: (Local, &[&str])| {
            let mut sandboxes = Sandboxes::load(folder.path().to_owned());
            let mut sandbox = of("c", &object, &["10.0.0.7", "fd00::7"], "/nonexistent");
            sandbox.pod.uid = uid.into();
            sandboxes.add(sandbox, Netns::own().unwrap()).unwrap();
            let model = model([object.clone().into(), namespace("default").into()]);
            let local: Arc<[LocalPod]> = model.local_pods("node-1").into();
            let settings = MeshSettings::default();
            let placed = sandboxes.placed(&local, model.sources(), &settings);
            let [pod] = &placed[..] else { panic!("one pod") };
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            assert_eq!((pod.local, addresses), (expected.0, expected.1.iter().map(|&ip| ip.into()).collect()));
            assert_eq!(Arc::ptr_eq(&placed, &local), placed[..] == local[..]);
        };
        let uid = |object: &Pod| object.uid.to_string();
        let (wanted, unwanted) = (ambient("default/a", "", ""), pod("default/a", ""));
        check(wanted.clone(), &uid(&wanted), (Local::Enrolled, &["10.0.0.7", "fd00::7"]));
        check(wanted.clone(), "another", (Local::Unknown, &[]));
        check(unwanted.clone(), &uid(&unwanted), (Local::Unknown, &[]));
        // What a kubelet has told of it: in another order, or of one family alone.
        for told in ["fd00::7 10.0.0.7", "10.0.0.7"] {
            let known = ambient("default/a", told, "");
            let told: Vec<_> = told.split(' ').collect();
            check(known.clone(), &uid(&known), (Local::Enrolled, &told));
        }
        // Of an earlier sandbox.
        let stale = ambient("default/a", "10.0.0.1", "");
        check(stale.clone(), &uid(&stale), (Local::Enrolled, &["10.0.0.7", "fd00::7"]));
        check(stale, "another", (Local::Enrolled, &["10.0.0.1"]));
    }

    #[test]
    fn what_would_decide_must_be_known() {
        let named = |object: &Pod| {
            let sandbox = of("c", object, &["10.0.0.7"], "/nonexistent");
            let netns = Arc::new(Netns::own().unwrap());
            Named { container: "c".into(), pod: sandbox.pod, addresses: sandbox.addresses.into(), netns }
        };
        let check = |object: Pod, of_pods: Option<&str>, expected: Option<bool>| {
            let namespace = of_pods.map(|text| {
                let mut of_pods = namespace("default");
                of_pods.labels = labels(text);
                of_pods.into()
            });
            let model = model([object.clone().into()].into_iter().chain(namespace));
            let wanted = named(&object).is_wanted(model.sources(), &MeshSettings::default());
            assert_eq!(wanted, expected, "{object:?} {of_pods:?}");
        };
        let silent = || pod("default/a", "");
        check(silent(), None, None);
        check(silent(), Some(""), Some(false));
        check(silent(), Some("istio-injection=enabled"), Some(true));
        check(ambient("default/a", "", ""), None, Some(true));
        let out = || Pod { labels: labels("istio.io/dataplane-mode=none"), ..silent() };
        check(out(), None, Some(false));
        check(out(), Some("istio-injection=enabled"), Some(false));
    }

    #[test]
    fn one_address_of_each_family() {
        let check = |all: &[&str], expected: &[&str]| {
            let parse = |text: &[&str]| text.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<Vec<_>>();
            assert_eq!(*first_of_each_family(&parse(all)), *parse(expected), "{all:?}");
        };
        check(&[], &[]);
        check(&["fd00::1", "10.0.0.1"], &["fd00::1", "10.0.0.1"]);
        check(&["10.0.0.1", "10.9.0.1", "fd00::1", "fd00::2"], &["10.0.0.1", "fd00::1"]);
    }
}
