//! Choosing namespaces and giving them other names: patterns with `*`, as `mongorestore` has them
//! in `--nsFrom` and `--nsTo`.

/// A rule that gives namespaces another name: `shop.*` becomes `shop_copy.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rename {
    from: String,
    pieces: Vec<String>,
    to: Vec<String>,
}

impl Rename {
    /// Parses a rule; the error is a sentence fragment that says what is wrong with it.
    pub(super) fn parse(from: &str, to: &str) -> Result<Self, String> {
        // As in include patterns, a name without a dot is a database with all that is in it.
        if !from.contains('.') && !to.contains('.') && !from.is_empty() && !to.is_empty() {
            return Self::parse(&format!("{from}.*"), &format!("{to}.*"));
        }
        for (side, pattern) in [("from", from), ("to", to)] {
            match pattern.split_once('.') {
                Some((db, name)) if !db.is_empty() && !name.is_empty() => {}
                _ => return Err(format!("\"{pattern}\" ({side}) is not database.collection")),
            }
        }
        let (stars_from, stars_to) = (from.matches('*').count(), to.matches('*').count());
        if stars_from != stars_to {
            return Err(format!(
                "\"{from}\" has {stars_from} asterisks and \"{to}\" has {stars_to}; each * on the left is put in place of the * at the same position on the right"
            ));
        }
        Ok(Self {
            from: from.to_owned(),
            pieces: from.split('*').map(str::to_owned).collect(),
            to: to.split('*').map(str::to_owned).collect(),
        })
    }

    /// The left side, as it was written.
    pub(super) fn from(&self) -> &str {
        &self.from
    }

    /// How many characters of the left side are literal: of two rules that match, the more exact
    /// one wins, so that the order in which they are written does not matter.
    fn exactness(&self) -> (bool, usize) {
        (
            self.pieces.len() == 1,
            self.pieces.iter().map(String::len).sum(),
        )
    }

    /// The new name, when the rule matches.
    pub(super) fn apply(&self, namespace: &str) -> Option<String> {
        let stars = capture(&self.pieces, namespace)?;
        let mut name = String::with_capacity(namespace.len() + 8);
        for (at, literal) in self.to.iter().enumerate() {
            name.push_str(literal);
            name.push_str(stars.get(at).copied().unwrap_or_default());
        }
        Some(name)
    }
}

/// The most exact rule that matches, and the name it gives.
pub(super) fn rename<'r>(rules: &'r [Rename], namespace: &str) -> Option<(&'r Rename, String)> {
    let mut best: Option<(&Rename, String)> = None;
    for rule in rules {
        if let Some(name) = rule.apply(namespace)
            && best
                .as_ref()
                .is_none_or(|(other, _)| rule.exactness() > other.exactness())
        {
            best = Some((rule, name));
        }
    }
    best
}

/// What each `*` between the literal pieces stands for, the leftmost as short as possible, as in
/// `mongorestore`.
fn capture<'t>(pieces: &[String], text: &'t str) -> Option<Vec<&'t str>> {
    let (first, rest) = pieces.split_first()?;
    let Some((last, middle)) = rest.split_last() else {
        return (text == first).then(Vec::new);
    };
    let mut text = text.strip_prefix(first.as_str())?;
    let mut stars = Vec::with_capacity(rest.len());
    for literal in middle {
        let at = text.find(literal.as_str())?;
        stars.push(&text[..at]);
        text = &text[at + literal.len()..];
    }
    stars.push(text.strip_suffix(last.as_str())?);
    Some(stars)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Rename, rename};

    #[rstest]
    #[case("shop.*", "shop_copy.*", "shop.orders", Some("shop_copy.orders"))]
    #[case("shop.*", "shop_copy.*", "shop.a.b*c", Some("shop_copy.a.b*c"))]
    #[case("shop.*", "shop_copy.*", "shopping.orders", None)]
    #[case("*.orders", "copy.orders_*", "shop.orders", Some("copy.orders_shop"))]
    #[case("prod_*.x_*", "test_*.y_*", "prod_eu.x_1", Some("test_eu.y_1"))]
    #[case("shop.orders", "shop.orders2", "shop.orders", Some("shop.orders2"))]
    #[case("shop.orders", "shop.orders2", "shop.orders1", None)]
    #[case("*.*", "*.*", "shop.a.b", Some("shop.a.b"))]
    #[case("shop", "copy", "shop.a.b", Some("copy.a.b"))]
    fn renames(
        #[case] from: &str,
        #[case] to: &str,
        #[case] namespace: &str,
        #[case] expected: Option<&str>,
    ) {
        let rule = Rename::parse(from, to).unwrap();
        assert_eq!(rule.apply(namespace).as_deref(), expected);
    }

    #[rstest]
    #[case("shop.*", "copy")]
    #[case("shop.*", "copy.")]
    #[case("", "copy")]
    #[case("shop.*", "copy.all")]
    #[case(".a", "b.a")]
    fn refuses(#[case] from: &str, #[case] to: &str) {
        assert!(Rename::parse(from, to).is_err());
    }

    #[test]
    fn the_more_exact_rule_wins_in_either_order() {
        let general = Rename::parse("shop.*", "all.*").unwrap();
        let exact = Rename::parse("shop.orders", "one.orders").unwrap();
        for rules in [[general.clone(), exact.clone()], [exact, general]] {
            assert_eq!(rename(&rules, "shop.orders").unwrap().1, "one.orders");
            assert_eq!(rename(&rules, "shop.other").unwrap().1, "all.other");
        }
    }

    proptest! {
        /// A rule with one `*` in the collection moves every name of the database and loses
        /// nothing of it, whatever characters it holds.
        #[test]
        fn nothing_of_a_name_is_lost(name in "[^\\x00$]{1,40}") {
            let rule = Rename::parse("db.*", "other.*").unwrap();
            prop_assert_eq!(rule.apply(&format!("db.{name}")), Some(format!("other.{name}")));
        }

        /// Renaming there and back gives the name again.
        #[test]
        fn there_and_back(name in "[a-z.*_]{1,20}") {
            let there = Rename::parse("db.x_*", "other.y_*").unwrap();
            let back = Rename::parse("other.y_*", "db.x_*").unwrap();
            let namespace = format!("db.x_{name}");
            let renamed = there.apply(&namespace).unwrap();
            prop_assert_eq!(back.apply(&renamed), Some(namespace));
        }
    }
}
