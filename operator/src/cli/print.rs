//! Results on standard output. A reader that went away (`| head`) is no failure.

use std::io::{ErrorKind, Write};

use comfy_table::Table;
use serde::Serialize;

use super::arguments::OutputFormat;
use super::failure::Failure;
use super::output::{self, OutputError};

/// Writes text.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    told(
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(OutputError::from),
    )
}

/// Writes one thing in the format asked for; the text is made only when it is wanted.
pub(super) fn one(
    format: OutputFormat,
    item: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    told(output::print_one(
        &mut std::io::stdout().lock(),
        format,
        item,
        text,
    ))
}

/// Writes several objects in the format asked for.
pub(super) fn list<T: Serialize>(
    format: OutputFormat,
    items: &[T],
    table: impl FnOnce() -> Table,
) -> Result<(), Failure> {
    told(output::print_list(
        &mut std::io::stdout().lock(),
        format,
        items,
        table,
    ))
}

/// Writes a table.
pub(super) fn table(table: &Table) -> Result<(), Failure> {
    told(output::print_table(&mut std::io::stdout().lock(), table))
}

fn told(result: Result<(), OutputError>) -> Result<(), Failure> {
    match result {
        Err(OutputError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Failed(error.to_string())),
        Ok(()) => Ok(()),
    }
}
