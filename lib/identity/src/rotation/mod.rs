//! Rotation of a CA's root by an operator, without a failed connection: in three steps, each of which every running agent
//! notices by itself. Of the embedded CA in [`directory`], of a control plane's in [`values`].
//!
//! ```text
//!           prepare                    activate                        retire
//!  Steady ----------> Prepared -------------------------> Activated ------------> Steady
//!  trusted: old        old and new                         old and new              new
//!  signs:   old        old                                 new                      new
//! ```
//! What must hold: all verifiers trust a root before anything is signed with it, and for as long as anything that was
//! signed with it is in use. Therefore a step that comes too soon after the one before is refused, unless the operator
//! overrides it.

pub mod directory;
pub mod values;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{Authority, Certificate, Error, RotationFault, certificate::certificates_from_pem};

/// The phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way.
    Steady,
    /// The new root is trusted; the old one signs.
    Prepared,
    /// The new root signs; the old one is trusted.
    Activated,
}

impl Phase {
    /// Both a next and a former CA: a crash in the middle of `activate`, which is to be done again.
    const fn of(has_next: bool, has_old: bool) -> Self {
        match (has_next, has_old) {
            (true, _) => Self::Prepared,
            (false, true) => Self::Activated,
            (false, false) => Self::Steady,
        }
    }

    /// A word: `steady`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Prepared => "prepared",
            Self::Activated => "activated",
        }
    }

    /// The next step.
    #[must_use]
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::Steady => "`prepare` begins one",
            Self::Prepared => "next is `activate`",
            Self::Activated => "next is `retire`",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The role of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its key signs.
    Signs,
    /// Its key will sign.
    Next,
    /// Its key signed; it is still trusted.
    Old,
}

impl Role {
    /// A word: `signs`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signs => "signs",
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

/// A CA and the step of its rotation.
#[derive(Debug)]
pub struct Status {
    /// The phase of a rotation.
    pub phase: Phase,
    /// The start of the phase; for [`Phase::Steady`], when the CA was made or the last step was taken.
    pub since: SystemTime,
    /// Every root; the one that signs first.
    pub roots: Vec<(Role, Certificate)>,
}

impl Status {
    /// Of this CA, with the former ones in `old`.
    fn of(authority: &Authority, phase: Phase, since: SystemTime, old: Option<&str>) -> Result<Self, Error> {
        let retired = old.map_or_else(|| Ok(Vec::new()), certificates_from_pem)?;
        let mut roots = Vec::new();
        for (i, der) in authority.root_certificates().into_iter().enumerate() {
            let role = match i {
                0 => Role::Signs,
                _ if retired.contains(&der) => Role::Old,
                _ => Role::Next,
            };
            roots.push((role, Certificate::parse(&der)?));
        }
        Ok(Self { phase, since, roots })
    }

    /// Refuses a step of what `origin` holds, where it is not the next one, or comes less than `settled` after the one before.
    fn must_be_before(&self, step: Step, origin: &str, now: SystemTime, settled: Duration) -> Result<(), Error> {
        // After the clock was set back the wait is no longer than from now on.
        let passed = now.duration_since(self.since).unwrap_or_default();
        let left = settled.saturating_sub(passed);
        let fault = match (step, self.phase) {
            (step, found) if step.follows() == found && left.is_zero() => return Ok(()),
            (step, found) if step.follows() == found => RotationFault::TooEarly { left },
            (Step::Prepare, found) => RotationFault::UnderWay(found),
            (_, found) => RotationFault::NotSoFar(found),
        };
        Err(Error::Rotation { step: step.does(), origin: origin.to_owned(), fault })
    }
}

/// A step of a rotation.
#[derive(Clone, Copy)]
enum Step {
    Prepare,
    Activate,
    Retire,
}

impl Step {
    const fn follows(self) -> Phase {
        match self {
            Self::Prepare => Phase::Steady,
            Self::Activate => Phase::Prepared,
            Self::Retire => Phase::Activated,
        }
    }

    const fn does(self) -> &'static str {
        match self {
            Self::Prepare => "prepare a new CA",
            Self::Activate => "sign with the new CA",
            Self::Retire => "retire the old CA",
        }
    }
}
