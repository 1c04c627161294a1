//! What every proxy of the mesh has in common, whether it carries connections of pods (the tunnel of a node) or requests (a
//! waypoint). Everything here belongs to one worker and is shared with no other thread.
//!
//! * [`credentials`]: the certificates that a worker goes by, and the TLS configurations made of them.
//! * [`pool`]: tunnels to other proxies, shared by connections that may share one.
//! * [`peers`]: sockets whose peers have not proved who they are, and how many of them there may be.
//! * [`judging`]: the World that a worker goes by, and the open connections that are judged again when it changes.
//! * [`drain`]: what is open, and when nothing is any more.

pub mod credentials;
pub mod drain;
pub mod judging;
pub mod peers;
pub mod pool;
