//! `underpass ca`: the certificate authority of a cluster, and the replacement of its root in three steps. Each step is one write of
//! one Secret, which control planes and agents notice by themselves; before it, every agent is asked whether it has noticed the
//! step before.

mod standing;

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use clap::Subcommand;
use underpass_core::ObjectName;
use underpass_identity::{
    Cacerts,
    rotation::values::{Origin, Values},
};
use underpass_kube::write::Secret;
use underpass_telemetry::admin::view::Roots;

use self::standing::{Ca, Standing};
use crate::{
    agents::Fleet,
    args::{Place, Shown},
    error::CliError,
    output::{self, Output, complain},
    show::{self, Style},
};

/// The pause between two questions to the agents.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate authority of a cluster: its roots, and their replacement.
///
/// The root that Underpass has made is replaced in three steps without a failed connection: `prepare`, `activate`, `retire`. A
/// plugged-in one (Secret cacerts) is replaced by its owner; `status` shows how far its roots have come.
#[derive(Debug, clap::Args)]
pub(crate) struct CertificateAuthority {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Show the roots, the agents that trust each, and the step of a replacement.
    #[command(
        after_help = "Exit status: 0 every agent trusts every root, 2 one does not or gives no answer, 1 it cannot be asked."
    )]
    Status {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        shown: Shown,
    },
    /// Step 1: make a new root, which every agent trusts from now on. The old one goes on signing.
    Prepare(Place),
    /// Step 2: let the new root sign, once every agent trusts it. Agents renew their certificates at once; the old root stays trusted.
    Activate(Checked),
    /// Step 3: stop trusting the old root, once nothing that it signed is in use.
    ///
    /// That is a certificate's lifetime later: until then tunnels go on taking connections. Those that are older, and still open, are
    /// reset.
    Retire {
        #[command(flatten)]
        checked: Checked,
        /// The longest lifetime of a certificate: for this time after `activate` a tunnel of the old root may take new connections,
        /// which would be reset.
        #[arg(long, value_name = "SECONDS", default_value = "86400")]
        certificate_lifetime: u64,
    },
}

/// A step that waits for the agents.
#[derive(Debug, clap::Args)]
struct Checked {
    #[command(flatten)]
    place: Place,
    /// Take the step without a question to the agents and without its time, where you have checked yourself that they have come so far.
    #[arg(long)]
    now: bool,
    /// The longest time to wait for the agents, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    timeout: u64,
}

pub(crate) fn run(args: &CertificateAuthority) -> Result<Output, CliError> {
    match &args.step {
        Step::Status { place, shown } => {
            let mesh = Mesh::open(place)?;
            show::run(*shown, |style| mesh.show(style))
        }
        Step::Prepare(place) => {
            let mesh = Mesh::open(place)?;
            mesh.take(&mesh.own()?, |values, origin, now| values.prepare(origin, now))
        }
        Step::Activate(checked) => {
            let mesh = Mesh::open(&checked.place)?;
            // What cannot be done anyway is refused before anything is waited for.
            let own = mesh.own()?;
            let step = |values: Values, origin: Origin<'_>, now| values.activate(origin, now);
            mesh.try_step(&own, step)?;
            mesh.wait(checked, "to trust the new root", Standing::without_next)?;
            mesh.take(&own, step)
        }
        Step::Retire { checked, certificate_lifetime } => {
            let mesh = Mesh::open(&checked.place)?;
            let own = mesh.own()?;
            let settled = if checked.now { Duration::ZERO } else { Duration::from_secs(*certificate_lifetime) };
            let step = |values: Values, origin: Origin<'_>, now| values.retire(origin, now, settled);
            mesh.try_step(&own, step)?;
            mesh.wait(checked, "to have certificates of the new root alone", Standing::with_old_certificates)?;
            mesh.take(&own, step)
        }
    }
}

/// The agents, and the Secret of their CA.
struct Mesh {
    fleet: Fleet,
    namespace: String,
}

/// The Secret of a CA that was made here.
struct Own {
    name: String,
    secret: Secret,
    values: Values,
}

impl Mesh {
    fn open(place: &Place) -> Result<Self, CliError> {
        Ok(Self { fleet: Fleet::open(&place.way())?, namespace: place.system_namespace.clone() })
    }

    fn secret(&self, name: &str) -> Result<Option<Secret>, CliError> {
        let name = ObjectName::new(self.namespace.as_str(), name);
        let (runtime, client) = self.fleet.api_server();
        runtime.block_on(client.secret(&name)).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: underpass_kube::client::Error) -> CliError {
        CliError::api_server(source, format!("get and patch secrets in namespace {}", self.namespace))
    }

    /// The CA that was made here.
    fn own(&self) -> Result<Own, CliError> {
        if self.secret(Cacerts::SECRET)?.is_some() {
            return Err(CliError::PluggedIn { namespace: self.namespace.clone() });
        }
        let secret = self.secret(Values::SECRET)?;
        let secret = secret.ok_or_else(|| CliError::NoCa { namespace: self.namespace.clone() })?;
        let name = format!("Secret {}", secret.name);
        let values = Values::read(&name, |key| secret.data.get(key).map(|value| value.as_slice()))?;
        Ok(Own { name, secret, values })
    }

    /// Takes a step, and says what is next.
    fn take(
        &self,
        own: &Own,
        step: impl Fn(Values, Origin<'_>, SystemTime) -> Result<Values, underpass_identity::Error>,
    ) -> Result<Output, CliError> {
        let (next, now) = (self.try_step(own, step)?, SystemTime::now());
        let (runtime, client) = self.fleet.api_server();
        let written = runtime.block_on(client.exchange_secret(&own.secret, &next.entries(), now));
        let secret = written.map_err(|source| match source.status() {
            Some(409) => CliError::CaChanged { secret: own.name.clone() },
            _ => self.refused(source),
        })?;
        let ca = Ca::own(&Own { name: own.name.clone(), secret, values: next }, now)?;
        Ok(Output::ok(ca.head(show::unix_s())))
    }

    /// What follows from a step, which is not taken.
    fn try_step(
        &self,
        own: &Own,
        step: impl Fn(Values, Origin<'_>, SystemTime) -> Result<Values, underpass_identity::Error>,
    ) -> Result<Values, CliError> {
        let trust_domain = own.values.trust_domain(&own.name)?;
        let origin = Origin { name: &own.name, trust_domain: &trust_domain, since: own.secret.changed };
        Ok(step(own.values.clone(), origin, SystemTime::now())?)
    }

    /// Waits until no agent is left that `lags` names.
    fn wait(&self, checked: &Checked, what: &'static str, lags: fn(&Standing) -> Vec<String>) -> Result<(), CliError> {
        if checked.now {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(checked.timeout);
        let mut told = Vec::new();
        loop {
            let (standing, silent) = self.standing()?;
            let left = [lags(&standing), silent].concat();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CliError::Lagging { what, agents: left });
            }
            if left != told {
                complain(&format!(
                    "waiting for {} of {} agents {what}: {}",
                    left.len(),
                    standing.agents,
                    standing::few(&left)
                ));
                told = left;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The CA as it is, and what every agent says of its roots.
    fn standing(&self) -> Result<(Standing, Vec<String>), CliError> {
        let ca = match self.secret(Cacerts::SECRET)? {
            Some(secret) => Ca::plugged_in(&secret)?,
            None => Ca::own(&self.own()?, SystemTime::now())?,
        };
        let said = self.fleet.every::<Roots>("/roots")?.0;
        let agents = said.len();
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        for (agent, said) in said {
            match said {
                Ok(roots) => answers.push((agent.node.to_string(), roots)),
                Err(error) => silent.push(error.to_string()),
            }
        }
        Ok((Standing::new(ca, agents, &answers), silent))
    }

    fn show(&self, style: Style) -> Result<Output, CliError> {
        let (standing, silent) = self.standing()?;
        let now = show::unix_s();
        let code = if standing.is_settled() { output::OK } else { output::NO };
        let shown = style.render(&standing, |_, colour| standing.text(now, colour))?;
        Ok(style.with_silent(Output { code, ..shown }, &silent))
    }
}
