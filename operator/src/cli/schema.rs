//! `holdfast schema --crd|--json`.

use holdfast_crds::crdgen;

use super::arguments::SchemaArgs;
use super::failure::Failure;

/// Prints the schema of the resources.
pub(super) fn schema(arguments: &SchemaArgs) -> Result<(), Failure> {
    let text = if arguments.crd {
        crdgen::crd_yaml()
    } else {
        crdgen::json_schema()
    };
    let text = text.map_err(|error| Failure::Failed(error.to_string()))?;
    super::print::write(text.as_bytes())?;
    Ok(())
}
