//! The MongoDB source: a native reader and restorer, without mongodump and mongorestore, whose
//! files those two accept all the same.
//!
//! | module | owns |
//! |---|---|
//! | `archive` | the archive format of mongodump |
//! | [`config`] | what to read and from where, as plain types |
//! | [`connect`] | a client from a secret URI; what kind of deployment answers |
//! | [`namespace`] | namespaces, include and exclude patterns, file names of a dump |
//! | [`digest`] | content digests that do not depend on order |
//! | [`restore`] | putting back: plan, conflicts, parallel load, comparison |
//! | [`error`] | what can go wrong, and what to do then |
//! | [`backup`] | the whole read: one cluster time for everything |
//! | [`compose`] | what the snapshot shall show of it |
//! | [`catalog`] | collections, views, time series, with options and indexes |
//! | [`metadata`] | the texts of a dump |
//! | [`read`] | the documents of one collection, with one cursor or several |
//! | [`range`] | natural-order ranges of a large collection |
//! | [`cursor`] | raw batches, walked where they lie |
//! | [`segment`] | where a collection is cut into blobs |
//! | [`oplog`] | the watch for what is dropped, renamed or changed meanwhile |
//! | [`users`] | which collections are users and roles |

pub(crate) mod archive;
pub mod backup;
pub mod catalog;
pub mod compose;
pub mod config;
pub mod connect;
pub mod cursor;
pub mod digest;
pub mod error;
pub mod metadata;
pub mod namespace;
pub mod oplog;
pub mod range;
pub mod read;
pub mod restore;
pub mod segment;
pub mod users;

pub use backup::read;
pub use compose::MongodbRead;
pub use config::MongodbConfig;
pub use error::MongodbError;
pub use read::ReadOptions;
