//! Istio's certificate API, both ends: a node asks for the certificate of a pod's identity on the pod's behalf.
//!
//! * [`Issuer`] decides and signs; the service around it is served by [`crate::server::serve`].
//! * [`Client`] asks.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod client;
mod server;

pub use client::{Client, Error, Wanted};
pub(crate) use server::Certificates;
pub use server::{Issuer, Request};

/// The field of a request's metadata that names the identity on whose behalf it is made.
const IMPERSONATED: &str = "ImpersonatedIdentity";
