//! What a restore would find and do. Changes nothing; it is the plan of the dry run, and the check
//! for conflicts before the first write.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use tokio_util::sync::CancellationToken;

use super::compare::same;
use super::file::{HardLink, blocking};
use super::target::{Job, look, open_directory};
use super::traverse::{Step, Traversal};
use super::{OnConflict, RestoreFilesPlan};
use crate::source::files::error::FilesError;
use crate::source::{Content, Node, NodeKind};

/// What there is of a directory of the backup.
#[derive(Debug, Clone)]
enum Place {
    /// It is there.
    Open(Arc<File>),
    /// It is not there, so nothing in it is.
    Absent,
    /// Something else is there and stays; whether that is counted already.
    Blocked(bool),
}

/// Looks at everything that is chosen. Content is compared where the outcome depends on it, and
/// always when `exact`.
pub(super) async fn survey(
    content: &dyn Content,
    job: &Job,
    exact: bool,
    cancel: &CancellationToken,
) -> Result<RestoreFilesPlan, FilesError> {
    let mut plan = RestoreFilesPlan::default();
    let mut chosen = false;
    let mut links = HashSet::new();
    let mut places = vec![job.open_root()?.map_or(Place::Absent, Place::Open)];
    let mut steps = Traversal::new(content, &job.include);
    while let Some(step) = steps.next().await? {
        if cancel.is_cancelled() {
            return Err(FilesError::Cancelled);
        }
        let here = places.last().cloned().unwrap_or(Place::Absent);
        match step {
            Step::Leave => {
                places.pop();
            }
            Step::Enter(path, node, selected) => {
                chosen |= selected;
                places.push(directory(&mut plan, job, here, &path, &node, selected).await?);
            }
            Step::Leaf(_, _, false) => {}
            Step::Leaf(path, node, true) => {
                chosen = true;
                let first = HardLink::of(&node).is_none_or(|link| links.insert(link));
                let found = match here {
                    Place::Absent => None,
                    Place::Open(parent) => find(job, &parent, &path, &node)
                        .await?
                        .map(|stat| (parent, stat)),
                    Place::Blocked(counted) => {
                        if !counted {
                            plan.different
                                .push(&job.place(&path), "what leads there is no directory");
                        }
                        continue;
                    }
                };
                let Some((parent, stat)) = found else {
                    make(&mut plan, &node, first);
                    continue;
                };
                // What Merge keeps and Drop writes anew need not be compared to be carried out.
                let compare = exact || job.on_conflict == OnConflict::Fail;
                if compare && same(content, &parent, &node, &stat).await? {
                    plan.identical += 1;
                    continue;
                }
                if compare {
                    plan.different.push(&job.place(&path), "it differs");
                }
                if job.on_conflict == OnConflict::Drop {
                    make(&mut plan, &node, first);
                }
            }
        }
    }
    if !chosen && !job.patterns.is_empty() {
        return Err(FilesError::NothingSelected {
            patterns: job.patterns.join(", "),
        });
    }
    Ok(plan)
}

/// Counts something that is to be made.
fn make(plan: &mut RestoreFilesPlan, node: &Node, first: bool) {
    match &node.kind {
        NodeKind::File(_) => {
            plan.files += 1;
            // A further hard link to a file has no bytes of its own.
            if first {
                plan.bytes += node.size;
            }
        }
        NodeKind::Directory => plan.directories += 1,
        _ => plan.others += 1,
    }
}

async fn find(
    job: &Job,
    parent: &Arc<File>,
    path: &Path,
    node: &Node,
) -> Result<Option<Stat>, FilesError> {
    let (parent, name) = (Arc::clone(parent), node.name.clone());
    blocking(move || look(&parent, OsStr::from_bytes(&name)))
        .await
        .map_err(|cause| FilesError::target("look at", &job.place(path), cause))
}

/// What there is of a directory.
async fn directory(
    plan: &mut RestoreFilesPlan,
    job: &Job,
    here: Place,
    path: &Path,
    node: &Node,
    selected: bool,
) -> Result<Place, FilesError> {
    let parent = match here {
        Place::Open(parent) => parent,
        Place::Absent => {
            if selected {
                plan.directories += 1;
            }
            return Ok(Place::Absent);
        }
        blocked @ Place::Blocked(_) => return Ok(blocked),
    };
    let follow = job.leads(path);
    let stat = find(job, &parent, path, node).await?;
    let open = || {
        open_directory(&parent, OsStr::from_bytes(&node.name), follow)
            .map(|directory| Place::Open(Arc::new(directory)))
    };
    match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        None => {
            if selected {
                plan.directories += 1;
            }
            Ok(Place::Absent)
        }
        Some(FileType::Directory) => {
            if selected {
                plan.identical += 1;
            }
            open().map_err(|cause| FilesError::target("open", &job.place(path), cause))
        }
        Some(FileType::Symlink) if follow => {
            open().map_err(|cause| FilesError::target("open", &job.place(path), cause))
        }
        Some(_) => {
            if selected {
                plan.different
                    .push(&job.place(path), "it is not a directory");
            }
            if job.on_conflict == OnConflict::Drop {
                if selected {
                    plan.directories += 1;
                }
                Ok(Place::Absent)
            } else {
                Ok(Place::Blocked(selected))
            }
        }
    }
}
