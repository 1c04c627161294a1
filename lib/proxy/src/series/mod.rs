//! Series of metrics by the two ends of traffic, as far as connections and requests have them in common: the labels of an end,
//! a worker's cache of them, the limit of series, how long those of what is gone are kept, and the denials of dry runs.

mod alive;
mod book;
mod dry_runs;
mod gone;
mod side;
mod sides;

pub use self::{
    alive::Alive,
    book::{Book, InUse},
    dry_runs::DryRuns,
    gone::Gone,
    side::{Side, UNKNOWN, WorkloadLabels},
    sides::SideCache,
};
