//! A pinned link: made once, its program replaced in place from then on.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya_obj::generated::bpf_attach_type;

use crate::error::{Error, Result};
use crate::pin::Pins;
use crate::sys;

/// The hook of a new link.
pub(crate) struct Target<'a> {
    /// A cgroup directory or a network namespace.
    pub(crate) at: BorrowedFd<'a>,
    pub(crate) attach_type: bpf_attach_type,
    /// The id of that cgroup: a link that is attached to another one is refused.
    pub(crate) cgroup_id: Option<u64>,
}

/// `program` runs at `target`, by the link that is pinned at `path`. A link that is there is updated in one step; one
/// whose cgroup or namespace is gone is made anew.
pub(crate) fn ensure(path: &Path, program: BorrowedFd<'_>, target: &Target<'_>) -> Result<()> {
    if let Some(expected) = target.cgroup_id {
        match cgroup_of(path)? {
            Some(found) if found != 0 && found != expected => {
                return Err(Error::OtherCgroup { path: path.to_owned(), found });
            }
            _ => {}
        }
    }
    if update(path, program)? {
        return Ok(());
    }
    Pins::remove(path)?;
    let link =
        sys::link_create(program, target.at, target.attach_type).map_err(Error::system("attach", path.display()))?;
    sys::pin(link.as_fd(), path).map_err(Error::system("pin", path.display()))
}

/// Replaces the program of a pinned link; false where there is none, or where what it was attached to is gone.
pub(crate) fn update(path: &Path, program: BorrowedFd<'_>) -> Result<bool> {
    let Some(link) = sys::pinned(path).map_err(Error::system("open", path.display()))? else { return Ok(false) };
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(Error::System { operation: "update", object: path.display().to_string(), source: error }),
    }
}

/// Detaches a pinned link and removes the pin. When it returns the program runs no longer, so that the order in which
/// links are taken away is the order in which they end. One that is not there is gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if let Some(link) = sys::pinned(path).map_err(Error::system("open", path.display()))? {
        sys::link_detach(link.as_fd()).map_err(Error::system("detach", path.display()))?;
    }
    Pins::remove(path)
}

/// The program that a pinned link runs.
pub(crate) fn program_id(path: &Path) -> Result<Option<u32>> {
    Ok(info(path)?.map(|info| info.program_id))
}

fn cgroup_of(path: &Path) -> Result<Option<u64>> {
    Ok(info(path)?.map(|info| info.cgroup_id))
}

fn info(path: &Path) -> Result<Option<sys::LinkInfo>> {
    let Some(link) = sys::pinned(path).map_err(Error::system("open", path.display()))? else { return Ok(None) };
    sys::cgroup_link_info(link.as_fd()).map(Some).map_err(Error::system("read", path.display()))
}

/// The kernel's answers where a link's cgroup or namespace is gone.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOLINK)
}
