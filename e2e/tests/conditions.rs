//! `docs/conditions.md` is the list of reasons: each one that the code gives is in it, and no other.

#[path = "support/control.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use holdfast_e2e::helm::project;

/// Where the errors are of the command line and of what is served, which no object ever shows.
const ELSEWHERE: [&str; 2] = ["operator/src/cli/", "operator/src/web/"];

/// What a reason is given to, besides the methods called `reason`.
const GIVEN: [&str; 5] = [
    "Verdict::yes(",
    "Verdict::no(",
    "Verdict::unknown(",
    "refuse(",
    "say(",
];

/// How the comment begins of a constant that is a reason.
const CONSTANT: &str = "/// The reason ";

/// Where several reasons stand, one of which is given.
const CHOSEN: [&str; 2] = [
    "fn reason(&self) -> &'static str {",
    "let reason = match task {",
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

/// The reasons that a text gives.
fn reasons(text: &str) -> BTreeSet<&str> {
    let mut reasons = BTreeSet::new();
    for choice in CHOSEN {
        for (at, _) in text.match_indices(choice) {
            reasons.extend(words(balanced(&text[at..], '{', '}')));
        }
    }
    for call in GIVEN {
        for (at, _) in text.match_indices(call) {
            // The reason comes first of what is said.
            reasons.extend(words(balanced(&text[at..], '(', ')')).take(1));
        }
    }
    for (at, _) in text.match_indices("reason: \"") {
        let line = text[at..].lines().next().unwrap_or_default();
        reasons.extend(words(line).take(1));
    }
    for (at, _) in text.match_indices(CONSTANT) {
        let code = text[at..].lines().find(|line| !line.starts_with("///"));
        reasons.extend(code.into_iter().flat_map(words).take(1));
    }
    reasons
}

/// The names of the constants that are given as reasons.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("reason: ")
        .map(|(at, before)| &text[at + before.len()..])
        .filter_map(|after| {
            let end = after.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_')?;
            after.get(..end).filter(|name| name.len() > 2)
        })
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
        given.extend(reasons(text).into_iter().map(|word| (word, name.as_str())));
        for constant in named(text) {
            let declared = format!("const {constant}: &str = ");
            let comment = sources.iter().any(|(_, text)| {
                let mut before = text.split(&declared);
                let lines = before.next().unwrap_or_default().rsplit('\n');
                let mut comment = lines.skip(1).take_while(|line| line.starts_with("///"));
                before.next().is_some() && comment.any(|line| line.starts_with(CONSTANT))
            });
            ensure!(
                comment,
                "{constant} of {name} is a reason, and its comment does not begin so"
            );
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
    let stale: Vec<_> = documented
        .iter()
        .filter(|word| !given.iter().any(|(given, _)| given == *word))
        .collect();
    ensure!(stale.is_empty(), "nothing gives {stale:?} any more");
    Ok(())
}

#[test]
fn reasons_are_found_however_they_are_given() {
    let text = r#"
/// The reason of what nobody has looked into.
pub const NOT_SEEN: &str = "NotSeen";
/// The kind of something.
const KIND: &str = "Something";
let verdict = Verdict::no(
    "SecondOne", format!("{reason} of Others"));
let error = RunError { reason: "ThirdOne".to_owned() };
let looked = Looked { reason: NOT_SEEN.to_owned() };
"#;
    let found: Vec<&str> = reasons(text).into_iter().collect();
    assert_eq!(found, ["NotSeen", "SecondOne", "ThirdOne"]);
    assert_eq!(named(text).collect::<Vec<_>>(), ["NOT_SEEN"]);
}
