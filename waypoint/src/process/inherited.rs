//! The descriptors that the process was started with. Its own file because of its `unsafe`: they are numbers until they have an
//! owner.
#![allow(unsafe_code, reason = "owning descriptors by number")]

use std::{
    net::TcpListener,
    os::fd::{AsFd as _, OwnedFd, RawFd},
};

use underpass_net::passing;
use underpass_proxy::child::{CONTROL_FD, LISTENER_FD};

use super::Error;

/// The two descriptors that an agent hands its child.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) control: OwnedFd,
    pub(super) listener: TcpListener,
}

impl Inherited {
    /// Takes them.
    ///
    /// # Safety
    /// The process has opened no descriptor of its own yet, and calls this once.
    pub(super) unsafe fn take() -> Result<Self, Error> {
        // SAFETY: as the caller says.
        let take = |number: RawFd| unsafe { passing::inherited(number) };
        let missing = |what, number| move |source| Error::NotAChild { what, number, source };
        let control = take(CONTROL_FD).map_err(missing("control socket", CONTROL_FD))?;
        let is_control = passing::is_connection(control.as_fd());
        is_control.map_err(missing("control socket", CONTROL_FD))?;
        let listener = TcpListener::from(take(LISTENER_FD).map_err(missing("listener", LISTENER_FD))?);
        listener.local_addr().map_err(missing("listener", LISTENER_FD))?;
        Ok(Self { control, listener })
    }
}
