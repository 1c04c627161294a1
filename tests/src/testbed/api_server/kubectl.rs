//! kubectl: what a user has. Each call is a process at a site of the testbed, from where the API server must be reachable.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    super::lab::Site,
    objects::{Objects, list},
};

/// A lifetime that no test outlasts, and which the API server permits.
const TOKEN_LIFETIME: &str = "1h";

/// The number of the next file of objects: each call has its own.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// kubectl at a site, with the credentials of a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    site: Site,
    program: PathBuf,
    url: String,
    authority: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Writes a kubeconfig of this name, and the file of its token beside it (`NAME.token`): a bearer token for the API
    /// server at `url`, whose CA has this certificate.
    pub(super) fn new(
        site: &Site,
        program: &Path,
        url: &str,
        authority: &Path,
        name: &str,
        token: &str,
    ) -> Result<Self> {
        let folder = authority.parent().context("a folder")?;
        let [kubeconfig, file] = ["kubeconfig", "token"].map(|kind| folder.join(format!("{name}.{kind}")));
        fs::write(&file, token).with_context(|| format!("write {}", file.display()))?;
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "testbed", "cluster": { "server": url, "certificate-authority": authority } }],
            "users": [{ "name": name, "user": { "tokenFile": file } }],
            "contexts": [{ "name": name, "context": { "cluster": "testbed", "user": name } }],
            "current-context": name,
        });
        fs::write(&kubeconfig, text.to_string()).with_context(|| format!("write {}", kubeconfig.display()))?;
        let (site, program, url, authority) = (site.clone(), program.into(), url.into(), authority.into());
        Ok(Self { site, program, url, authority, kubeconfig })
    }

    /// The same with other credentials, in a kubeconfig of this name.
    pub(super) fn with_token(&self, name: &str, token: &str) -> Result<Self> {
        Self::new(&self.site, &self.program, &self.url, &self.authority, name, token)
    }

    /// The same elsewhere: on another node.
    #[must_use]
    pub fn at(&self, site: &Site) -> Self {
        Self { site: site.clone(), ..self.clone() }
    }

    /// The kubeconfig, for other clients.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs kubectl; its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let (kubeconfig, cache) = (self.kubeconfig.to_string_lossy(), self.kubeconfig.with_extension("cache"));
        let cache = cache.to_string_lossy();
        let mut all = vec!["--kubeconfig", &*kubeconfig, "--cache-dir", &*cache];
        all.extend(arguments);
        self.site.run(&self.program.to_string_lossy(), &all)
    }

    /// The API server answers that it is ready.
    pub fn is_ready(&self) -> Result<()> {
        self.run(&["get", "--raw", "/readyz"]).map(drop)
    }

    /// What `kubectl get ... -o json` says: an object, or a list of them.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let mut arguments = vec!["get", "-o", "json"];
        arguments.extend(what);
        read(&self.run(&arguments)?)
    }

    /// Applies manifests as they are (server-side apply).
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_file(&self.file(yaml)?)
    }

    /// Applies manifests, and does what a cluster's controllers, scheduler and kubelets would do about them: pods get the
    /// service accounts that they name, and objects the status that they are written with. Uids are the API server's own.
    pub fn populate(&self, yaml: &str) -> Result<()> {
        let objects = Objects::parse(yaml)?;
        self.apply(&list(&objects.wanted).to_string())?;
        if objects.statuses.is_empty() {
            return Ok(());
        }
        // Replaced, not applied: a node of two families has two addresses of one type, which apply cannot tell apart.
        let of_these = self.file(&list(&objects.statuses).to_string())?;
        let with_status = objects.with_status(self.get(&["-f", &of_these])?)?;
        let file = self.file(&list(&with_status).to_string())?;
        self.run(&["replace", "--subresource", "status", "-f", &file]).map(drop)
    }

    /// Defines kinds of objects, and waits until the API server serves them.
    pub fn define(&self, yaml: &str) -> Result<()> {
        let file = self.file(yaml)?;
        self.apply_file(&file)?;
        self.run(&["wait", "--for", "condition=Established", "-f", &file]).map(drop)
    }

    /// Creates an object; what the API server answers.
    pub fn create(&self, object: &Value) -> Result<Value> {
        let file = self.file(&object.to_string())?;
        read(&self.run(&["create", "-o", "json", "-f", &file])?)
    }

    /// Deletes a pod at once, as when its kubelet had seen to its end. The pod is `namespace/name`.
    pub fn delete_pod(&self, pod: &str) -> Result<()> {
        let (namespace, name) = split(pod)?;
        self.run(&["delete", "pod", name, "-n", namespace, "--force", "--grace-period", "0"]).map(drop)
    }

    /// A token of a pod's service account for this audience, bound to the pod: what a projected volume would have. The pod is
    /// `namespace/name`.
    pub fn token_of_pod(&self, pod: &str, audience: &str) -> Result<String> {
        let (namespace, name) = split(pod)?;
        let object = self.get(&["pod", name, "-n", namespace])?;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("in {object}"));
        let (account, uid) = (text(&object["spec"]["serviceAccountName"])?, text(&object["metadata"]["uid"])?);
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", name, "--bound-object-uid", &uid];
        self.token(namespace, &account, audience, &bound)
    }

    /// A token of a service account for this audience, bound to nothing else. The account is `namespace/name`.
    pub fn token_of_account(&self, account: &str, audience: &str) -> Result<String> {
        let (namespace, name) = split(account)?;
        self.token(namespace, name, audience, &[])
    }

    fn token(&self, namespace: &str, account: &str, audience: &str, bound: &[&str]) -> Result<String> {
        let mut arguments = vec!["create", "token", account, "-n", namespace, "--duration", TOKEN_LIFETIME];
        arguments.extend(["--audience", audience]);
        arguments.extend(bound);
        Ok(self.run(&arguments)?.trim().to_owned())
    }

    fn apply_file(&self, file: &str) -> Result<()> {
        self.run(&["apply", "--server-side", "--field-manager", "testbed", "-f", file]).map(drop)
    }

    /// A file with this text: command lines are short, and manifests are not.
    fn file(&self, text: &str) -> Result<String> {
        let name = format!("objects-{}.yaml", NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.authority.with_file_name(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

fn read(json: &str) -> Result<Value> {
    serde_json::from_str(json).with_context(|| format!("what kubectl said: {json}"))
}

fn split(full_name: &str) -> Result<(&str, &str)> {
    full_name.split_once('/').with_context(|| format!("{full_name} is no namespace/name"))
}
