//! Writes the generated files: the CRDs, the chart's copies of them, and the JSON Schema.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in holdfast_crds::crdgen::files()? {
        let path = root.join(&file.path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, &file.content)
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
