//! Plain files: YAML or JSON text in, typed resources or every problem out.
//!
//! The way of a document: YAML syntax, envelope (is it ours, which kind), JSON
//! Schema with unknown fields refused, defaults, CEL, the rules of
//! [`crate::rules`], the type. It stops at the first of these stages that
//! finds something, and each stage tells everything it finds. Nothing here
//! contacts anything, and no message repeats a value that may be a secret.

mod document;
mod explain;
mod node;
mod references;
mod scalar;
mod yaml;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use references::check_references;

use crate::{Backup, BackupPolicy, Destination, Restore};

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub location: Location,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)
    }
}

/// A place in a file. Written as `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file, as it was given.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Destination`]
    Destination,
    /// [`BackupPolicy`]
    BackupPolicy,
    /// [`Backup`]
    Backup,
    /// [`Restore`]
    Restore,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Destination,
        Self::BackupPolicy,
        Self::Backup,
        Self::Restore,
    ];

    /// The name, as in `kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Destination => "Destination",
            Self::BackupPolicy => "BackupPolicy",
            Self::Backup => "Backup",
            Self::Restore => "Restore",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What names an object: no two of one kind and namespace share a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `default` when the file names none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    /// `BackupPolicy shop/nightly`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Resource {
    /// Where snapshots live.
    Destination(Box<Destination>),
    /// What is backed up, and when.
    BackupPolicy(Box<BackupPolicy>),
    /// A run that is asked for.
    Backup(Box<Backup>),
    /// A recovery.
    Restore(Box<Restore>),
}

impl Resource {
    /// What names it.
    pub fn key(&self) -> ObjectKey {
        let (kind, metadata) = match self {
            Self::Destination(object) => (Kind::Destination, &object.metadata),
            Self::BackupPolicy(object) => (Kind::BackupPolicy, &object.metadata),
            Self::Backup(object) => (Kind::Backup, &object.metadata),
            Self::Restore(object) => (Kind::Restore, &object.metadata),
        };
        ObjectKey {
            kind,
            namespace: metadata
                .namespace
                .clone()
                .unwrap_or_else(|| crate::DEFAULT_NAMESPACE.to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// A resource and where it stands.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The resource, with its defaults. Its status is never filled from a file.
    pub resource: Resource,
    /// Where its document begins.
    pub location: Location,
    node: Arc<node::Node>,
}

impl Loaded {
    /// The place of a field by its JSON pointer, such as
    /// `/spec/destinations/0/name`; of the nearest field around it when the
    /// file does not write that one.
    pub fn locate(&self, pointer: &str) -> Location {
        document::locate(&self.location.file, &self.node, pointer)
    }
}

/// A document that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Where it begins.
    pub location: Location,
    /// Its `apiVersion`, if it has one.
    pub api_version: Option<String>,
    /// Its `kind`, if it has one.
    pub kind: Option<String>,
}

/// What a file held.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The resources that are in order, as they come.
    pub resources: Vec<Loaded>,
    /// What is wrong, from top to bottom.
    pub problems: Vec<Problem>,
    /// The documents that are not ours, such as Secrets.
    pub ignored: Vec<Ignored>,
    /// The objects that have a name but are not in order.
    broken: Vec<(ObjectKey, Location)>,
    /// How many documents could not be told what they are.
    unreadable: usize,
}

impl Parsed {
    /// Adds what another file held.
    pub fn extend(&mut self, other: Self) {
        let Self {
            resources,
            problems,
            ignored,
            broken,
            unreadable,
        } = other;
        self.resources.extend(resources);
        self.problems.extend(problems);
        self.ignored.extend(ignored);
        self.broken.extend(broken);
        self.unreadable += unreadable;
    }
}

/// Reads the text of one file. `file` is only for the messages.
///
/// A file without documents is no problem: it holds nothing.
pub fn parse(file: &Path, text: &str) -> Parsed {
    let yaml::Read { documents, faults } = yaml::read(text);
    let mut parsed = Parsed::default();
    for yaml::Fault {
        mark,
        message,
        fatal,
    } in faults
    {
        parsed.unreadable += usize::from(fatal);
        parsed.problems.push(problem(file, mark, message));
    }
    for yaml::Document { root, faulty } in documents {
        document::read(file, root, faulty, &mut parsed);
    }
    parsed.problems.sort();
    parsed.problems.dedup();
    parsed
}

fn problem(file: &Path, mark: node::Mark, message: impl Into<String>) -> Problem {
    Problem {
        location: location(file, mark),
        message: message.into(),
    }
}

fn location(file: &Path, mark: node::Mark) -> Location {
    Location {
        file: file.to_owned(),
        line: mark.line,
        column: mark.column,
    }
}
