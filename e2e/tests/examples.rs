//! The manifests that people are shown, in `examples/` and in the README, are valid as they stand.

#[path = "support/control.rs"]
mod support;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::Workspace;
use support::expect;

/// Examples that say themselves that they go with others.
const TOGETHER: &[(&str, &str)] = &[("restore", "quickstart"), ("backup", "quickstart")];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How many objects `holdfast validate PATHS… -o json` counts; it has to find nothing wrong.
async fn valid(workspace: &Workspace, paths: &[PathBuf]) -> Result<u64> {
    let mut args = vec!["validate".to_owned(), "-o".to_owned(), "json".to_owned()];
    args.extend(paths.iter().map(|path| path.to_string_lossy().into_owned()));
    let report = expect(workspace.holdfast(args).await?, 0, &[])?.json()?;
    ensure!(report["valid"] == true, "{report}");
    report["objects"].as_u64().context("no count of objects")
}

#[tokio::test]
async fn every_example_is_valid() -> Result<()> {
    let workspace = Workspace::new()?;
    let examples = project().join("examples");
    let mut folders = 0;
    for entry in std::fs::read_dir(&examples)? {
        let folder = entry?.path();
        if !folder.is_dir() {
            ensure!(
                folder
                    .extension()
                    .is_none_or(|extension| extension != "yaml"),
                "{} is in no folder of its own",
                folder.display()
            );
            continue;
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut paths = vec![folder.clone()];
        let with = TOGETHER.iter().filter(|(one, _)| *one == name);
        paths.extend(with.map(|(_, other)| examples.join(other)));
        let objects = valid(&workspace, &paths)
            .await
            .with_context(|| name.clone())?;
        ensure!(objects > 0, "{name} declares nothing");
        for file in support::files(&folder)? {
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&file)?;
            ensure!(
                text.starts_with('#'),
                "{} does not say what it is",
                file.display()
            );
        }
        folders += 1;
    }
    ensure!(folders >= 5, "{folders} examples");
    Ok(())
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(after)) => open = Some((after.trim() == language, String::new())),
            (Some(_), Some(_)) => {
                if let Some((true, block)) = open.take() {
                    found.push(block);
                }
            }
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

#[tokio::test]
async fn the_yaml_of_the_readme_is_valid() -> Result<()> {
    let workspace = Workspace::new()?;
    let readme = std::fs::read_to_string(project().join("README.md"))?;
    let blocks = blocks(&readme, "yaml");
    ensure!(!blocks.is_empty(), "the README shows no YAML");
    for (number, block) in blocks.iter().enumerate() {
        workspace.yaml(&format!("readme-{number}"), block)?;
    }
    let objects = valid(&workspace, &[workspace.policies()]).await?;
    ensure!(objects >= 2, "{objects} objects");
    Ok(())
}

#[tokio::test]
async fn the_yaml_about_clusters_is_valid() -> Result<()> {
    let document = std::fs::read_to_string(project().join("docs/cluster.md"))?;
    let blocks = blocks(&document, "yaml");
    ensure!(blocks.len() >= 5, "{} blocks", blocks.len());
    for block in &blocks {
        let workspace = Workspace::new()?;
        workspace.yaml("block", block)?;
        // What declares no destination goes with the first policy of the document.
        if !block.contains("kind: Destination") {
            workspace.yaml("first", &blocks[0])?;
        }
        let objects = valid(&workspace, &[workspace.policies()])
            .await
            .with_context(|| block.clone())?;
        ensure!(objects >= 2, "{objects} objects");
    }
    Ok(())
}

#[tokio::test]
async fn the_commands_of_the_readme_exist() -> Result<()> {
    let workspace = Workspace::new()?;
    let readme = std::fs::read_to_string(project().join("README.md"))?;
    let mut verbs = std::collections::BTreeSet::new();
    for line in blocks(&readme, "").iter().flat_map(|block| block.lines()) {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        if words.next() != Some("holdfast") {
            continue;
        }
        let verb = words.next().context("holdfast alone")?.to_owned();
        let help = workspace
            .holdfast([verb.as_str(), "--help"])
            .await?
            .ok()?
            .stdout;
        for option in words.filter(|word| word.starts_with('-')) {
            ensure!(help.contains(option), "{verb} has no {option}: {help}");
        }
        verbs.insert(verb);
    }
    ensure!(verbs.len() >= 6, "{verbs:?}");
    Ok(())
}
