//! `underpass x describe`, `underpass x authz check` and `underpass authn tls-check`: one pod or service and all that concerns it, in
//! three cuts of the same answer.

mod name;
mod text;

use clap::Subcommand;

pub(super) use self::name::Named;
use crate::{
    args::{Format, From},
    error::CliError,
    output::Output,
    show::Style,
    source::Source,
};

/// Describe a pod or a service, and check its policies, as Istio's users find it.
#[derive(Debug, clap::Args)]
pub(crate) struct Experimental {
    #[command(subcommand)]
    command: ExperimentalCommand,
}

#[derive(Debug, Subcommand)]
enum ExperimentalCommand {
    Describe(Describe),
    Authz(Authz),
    Precheck(Box<crate::commands::check::Check>),
}

/// One pod or service: in the mesh or why not, identity, policies, and what its ports accept.
#[derive(Debug, clap::Args)]
pub(crate) struct Describe {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A pod: in the mesh or why not, its identity, its services, the policies that judge calls of it, what its ports accept.
    #[command(visible_alias = "po")]
    Pod(One),
    /// A service, and each pod behind it.
    #[command(visible_alias = "svc")]
    Service(One),
}

/// Policies of one pod.
#[derive(Debug, clap::Args)]
pub(crate) struct Authz {
    #[command(subcommand)]
    command: AuthzCommand,
}

#[derive(Debug, Subcommand)]
enum AuthzCommand {
    /// The AuthorizationPolicies that judge connections to a pod.
    Check(One),
}

/// What the ports of a pod or service accept: mutual TLS only, or plaintext as well.
#[derive(Debug, clap::Args)]
pub(crate) struct Authn {
    #[command(subcommand)]
    command: AuthnCommand,
}

#[derive(Debug, Subcommand)]
enum AuthnCommand {
    /// What the ports of a pod, or of the pods of a service, accept: mutual TLS only, or plaintext as well, and by which
    /// PeerAuthentication.
    TlsCheck(One),
}

/// One pod or service.
#[derive(Debug, clap::Args)]
struct One {
    /// NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    #[arg(value_name = "NAME[.NAMESPACE]")]
    name: String,
    /// The namespace of a NAME that names none; by default the kubeconfig's, else `default`.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    from: From,
}

impl One {
    fn open(&self) -> Result<(Source, Named), CliError> {
        let source = Source::open(&self.from)?;
        let named = Named::parse(&self.name, self.namespace.as_deref().unwrap_or_else(|| source.default_namespace()));
        Ok((source, named))
    }
}

pub(crate) fn experimental(args: &Experimental) -> Result<Output, CliError> {
    match &args.command {
        ExperimentalCommand::Precheck(args) => crate::commands::check::run(args),
        ExperimentalCommand::Describe(Describe { what: What::Pod(one) }) => {
            let (source, named) = one.open()?;
            let pod = named.find(|name| source.describe_pod(name))?;
            Style::new(one.output).render(&pod, |_, colour| text::pod(&pod, colour))
        }
        ExperimentalCommand::Describe(Describe { what: What::Service(one) }) => {
            let (source, named) = one.open()?;
            let service = named.find(|name| source.describe_service(name))?;
            Style::new(one.output).render(&service, |_, colour| text::service(&service, colour))
        }
        ExperimentalCommand::Authz(Authz { command: AuthzCommand::Check(one) }) => {
            let (source, named) = one.open()?;
            let pod = named.find(|name| source.describe_pod(name))?;
            let policies = text::judging(&pod);
            Style::new(one.output).render(&policies, |_, colour| text::policies(&pod, colour))
        }
    }
}

pub(crate) fn authn(args: &Authn) -> Result<Output, CliError> {
    let AuthnCommand::TlsCheck(one) = &args.command;
    let (source, named) = one.open()?;
    let pods = match named.find(|name| source.describe_pod(name)) {
        Ok(pod) => vec![pod],
        Err(CliError::NotFound { .. }) => {
            let service = named.find(|name| source.describe_service(name));
            let neither = |e| match e {
                CliError::NotFound { .. } => {
                    CliError::NotFound { says: format!("the mesh knows no pod and no service {}", named.first()) }
                }
                e => e,
            };
            service.map_err(neither)?.pods
        }
        Err(e) => return Err(e),
    };
    let ports = text::ports(&pods);
    Style::new(one.output).render(&ports, |_, colour| text::ports_table(&ports, colour))
}
