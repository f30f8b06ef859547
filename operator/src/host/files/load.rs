//! Reads manifests from files and directories: all of it is right, or every problem is told.

use std::path::{Path, PathBuf};

use holdfast_crds::manifest::{self, Ignored, Loaded, Location, Parsed, Problem};

/// What the files hold.
#[derive(Debug, Default)]
pub struct LoadedFiles {
    /// The resources that are right in themselves.
    pub resources: Vec<Loaded>,
    /// Everything that is wrong, in order of place.
    pub problems: Vec<Problem>,
    /// Documents that are not ours.
    pub ignored: Vec<Ignored>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Whether references between the objects are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// References between the objects must hold.
    Checked,
    /// They are left to the reconcilers.
    Unchecked,
}

/// Reads every manifest of `paths`: files as they are given, directories with everything below them
/// that ends in `.yaml`, `.yml` or `.json`, but for hidden files and directories.
#[must_use]
pub fn load(paths: &[PathBuf], references: References) -> LoadedFiles {
    let mut loaded = LoadedFiles::default();
    for path in paths {
        collect(path, true, &mut loaded);
    }
    loaded.files.sort();
    loaded.files.dedup();

    let mut parsed = Parsed::default();
    for file in &loaded.files {
        match std::fs::read_to_string(file) {
            Ok(text) => parsed.extend(manifest::parse(file, &text)),
            Err(error) => parsed.problems.push(problem(file, unreadable(&error))),
        }
    }
    if references == References::Checked {
        let problems = manifest::check_references(&parsed);
        parsed.problems.extend(problems);
    }
    loaded.resources = parsed.resources;
    loaded.problems.extend(parsed.problems);
    loaded.problems.sort();
    loaded.ignored = parsed.ignored;
    loaded
}

fn collect(path: &Path, given: bool, loaded: &mut LoadedFiles) {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // What vanishes while a directory is read is seen by the next load.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !given => return,
        Err(error) => return loaded.problems.push(problem(path, unreadable(&error))),
    };
    if !metadata.is_dir() {
        if given || is_manifest(path) {
            loaded.files.push(path.to_owned());
        }
        return;
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return loaded.problems.push(problem(path, unreadable(&error))),
    };
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
            Ok(entry) => collect(&entry.path(), false, loaded),
            Err(error) => loaded.problems.push(problem(path, unreadable(&error))),
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file or directory; check the path".into(),
        std::io::ErrorKind::InvalidData => {
            "the file is not UTF-8 text; write manifests as UTF-8".into()
        }
        _ => format!("cannot read it: {error}; make it readable for this process"),
    }
}

fn problem(path: &Path, message: String) -> Problem {
    Problem {
        location: Location {
            file: path.to_owned(),
            line: 1,
            column: 1,
        },
        message,
    }
}
