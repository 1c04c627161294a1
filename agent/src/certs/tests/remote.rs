//! A control plane as CA: what it certifies, and whose roots are trusted.

use underpass_identity::{
    rotation::values::{Origin, Values},
    testing::TestCa,
};

use super::*;

/// A control plane's CA, and what it does with requests.
struct ControlPlane {
    authority: watch::Receiver<Authority>,
    does: watch::Receiver<Does>,
}

#[derive(Clone, Copy)]
enum Does {
    Issue,
    Deny,
    BeAway,
    IssueAnother,
}

impl Certify for ControlPlane {
    fn certify(&self, wanted: &Identity, request: String, lifetime: Duration) -> Certifying {
        let issue = |identity: &Identity| {
            let der = underpass_identity::request::from_pem(&request).unwrap();
            let authority = self.authority.borrow();
            let chain = authority.issue(&der, identity, lifetime, SystemTime::now()).unwrap();
            underpass_identity::chain::Answer { chain, roots: authority.root_certificates() }.to_pem()
        };
        let answer = match *self.does.borrow() {
            Does::Issue => Ok(issue(wanted)),
            Does::IssueAnother => Ok(issue(&identity("another"))),
            Does::Deny => Err(Refused::Denied("no pod of it runs there".to_owned())),
            Does::BeAway => Err(Refused::Unreachable("connection refused".to_owned())),
        };
        Box::pin(async { answer })
    }
}

#[test]
fn a_control_plane_certifies_what_it_is_asked_for_and_its_roots_are_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let location = location(&folder);
    let authority = authority(&location.directory);
    let (file, root) = (folder.path().join("root-cert.pem"), authority.root_certificates()[0].clone());
    // Mounted is another one, as in the middle of a rotation.
    let other = TestCa::new("other").root();
    fs::write(&file, underpass_identity::certificate::pem(&other).as_bytes()).unwrap();
    let (does, doing) = watch::channel(Does::Issue);
    let certify = Arc::new(ControlPlane { authority: watch::channel(authority).1, does: doing });
    let ready = Readiness::new();
    let gate = ready.gate("certificates", "not open yet");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_progress, stream) = watch::channel(underpass_xds::client::Progress::default());
        let ca = Ca::Remote(Remote { roots: file.clone(), certify, stream }, read_roots(&file).unwrap());
        let mut certs = Certs::start(ca, Vec::new(), Duration::from_secs(3600), gate).unwrap();
        let (published, status) = (certs.subscribe(), certs.status());
        let names: Vec<Identity> = (0..20).map(|n| identity(&format!("a{n}"))).collect();
        let count = || names.iter().filter(|name| published.borrow().own.contains_key(*name)).count();
        certs.want(&names.iter().cloned().collect());
        until(&mut certs, "issued", || count() == names.len()).await;
        assert_eq!(published.borrow().roots.certificates(), [root.clone(), other.clone()]);
        // What the file no longer has is not trusted any more; what the CA answered is.
        fs::write(&file, underpass_identity::certificate::pem(&root).as_bytes()).unwrap();
        until(&mut certs, "roots", || *published.borrow().roots.certificates() == [root.clone()]).await;

        let late = identity("late");
        let told = || {
            let all = status.borrow().certificates.clone();
            all.iter()
                .find(|one| one.identity == late.to_string())
                .and_then(|one| one.error.clone())
                .unwrap_or_default()
        };
        does.send_replace(Does::Deny);
        let all: BTreeSet<_> = names.iter().cloned().chain([late.clone()]).collect();
        certs.want(&all);
        until(&mut certs, "denied", || told().contains("no pod of it runs there")).await;
        assert!(status.borrow().authority.reachable);
        does.send_replace(Does::IssueAnother);
        until(&mut certs, "refused", || told().contains("/sa/another instead")).await;
        let serials = || -> Vec<_> { names.iter().map(|name| published.borrow().own[name].serial().clone()).collect() };
        let before = serials();
        does.send_replace(Does::BeAway);
        until(&mut certs, "away", || !status.borrow().authority.reachable).await;
        does.send_replace(Does::Issue);
        until(&mut certs, "back", || published.borrow().own.contains_key(&late)).await;
        assert!(status.borrow().authority.reachable && ready.waiting().is_empty());
        assert_eq!(serials(), before, "one that is valid is not asked for again because the CA was away");
    });
}

/// An agent hears of each step by the file alone, which comes late.
#[test]
fn a_control_plane_exchanges_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let (file, domain, now) = (folder.path().join("root-cert.pem"), TrustDomain::default(), SystemTime::now());
    let origin = Origin { name: "Secret mesh/underpass-ca", trust_domain: &domain, since: now };
    let first = Values::alone(Authority::make(&domain, now).unwrap());
    let prepared = first.clone().prepare(origin, now).unwrap();
    let activated = prepared.clone().activate(origin, now).unwrap();
    let retired = activated.clone().retire(origin, now, Duration::ZERO).unwrap();
    let of = |values: &Values| Authority::from_values("ca", values, &domain, now).unwrap();
    let roots = |values: &Values| of(values).root_certificates();
    let mount = |values: &Values| {
        let text: String =
            roots(values).iter().map(|root| underpass_identity::certificate::pem(root).to_string()).collect();
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    mount(&first);
    let (ca, authority) = watch::channel(of(&first));
    let certify = Arc::new(ControlPlane { authority, does: watch::channel(Does::Issue).1 });
    let gate = Readiness::new().gate("certificates", "not open yet");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_progress, stream) = watch::channel(underpass_xds::client::Progress::default());
        let remote = Ca::Remote(Remote { roots: file.clone(), certify, stream }, read_roots(&file).unwrap());
        let mut certs = Certs::start(remote, Vec::new(), Duration::from_secs(3600), gate).unwrap();
        let (published, status) = (certs.subscribe(), certs.status());
        let names: BTreeSet<Identity> = ["a", "b"].map(identity).into();
        certs.want(&names);
        let signed_by = |values: &Values| {
            let serial = of(values).certificate().serial().to_string();
            let all = &status.borrow().certificates;
            all.len() == 2 && all.iter().all(|own| own.issuer.as_ref() == Some(&serial))
        };
        let trusts = |values: &Values| {
            let (trusted, wanted) = (published.borrow().roots.certificates().to_vec(), roots(values));
            trusted.len() == wanted.len() && wanted.iter().all(|root| trusted.contains(root))
        };
        until(&mut certs, "issued", || signed_by(&first)).await;
        let serials = || names.iter().map(|name| published.borrow().own[name].serial().clone()).collect::<Vec<_>>();
        let before = serials();

        ca.send_replace(of(&prepared));
        mount(&prepared);
        until(&mut certs, "both are trusted", || trusts(&prepared)).await;
        assert_eq!(serials(), before, "nothing is signed anew");

        ca.send_replace(of(&activated));
        mount(&activated);
        until(&mut certs, "the new one signs", || signed_by(&activated)).await;
        assert!(trusts(&activated));

        // The last answer has both, and so has the next one, of a replica that hears of it later.
        mount(&retired);
        until(&mut certs, "the old one is not trusted", || trusts(&retired)).await;
        assert!(signed_by(&retired));
        let late = identity("late");
        certs.want(&[late.clone()].into());
        until(&mut certs, "another one is issued", || published.borrow().own.contains_key(&late)).await;
        assert!(trusts(&retired), "what has left is trusted again");
    });
}
