//! Pure planning: from what is declared and what is observed to the list of actions between them.
//!
//! Nothing here reads a clock, a file or a network: `now` and the observed state are passed in, and
//! a plan is a value, printed by `holdfast plan` and carried out by `run`.
//!
//! A pass is: observe, plan, carry out [`Plan::actions`], and again, until nothing but waiting is
//! left. [`Plan::forecast`] is not carried out: it says what is likely to follow.

pub mod action;
pub mod backoff;
mod backup;
pub mod deletion;
pub mod observed;
pub mod policy;
pub mod restore;
pub mod retention;
pub mod schedule;
mod upkeep;

pub use action::{Action, BackupReason, Kept, Plan, SnapshotRef};
pub use policy::{PolicyDesire, plan_policy, plan_upkeep, writable_place};
pub use restore::{RestoreDesire, RestoreObservation, plan_restore};

#[cfg(test)]
mod tests;
