//! Series of metrics by the two ends of traffic, as far as connections and requests have them in common: the labels of an end,
//! a worker's cache of them, the limit of series, how long those of what is gone are kept, and counts by policy.

mod alive;
mod book;
mod gone;
mod policy_counts;
mod side;
mod sides;

pub use self::{
    alive::Alive,
    book::{Book, InUse},
    gone::Gone,
    policy_counts::PolicyCounts,
    side::{Side, UNKNOWN, WorkloadLabels},
    sides::SideCache,
};
