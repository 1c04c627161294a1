//! Applications: what runs in the testbed's pods. Each is a function that an [`Actor`](crate::testbed::Actor) runs,
//! and most are a command of `underpass-testapp` as well, for those who want to see a program.
//!
//! * [`socket`]: one connection with any socket option; what each end believes about it.
//! * [`remote`]: sockets in a pod that the test drives step by step: half-close, RST, stalled readers, small writes.
//! * [`pair`]: one connection, both ends of it.
//! * [`crowd`]: many connections of one pod: at once, one after another, stalled, or until they are stopped.
//! * [`hammer`]: connections one after another, counted.
//! * [`load`]: thousands of connections from one process to one process, with little of their own.
//! * [`servers`]: echo that says who connected, sink, UDP echo.
//! * [`grpc`]: gRPC's health protocol.
//! * [`http`]: services that call each other, as the bookinfo sample does.
//! * [`relay`]: an address that leads to one replica after the other.
//! * [`vip`]: what kube-proxy does, for pods that the mesh does not capture.
//! * [`raw`], [`attacks`], [`foreign`]: what an attacker inside a pod tries.

pub mod attacks;
pub mod crowd;
pub mod foreign;
pub mod grpc;
pub mod hammer;
pub mod http;
pub mod load;
pub mod pair;
pub mod pattern;
pub mod raw;
pub mod relay;
pub mod remote;
pub mod servers;
pub mod socket;
pub mod vip;
