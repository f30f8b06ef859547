//! Patterns of paths, for excludes and for choosing what to restore.
//!
//! The grammar is that of `.gitignore`, with the root of the file system as its root, and with
//! restic's rule where the two differ: a pattern that begins without a slash matches at any depth,
//! also when it has a slash further on (`cache/tmp`).

use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::FilesError;

/// A list of patterns; the last one that matches decides.
#[derive(Debug, Clone)]
pub struct Patterns {
    matcher: Gitignore,
}

/// What a list of patterns says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A pattern matches.
    Matched,
    /// A pattern that begins with `!` matches.
    Negated,
    /// No pattern matches.
    Unmatched,
}

impl Patterns {
    /// Compiles a list of patterns.
    ///
    /// # Errors
    /// [`FilesError::InvalidConfig`] that names the pattern.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, FilesError> {
        let mut builder = GitignoreBuilder::new("/");
        // A bracket that is never closed is a mistake to tell, not a literal to guess.
        builder.allow_unclosed_class(false);
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let invalid = |cause: String| FilesError::invalid("pattern", pattern.to_owned(), cause);
            builder
                .add_line(None, &gitignore_line(pattern).map_err(invalid)?)
                .map_err(|error| invalid(error.to_string()))?;
        }
        let matcher = builder
            .build()
            .map_err(|error| FilesError::invalid("pattern", "", error.to_string()))?;
        Ok(Self { matcher })
    }

    /// What the patterns say of this absolute path. Its ancestors are not looked at: a walk
    /// does not come below a directory that matches.
    #[must_use]
    pub fn verdict(&self, path: &Path, is_directory: bool) -> Verdict {
        if path == Path::new("/") {
            // The matcher would be asked about an empty name.
            return Verdict::Unmatched;
        }
        match self.matcher.matched(path, is_directory) {
            Match::Ignore(_) => Verdict::Matched,
            Match::Whitelist(_) => Verdict::Negated,
            Match::None => Verdict::Unmatched,
        }
    }

    /// Whether the path matches and is not taken out again.
    #[must_use]
    pub fn matches(&self, path: &Path, is_directory: bool) -> bool {
        self.verdict(path, is_directory) == Verdict::Matched
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.matcher.is_empty()
    }
}

/// The pattern as a line of a `.gitignore` at the root of the file system.
fn gitignore_line(pattern: &str) -> Result<String, String> {
    let (negation, body) = match pattern.strip_prefix('!') {
        Some(body) => ("!", body),
        None => ("", pattern),
    };
    if body.trim().is_empty() {
        return Err("it is empty; give a name, a path or a glob, such as *.tmp".into());
    }
    if body.split('/').any(|part| part == ".." || part == ".") {
        return Err("`.` and `..` never occur in the paths that are compared; give the absolute path or a name".into());
    }
    // An inner slash would anchor it at the root; a trailing one only says "directories".
    let inner_slash = body.trim_end_matches('/').contains('/');
    let anchored = body.starts_with('/');
    let floating = if inner_slash && !anchored && !body.starts_with("**/") {
        "**/"
    } else {
        ""
    };
    // These would be a comment or a second negation at the head of a line.
    let escape = if floating.is_empty() && (body.starts_with('#') || body.starts_with('!')) {
        "\\"
    } else {
        ""
    };
    // A line loses its trailing blanks, and a name may have them: each is put in braces, as the
    // one alternative. (A class would do for ASCII only: it matches single bytes.)
    let mut kept = body.trim_end();
    let blanks = body[kept.len()..].chars();
    let escaped = kept.len() - kept.trim_end_matches('\\').len();
    if blanks.as_str() != "" && escaped % 2 == 1 {
        kept = &kept[..kept.len() - 1];
    }
    let blanks: String = blanks.map(|blank| format!("{{{blank}}}")).collect();
    Ok(format!("{negation}{floating}{escape}{kept}{blanks}"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("*.tmp", "/srv/a/b.tmp", false, true)]
    #[case("*.tmp", "/srv/a/b.tmpx", false, false)]
    #[case("*.tmp", "/x.tmp", true, true)]
    #[case("/abs/dir/cache", "/abs/dir/cache", true, true)]
    #[case("/abs/dir/cache", "/srv/abs/dir/cache", true, false)]
    #[case("/abs/*/cache", "/abs/a/cache", true, true)]
    #[case("/abs/*/cache", "/abs/a/b/cache", true, false)]
    #[case("**/node_modules", "/srv/app/node_modules", true, true)]
    #[case("node_modules", "/srv/app/node_modules", true, true)]
    #[case("cache/tmp", "/srv/cache/tmp", true, true)]
    #[case("cache/tmp", "/cache/tmp", false, true)]
    #[case("cache/tmp", "/srv/cache/x/tmp", false, false)]
    #[case("cache/**/tmp", "/srv/cache/x/y/tmp", false, true)]
    #[case("/srv/**", "/srv/a", false, true)]
    #[case("/srv/**", "/srv", true, false)]
    #[case("logs/", "/srv/logs", true, true)]
    #[case("logs/", "/srv/logs", false, false)]
    #[case("/srv/logs/", "/srv/logs", true, true)]
    #[case("file?.[ch]", "/srv/file1.c", false, true)]
    #[case("file?.[!ch]", "/srv/file1.c", false, false)]
    #[case("#x#", "/srv/#x#", false, true)]
    #[case("\\!x", "/srv/!x", false, true)]
    #[case("\\*", "/srv/*", false, true)]
    #[case("\\*", "/srv/a", false, false)]
    #[case("tail ", "/srv/tail ", false, true)]
    #[case("tail ", "/srv/tail", false, false)]
    #[case("tail\\ ", "/srv/tail ", false, true)]
    #[case("tail\t", "/srv/tail\t", false, true)]
    #[case("tail\u{85}", "/srv/tail\u{85}", false, true)]
    #[case("*.TMP", "/srv/a.tmp", false, false)]
    #[case("/", "/srv", true, false)]
    fn one_pattern(
        #[case] pattern: &str,
        #[case] path: &str,
        #[case] is_directory: bool,
        #[case] expected: bool,
    ) {
        let patterns = Patterns::new(&[pattern]).unwrap();
        assert_eq!(patterns.matches(Path::new(path), is_directory), expected);
    }

    #[test]
    fn the_last_match_decides() {
        let patterns = Patterns::new(&["*.log", "!keep.log"]).unwrap();
        assert_eq!(
            patterns.verdict(Path::new("/a.log"), false),
            Verdict::Matched
        );
        assert_eq!(
            patterns.verdict(Path::new("/keep.log"), false),
            Verdict::Negated
        );
        let patterns = Patterns::new(&["!keep.log", "*.log"]).unwrap();
        assert!(patterns.matches(Path::new("/keep.log"), false));
    }

    #[rstest]
    #[case("")]
    #[case("  ")]
    #[case("!")]
    #[case("[a")]
    #[case("a/../b")]
    #[case("./a")]
    fn what_cannot_match_is_an_error_that_names_it(#[case] pattern: &str) {
        let error = Patterns::new(&["ok", pattern]).unwrap_err().to_string();
        assert!(error.contains(&format!("{pattern:?}")), "{error}");
    }

    #[test]
    fn names_that_are_not_unicode_are_matched_by_their_bytes() {
        let patterns = Patterns::new(&["*.tmp"]).unwrap();
        let path = PathBuf::from(OsString::from_vec(b"/srv/\xff\xfe.tmp".to_vec()));
        assert!(patterns.matches(&path, false));
    }

    fn escaped(name: &str) -> String {
        name.chars().flat_map(|c| ['\\', c]).collect()
    }

    proptest! {
        /// A name given literally matches itself at any depth, and nothing longer.
        #[test]
        fn a_literal_name_matches_itself_anywhere(
            parents in proptest::collection::vec("[a-z]{1,8}", 0..5),
            name in "[^/\\x00]{1,20}",
        ) {
            prop_assume!(name != "." && name != ".." && !name.trim().is_empty());
            let patterns = Patterns::new(&[escaped(&name)]).unwrap();
            let parent = format!("/{}", parents.join("/"));
            let path = Path::new(&parent).join(&name);
            prop_assert!(patterns.matches(&path, false), "{path:?}");
            let longer = Path::new(&parent).join(format!("{name}x"));
            prop_assert!(!patterns.matches(&longer, false), "{longer:?}");
        }

        /// An absolute path given literally matches itself and not the same path below another.
        #[test]
        fn an_absolute_path_matches_only_itself(
            parts in proptest::collection::vec("[a-zA-Z0-9 éß_-]{1,8}", 1..6),
        ) {
            prop_assume!(parts.iter().all(|part| !part.trim().is_empty()));
            let path = format!("/{}", parts.join("/"));
            let patterns = Patterns::new(&[&path]).unwrap();
            prop_assert!(patterns.matches(Path::new(&path), true));
            let below = format!("/zzzzzzzzzz{path}");
            prop_assert!(!patterns.matches(Path::new(&below), true));
        }

        /// Whatever text comes in, compiling never panics.
        #[test]
        fn any_text_compiles_or_is_refused(pattern in ".{0,30}") {
            let _ = Patterns::new(&[pattern]);
        }
    }
}
