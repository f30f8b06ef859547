//! A file per kind: dereference → validate → plan → apply → report. Nothing here streams data: what
//! a plan says is started, and its result is observed by the next pass.

pub mod backup;
pub mod carry_out;
pub mod conditions;
pub mod dereference;
pub mod destination;
mod failures;
pub mod hosting;
pub mod known;
pub mod look;
pub mod memory;
pub mod observe;
pub mod policy;
pub mod restore;
