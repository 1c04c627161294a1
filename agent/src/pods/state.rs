//! The state of a pod: [`plan`](super::plan)'s states with their values. Its own file because both the shell and its thread
//! read it.

use std::time::Instant;

use super::{enrolled::EnrolledPod, plan::Actual};

/// The state of one pod; none where nothing was done about it.
#[derive(Debug)]
pub(super) enum State {
    Waiting {
        again: Instant,
        failures: u32,
        problem: String,
        no_room: bool,
    },
    Enrolled(Box<EnrolledPod>),
    Releasing {
        enrolled: Box<EnrolledPod>,
        deadline: Instant,
        /// What arrives is steered to the tunnel.
        steered: bool,
        /// There is no way back.
        torn: bool,
        /// A step failed half-way, or was not taken back: what is set up is not known.
        halfway: bool,
        again: Instant,
        problem: Option<String>,
    },
}

impl State {
    pub(super) fn enrolled(&self) -> Option<&EnrolledPod> {
        match self {
            Self::Waiting { .. } => None,
            Self::Enrolled(enrolled) | Self::Releasing { enrolled, .. } => Some(enrolled),
        }
    }

    pub(super) fn enrolled_mut(&mut self) -> Option<&mut EnrolledPod> {
        match self {
            Self::Waiting { .. } => None,
            Self::Enrolled(enrolled) | Self::Releasing { enrolled, .. } => Some(enrolled),
        }
    }

    pub(super) fn actual(&self) -> Actual {
        let of = |enrolled: &EnrolledPod| (enrolled.kernel.addresses.clone(), !enrolled.is_alive());
        match self {
            Self::Waiting { again, .. } => Actual::Waiting { again: *again },
            Self::Enrolled(enrolled) => {
                let (addresses, ended) = of(enrolled);
                Actual::Enrolled { addresses, ended }
            }
            Self::Releasing { enrolled, torn, halfway, again, .. } => {
                let (addresses, ended) = of(enrolled);
                Actual::Releasing { addresses, ended, torn: *torn, halfway: *halfway, again: *again }
            }
        }
    }
}
