//! From an address back to a typed function: a request to init carries the address of a [`Shim`] that knows
//! the types, and of the function itself. Its own file because of its `unsafe`.
//!
//! What must hold: the addresses were taken in a process with this image at this place. Init is the only one who calls
//! [`shim_at`], in a fork of itself, and the scenario that sends addresses is a fork of init too.

#![allow(unsafe_code, reason = "function pointers that travel to a forked process")]

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{actor::Io, sys};

/// Decodes arguments, calls the function at an address, encodes its result.
pub(super) type Shim = fn(u64, &str, &mut Io) -> Result<Value>;

/// The shim's address, for a request.
pub(super) fn address_of_shim(shim: Shim) -> u64 {
    sys::address_of(shim)
}

/// The shim at an address that came with a request.
pub(super) fn shim_at(address: u64) -> Shim {
    // SAFETY: requests come from the scenario only, a fork of this process's parent, which took it from `Shim`.
    unsafe { sys::function_at(address) }
}

fn decode<A: DeserializeOwned>(arguments: &str) -> Result<A> {
    serde_json::from_str(arguments).context("arguments of an actor")
}

/// The shim of a function that exchanges messages.
pub(super) fn call<A: DeserializeOwned, R: Serialize>(function: u64, arguments: &str, io: &mut Io) -> Result<Value> {
    // SAFETY: `start` takes this shim together with the address of a function of exactly this type.
    let function: fn(A, &mut Io) -> Result<R> = unsafe { sys::function_at(function) };
    Ok(serde_json::to_value(function(decode(arguments)?, io)?)?)
}

/// The shim of a function that only returns.
pub(super) fn call_plain<A: DeserializeOwned, R: Serialize>(
    function: u64,
    arguments: &str,
    _: &mut Io,
) -> Result<Value> {
    // SAFETY: `start_plain` takes this shim together with the address of a function of exactly this type.
    let function: fn(A) -> Result<R> = unsafe { sys::function_at(function) };
    Ok(serde_json::to_value(function(decode(arguments)?)?)?)
}
