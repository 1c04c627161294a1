//! Every decision about a connection, as pure functions over one immutable [`World`].
//!
//! No IO, no clock, no randomness: addresses, times and random numbers are arguments, so every decision can be replayed
//! and tested as data. Three layers: [`objects`] are what users write, [`resolve`] says which facts follow from them,
//! and the facts are the [`world`]. Everything above asks it questions:
//!
//! * [`enrol`]: is this pod part of the mesh, and which label says so?
//! * [`capture`]: may the kernel leave this connect() alone? The reference answer that the kernel tables must equal.
//! * [`route`]: where does a captured connection go, and which identities may answer there?
//! * [`authz`] and [`peer_auth`]: may this peer reach this workload? [`admit`] asks both, in that order.
//! * [`http`]: which route does a request take, and what happens to it on the way?
//! * [`jwt`]: what does a request's token say?
//! * [`reason`] and [`tls`]: why a connection ended, in closed lists.
//! * [`dangling`]: references to objects that do not exist, and values that match nothing.
//! * [`provision`]: which instances of waypoints are to run where no controller makes them?
//! * [`explain`]: the same functions with a recorder.

pub mod addr;
pub mod admit;
pub mod authz;
pub mod bulk;
pub mod capture;
pub mod connection;
pub mod dangling;
pub mod enrol;
pub mod explain;
pub mod few;
pub mod http;
pub mod identities;
pub mod jwt;
pub mod labels;
pub mod name;
pub mod named_source;
pub mod objects;
pub mod peer_auth;
pub mod provision;
pub mod reason;
pub mod rejudge;
pub mod resolve;
pub mod route;
pub mod spiffe;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod trace;
pub mod world;

pub use connection::Connection;
pub use few::Few;
pub use identities::Identities;
pub use name::{Kind, ObjectKey, ObjectName};
pub use named_source::NamedSource;
pub use reason::Reason;
pub use spiffe::{Identity, TrustDomain};
pub use world::World;
