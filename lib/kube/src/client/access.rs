//! Where the API server is, and as whom it is asked: what a pod finds in its own file system, or a kubeconfig.

use std::path::{Path, PathBuf};

use http::{HeaderValue, header};
use kube::{
    Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::one_line;

/// The way to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As this pod's service account, whose token is read again as it is renewed.
    InCluster,
    /// As a kubeconfig says.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Its context; none: its current one.
        context: Option<String>,
    },
    /// As kubectl finds it: this file, else the files of `KUBECONFIG`, else `~/.kube/config`, else as this pod's service account.
    Kubectl {
        /// The file, where one is named.
        path: Option<PathBuf>,
        /// A context of the file; none: its current one.
        context: Option<String>,
    },
}

impl Access {
    /// The context of the kubeconfig that leads to the cluster; none: it is reached as this pod's service account.
    ///
    /// # Errors
    /// Where a file that is named cannot be read.
    pub fn context(&self) -> Result<Option<String>, ConnectError> {
        let (path, context) = match self {
            Self::InCluster => return Ok(None),
            Self::Kubeconfig { path, context } => (Some(path), context),
            Self::Kubectl { path, context } => (path.as_ref(), context),
        };
        if context.is_some() {
            return Ok(context.clone());
        }
        match path {
            Some(path) => Kubeconfig::read_from(path)
                .map(|file| file.current_context)
                .map_err(|cause| ConnectError::Kubeconfig { path: path.clone(), cause }),
            // Without a file it is reached otherwise, or not at all, which connecting says.
            None => Ok(Kubeconfig::read().ok().and_then(|file| file.current_context)),
        }
    }
}

/// The reason why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This is no pod with a service account.
    #[error("no access as this pod's service account: {}", one_line(.0))]
    InCluster(#[source] InClusterError),
    /// The kubeconfig cannot be used.
    #[error("{}: {}", .path.display(), one_line(.cause))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: KubeconfigError,
    },
    /// No file is named, and neither the usual ones nor a service account leads to a cluster.
    #[error("no cluster: {}; name a kubeconfig with --kubeconfig or KUBECONFIG", one_line(.0))]
    NoCluster(#[source] KubeconfigError),
    /// The configuration says what cannot be done.
    #[error("no client for {url}: {}", one_line(.cause))]
    Client {
        /// The API server.
        url: http::Uri,
        /// The cause.
        #[source]
        cause: Box<kube::Error>,
    },
    /// The name of the component is no text of a header.
    #[error("{component:?} cannot be sent as a user agent")]
    Component {
        /// The name.
        component: String,
    },
}

/// A connection, and the configuration that others can be made of.
pub(super) async fn connect(access: &Access, component: &str) -> Result<(Config, kube::Client), ConnectError> {
    let mut config = match access {
        Access::InCluster => Config::incluster().map_err(ConnectError::InCluster)?,
        Access::Kubeconfig { path, context } => {
            let failed = |cause| ConnectError::Kubeconfig { path: path.clone(), cause };
            kubeconfig(path, context.clone()).await.map_err(failed)?
        }
        Access::Kubectl { path, context } => by_kubectl(path.as_deref(), context.clone()).await?,
    };
    let agent = HeaderValue::from_str(&format!("underpass-{component}/{}", env!("CARGO_PKG_VERSION")))
        .map_err(|_| ConnectError::Component { component: component.to_owned() })?;
    config.headers.push((header::USER_AGENT, agent));
    // A caller decides when to ask again, and reports it.
    config.default_retry = false;
    let client = client(&config)?;
    Ok((config, client))
}

/// A connection by this configuration. A file of a token is read now.
pub(super) fn client(config: &Config) -> Result<kube::Client, ConnectError> {
    let url = config.cluster_url.clone();
    kube::Client::try_from(config.clone()).map_err(|cause| ConnectError::Client { url, cause: Box::new(cause) })
}

async fn kubeconfig(path: &Path, context: Option<String>) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(file, &options).await
}

async fn by_kubectl(path: Option<&Path>, context: Option<String>) -> Result<Config, ConnectError> {
    if let Some(path) = path {
        let failed = |cause| ConnectError::Kubeconfig { path: path.to_owned(), cause };
        return kubeconfig(path, context).await.map_err(failed);
    }
    let has_context = context.is_some();
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    match Config::from_kubeconfig(&options).await {
        Ok(config) => Ok(config),
        // A context that is named is in a file.
        Err(cause) if has_context => Err(ConnectError::NoCluster(cause)),
        Err(cause) => Config::incluster().map_err(|_| ConnectError::NoCluster(cause)),
    }
}
