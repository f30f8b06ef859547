//! How results are printed: tables for a person, and JSON or YAML of the resources themselves as
//! kubectl prints them.

pub mod human;
mod tables;

use std::io::Write;

use holdfast_engine::class::{Classified, ErrorClass};
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) use tables::table;
pub use tables::{backups, history, plans};

use crate::cli::OutputFormat;
use crate::journal::Run;
use crate::plan::Plan;

/// Why a result could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The standard output did not take it.
    #[error("cannot write the result: {0}; look whether the reader of the output is gone")]
    Write(#[from] std::io::Error),
    /// It has no such form.
    #[error("cannot write the result as {format}: {cause}; use another format with -o")]
    Format {
        /// `JSON` or `YAML`.
        format: &'static str,
        /// What came back.
        cause: String,
    },
}

impl Classified for OutputError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Write(_) => "OutputClosed",
            Self::Format { .. } => "OutputFormat",
        }
    }
}

/// Prints a list: the table, or a `List` of the items.
///
/// # Errors
/// When it cannot be written.
pub fn print_list<T: Serialize>(
    out: &mut impl Write,
    format: OutputFormat,
    items: &[T],
    table: impl FnOnce() -> comfy_table::Table,
) -> Result<(), OutputError> {
    match format {
        OutputFormat::Table => print_table(out, &table()),
        OutputFormat::Json | OutputFormat::Yaml => {
            let items = serde_json::to_value(items).map_err(json_error)?;
            print_value(out, format, &list(items))
        }
    }
}

/// Prints one thing: the text, or the resource itself.
///
/// # Errors
/// When it cannot be written.
pub fn print_one<T: Serialize>(
    out: &mut impl Write,
    format: OutputFormat,
    item: &T,
    text: impl FnOnce() -> String,
) -> Result<(), OutputError> {
    match format {
        OutputFormat::Table => Ok(writeln!(out, "{}", text().trim_end())?),
        OutputFormat::Json | OutputFormat::Yaml => {
            let value = serde_json::to_value(item).map_err(json_error)?;
            print_value(out, format, &value)
        }
    }
}

/// A run in the form of a resource.
#[must_use]
pub fn run_resource(run: &Run) -> Value {
    let Run {
        id,
        kind,
        namespace,
        policy,
        destination,
        destination_namespace,
        object,
        into_source: _,
        scheduled_for,
        fingerprint: _,
        started,
        holder,
        ending,
    } = run;
    let spec = json!({
        "action": kind,
        "policy": policy,
        "destination": destination,
        "destinationNamespace": destination_namespace,
        "object": object,
        "scheduledFor": scheduled_for,
    });
    let mut status = json!({"startTime": started, "process": holder.pid});
    if let (Some(ending), Some(status)) = (ending, status.as_object_mut()) {
        status.insert("completionTime".to_owned(), json!(ending.at));
        status.insert("outcome".to_owned(), json!(ending.outcome));
        status.insert("error".to_owned(), json!(ending.error));
        status.insert("figures".to_owned(), json!(ending.figures));
        status.insert("backup".to_owned(), json!(ending.snapshot));
        status.insert("hooks".to_owned(), json!(ending.hooks));
    }
    json!({
        "apiVersion": holdfast_crds::API_VERSION,
        "kind": "Run",
        "metadata": {"name": id, "namespace": namespace, "creationTimestamp": started},
        "spec": without_nulls(spec),
        "status": without_nulls(status),
    })
}

/// A plan in the form of a resource.
#[must_use]
pub fn plan_resource(plan: &Plan) -> Value {
    json!({
        "apiVersion": holdfast_crds::API_VERSION,
        "kind": "Plan",
        "subject": plan.subject,
        "actions": plan.actions,
        "forecast": plan.forecast,
    })
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    value
}

/// What kubectl wraps several objects in.
fn list(items: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "items": items,
        "kind": "List",
        "metadata": {"resourceVersion": ""},
    })
}

fn print_value(
    out: &mut impl Write,
    format: OutputFormat,
    value: &Value,
) -> Result<(), OutputError> {
    if format == OutputFormat::Yaml {
        let yaml = serde_saphyr::to_string(value).map_err(|cause| OutputError::Format {
            format: "YAML",
            cause: cause.to_string(),
        })?;
        return Ok(writeln!(out, "{}", yaml.trim_end())?);
    }
    // Four spaces, as kubectl has it.
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut text = Vec::new();
    value
        .serialize(&mut serde_json::Serializer::with_formatter(
            &mut text, indent,
        ))
        .map_err(json_error)?;
    text.push(b'\n');
    Ok(out.write_all(&text)?)
}

fn json_error(cause: serde_json::Error) -> OutputError {
    OutputError::Format {
        format: "JSON",
        cause: cause.to_string(),
    }
}

/// Prints a table without the spaces that fill up its last column.
///
/// # Errors
/// When it cannot be written.
pub fn print_table(out: &mut impl Write, table: &comfy_table::Table) -> Result<(), OutputError> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
