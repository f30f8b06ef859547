//! `docs/conditions.md` is the list of reasons: each one that the code gives is in it.

#[path = "support/control.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use holdfast_e2e::helm::project;

/// Where the errors are of the command line and of what is served, which no object ever shows.
const ELSEWHERE: [&str; 2] = ["operator/src/cli/", "operator/src/web/"];

/// What a reason is given to, besides the methods called `reason`.
const GIVEN: [&str; 4] = [
    "Verdict::yes(",
    "Verdict::no(",
    "Verdict::unknown(",
    "refuse(",
];

/// The text up to where its bracket closes. Brackets in strings are few here, and always in pairs.
fn balanced(text: &str, open: char, close: char) -> &str {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return &text[..at];
            }
        }
    }
    text
}

/// The quoted words of a text that look like reasons.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2).filter(|word| {
        word.len() > 3
            && word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.chars().all(|letter| letter.is_ascii_alphabetic())
    })
}

/// The sources that give reasons, without their tests.
fn sources() -> Result<Vec<(String, String)>> {
    let root = project();
    let mut sources = Vec::new();
    for file in support::files(&root.join("operator"))? {
        let name = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        let tests = Path::new(&name).components().any(|part| {
            ["tests", "tests.rs", "target"]
                .map(AsRef::as_ref)
                .contains(&part.as_os_str())
        });
        if name.ends_with(".rs") && !tests && !ELSEWHERE.iter().any(|other| name.starts_with(other))
        {
            let text = std::fs::read_to_string(&file)?;
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            sources.push((name, code.to_owned()));
        }
    }
    ensure!(sources.len() > 50, "only {} sources", sources.len());
    Ok(sources)
}

#[test]
fn every_reason_is_documented() -> Result<()> {
    let document = std::fs::read_to_string(project().join("docs/conditions.md"))?;
    // The first cell of a row holds the reasons.
    let documented: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let sources = sources()?;
    let mut given = BTreeSet::new();
    for (name, text) in &sources {
        for (at, _) in text.match_indices("fn reason(&self) -> &'static str {") {
            let body = balanced(&text[at..], '{', '}');
            given.extend(words(body).map(|word| (word, name.as_str())));
        }
        for call in GIVEN {
            for (at, _) in text.match_indices(call) {
                let arguments = balanced(&text[at..], '(', ')');
                // The reason comes first of what is said.
                given.extend(words(arguments).take(1).map(|word| (word, name.as_str())));
            }
        }
    }
    ensure!(given.len() > 80, "only {} reasons were found", given.len());
    let missing: Vec<_> = given
        .iter()
        .filter(|(word, _)| !documented.contains(word))
        .collect();
    ensure!(
        missing.is_empty(),
        "docs/conditions.md does not have {missing:?}"
    );
    Ok(())
}
