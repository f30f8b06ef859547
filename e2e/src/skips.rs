//! What a machine cannot run is said by name, and gathered where `make test` tells of it at the end: the
//! runner shows what a test prints only when it fails.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The variable with the file in which skips are gathered.
const FILE: &str = "HOLDFAST_E2E_SKIPPED";

/// Says on standard error that something is skipped, and why; and appends it, as `WHAT: REASON` in a line of its
/// own, to the file that `HOLDFAST_E2E_SKIPPED` names, if it names one. `what` is the name of the test, with the
/// part of it that is left out if that is not all.
pub fn skip(what: &str, reason: &str) {
    let line = format!("{what}: {}", reason.trim().replace('\n', " "));
    eprintln!("skipped: {line}");
    if let Some(file) = std::env::var_os(FILE).filter(|file| !file.is_empty())
        && let Err(error) = append(&file, &line)
    {
        eprintln!("{}: {error}", Path::new(&file).display());
    }
}

/// Appends a line by one write: tests of other processes do the same.
fn append(file: &OsStr, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}
