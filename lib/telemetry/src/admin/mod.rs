//! The admin API: HTTP/1.1 with JSON, on a loopback address, and readiness beside it on any.
//!
//! Each binary fills a [`Router`] with its routes and serves it; the command is a [`Client`]. Requests and answers are plain
//! values ([`Request`], [`Response`]), so that a route is tested by calling its handler.
//!
//! What must hold: no client outside the machine reaches a [`Listener::loopback`], not even through a browser on it; no
//! peer, however slow or rude, costs more than [`Limits`] says, or keeps others from being answered.

mod client;
mod error;
mod listener;
mod places;
mod query;
mod readiness;
mod router;
mod routes;
mod server;
mod target;
pub mod view;

pub use client::{Client, ClientError, json_over};
pub use error::AdminError;
pub use http::{Method, StatusCode};
pub use listener::{Listener, Unpublished};
pub use places::{Peer, Place, Places};
pub use query::encode as encode_query;
pub use readiness::{Gate, Readiness};
pub use router::{NO_ROUTE, Request, Response, Router};
pub use routes::{healthz, logging};
pub use server::{Limits, Server, serve_accepted};
pub use target::{ParseTargetError, Target};
