//! Both services over HTTP/2 in memory: our two ends against each other, and each against a hand-written peer that
//! behaves as Istio's does.

#![allow(clippy::expect_used, reason = "tests")]

mod certificates;
mod istiod;
mod limits;
mod ours;
mod pipe;
mod raw;
mod slow;
mod support;
mod ztunnel;
