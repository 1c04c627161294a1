//! How a pod stands: [`plan`](super::plan)'s states with what they hold. Its own file because both the shell and its thread
//! look at it.

use std::time::Instant;

use super::{member::Member, plan::Actual};

/// Of one pod that something was done about.
#[derive(Debug)]
pub(super) enum State {
    Waiting { again: Instant, failures: u32, problem: String, no_room: bool },
    Enrolled(Box<Member>),
    Releasing { member: Box<Member>, deadline: Instant, torn: bool, again: Instant, problem: Option<String> },
}

impl State {
    pub(super) fn member(&self) -> Option<&Member> {
        match self {
            Self::Waiting { .. } => None,
            Self::Enrolled(member) | Self::Releasing { member, .. } => Some(member),
        }
    }

    pub(super) fn member_mut(&mut self) -> Option<&mut Member> {
        match self {
            Self::Waiting { .. } => None,
            Self::Enrolled(member) | Self::Releasing { member, .. } => Some(member),
        }
    }

    pub(super) fn actual(&self) -> Actual {
        let of = |member: &Member| (member.kernel.addresses.clone(), !member.is_alive());
        match self {
            Self::Waiting { again, .. } => Actual::Waiting { again: *again },
            Self::Enrolled(member) => {
                let (addresses, ended) = of(member);
                Actual::Enrolled { addresses, ended }
            }
            Self::Releasing { member, torn, again, .. } => {
                let (addresses, ended) = of(member);
                Actual::Releasing { addresses, ended, torn: *torn, again: *again }
            }
        }
    }
}
