//! How far a restore came, for the error that says what had been done when it failed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::source::mongodb::namespace::Namespace;

/// How many names an error gives before it counts.
const NAMES_SHOWN: usize = 10;

/// How far one namespace came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing of it was touched.
    Untouched,
    /// It is dropped, created or being filled; so many documents are in.
    Begun(u64),
    /// All documents are in.
    Loaded,
    /// Its indexes are built, too.
    Complete,
}

/// How far every namespace of a restore came.
#[derive(Debug)]
pub(super) struct Extent(Mutex<Vec<State>>);

impl Extent {
    /// So many namespaces, all untouched.
    pub(super) fn new(namespaces: usize) -> Self {
        Self(Mutex::new(vec![State::Untouched; namespaces]))
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace at this place came so far.
    pub(super) fn reach(&self, at: usize, state: State) {
        if let Some(one) = self.states().get_mut(at) {
            *one = state;
        }
    }

    /// So many more documents are in.
    pub(super) fn count(&self, at: usize, documents: u64) {
        if let Some(State::Begun(done)) = self.states().get_mut(at) {
            *done += documents;
        }
    }

    /// What had been done, in words; `None` when nothing had. `namespaces` are all, in order, each
    /// with the number of its documents.
    pub(super) fn describe<'n>(
        &self,
        namespaces: impl Iterator<Item = (&'n Namespace, u64)>,
    ) -> Option<String> {
        let states = self.states();
        if states.iter().all(|state| *state == State::Untouched) {
            return None;
        }
        let mut groups: [(&str, Vec<String>); 4] = [
            ("complete", Vec::new()),
            ("without indexes", Vec::new()),
            ("partial", Vec::new()),
            ("not begun", Vec::new()),
        ];
        for ((namespace, documents), state) in namespaces.zip(states.iter()) {
            let (group, text) = match state {
                State::Complete => (0, namespace.to_string()),
                State::Loaded => (1, namespace.to_string()),
                State::Begun(done) => (2, format!("{namespace} ({done} of {documents} documents)")),
                State::Untouched => (3, namespace.to_string()),
            };
            groups[group].1.push(text);
        }
        let described: Vec<String> = groups
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {}", shortened(names)))
            .collect();
        Some(described.join("; "))
    }
}

fn shortened(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
    match names.len() - names.len().min(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Extent, State};
    use crate::source::mongodb::namespace::Namespace;

    #[test]
    fn says_what_is_complete_and_what_is_not() {
        let names: Vec<Namespace> = (0..15)
            .map(|n| Namespace::new("db", n.to_string()))
            .collect();
        let all = || names.iter().map(|name| (name, 7));
        let extent = Extent::new(names.len());
        assert_eq!(extent.describe(all()), None);
        extent.reach(0, State::Complete);
        extent.reach(1, State::Loaded);
        extent.reach(2, State::Begun(0));
        extent.count(2, 3);
        extent.count(3, 3);
        assert_eq!(
            extent.describe(all()).unwrap(),
            "complete: db.0; without indexes: db.1; partial: db.2 (3 of 7 documents); \
             not begun: db.3, db.4, db.5, db.6, db.7, db.8, db.9, db.10, db.11, db.12 and 2 more"
        );
    }
}
