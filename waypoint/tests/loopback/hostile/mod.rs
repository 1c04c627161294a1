//! Clients and endpoints that send what no library would: bytes in on one side, what comes out on the other. A row of a table is
//! one connection of a client, and what must hold is that both sides read the same messages, or that the sender is refused.

mod policies;
mod requests;
mod responses;
mod wire;

pub(crate) use self::wire::Raw;
