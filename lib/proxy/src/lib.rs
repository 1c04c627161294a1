//! The common parts of the mesh's proxies, whether they carry connections of pods (the tunnel of a node) or requests (a
//! waypoint). Everything here belongs to one worker and is shared with no other thread, but [`series::Alive`], a scrape's.
//!
//! * [`credentials`]: the certificates of a worker, and the TLS configurations made of them.
//! * [`pool`]: tunnels to other proxies, shared by connections that may share one.
//! * [`peers`]: unauthenticated peers, and their limit.
//! * [`judging`]: the World of a worker, and the open connections that are judged again when it changes.
//! * [`drain`]: groups of open connections and tunnels, and their end.
//! * [`series`]: the labels of the ends of traffic in metrics.
//! * [`child`]: the agent's word with a waypoint that it has started, which no worker hears.

pub mod child;
pub mod credentials;
pub mod drain;
pub mod judging;
pub mod peers;
pub mod pool;
pub mod series;
