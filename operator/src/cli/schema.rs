//! `holdfast schema --crd|--json`.

use comfy_table::Table;
use holdfast_crds::crdgen::{self, CrdgenError};
use serde_json::Value;

use super::arguments::{OutputFormat, SchemaArgs};
use super::failure::Failure;
use super::print;

/// Prints the schema of the resources: CRDs as YAML and the schema of editors as JSON, unless another
/// format is asked for.
pub(super) fn schema(arguments: &SchemaArgs) -> Result<(), Failure> {
    let failed = |error: CrdgenError| Failure::Failed(error.to_string());
    let format = arguments.output.output;
    match (arguments.crd, format) {
        (true, OutputFormat::Json) => print::list(format, &crdgen::crds(), Table::new),
        (true, OutputFormat::Table | OutputFormat::Yaml) => {
            print::write(crdgen::crd_yaml().map_err(failed)?.as_bytes())
        }
        (false, OutputFormat::Yaml) => {
            let text = crdgen::json_schema().map_err(failed)?;
            let value: Value =
                serde_json::from_str(&text).map_err(|error| Failure::Failed(error.to_string()))?;
            print::one(format, &value, String::new)
        }
        (false, OutputFormat::Table | OutputFormat::Json) => {
            print::write(crdgen::json_schema().map_err(failed)?.as_bytes())
        }
    }
}
