//! What holds between objects: none twice, and none that refers to nothing.

use std::collections::BTreeMap;

use super::{Kind, Loaded, Location, ObjectKey, Parsed, Problem, Resource};
use crate::{BackupPolicy, PolicyDestination, Restore, RestoreTarget, Source, SourceKind, rules};

/// Checks the objects of all files against each other. Nothing is contacted:
/// what is in a cluster or at a destination does not count.
pub fn check_references(parsed: &Parsed) -> Vec<Problem> {
    let mut places: BTreeMap<ObjectKey, Vec<Location>> = BTreeMap::new();
    for loaded in &parsed.resources {
        places
            .entry(loaded.resource.key())
            .or_default()
            .push(loaded.location.clone());
    }
    for (key, location) in &parsed.broken {
        places
            .entry(key.clone())
            .or_default()
            .push(location.clone());
    }
    let mut problems = duplicates(&mut places);
    let checker = References {
        parsed,
        places: &places,
    };
    for loaded in &parsed.resources {
        match &loaded.resource {
            Resource::Destination(_) => {}
            Resource::BackupPolicy(policy) => checker.policy(loaded, policy, &mut problems),
            Resource::Backup(backup) => {
                let name = &backup.spec.policy;
                checker.exists(
                    loaded,
                    Kind::BackupPolicy,
                    name,
                    "/spec/policy",
                    &mut problems,
                );
            }
            Resource::Restore(restore) => checker.restore(loaded, restore, &mut problems),
        }
    }
    problems.sort();
    problems
}

fn duplicates(places: &mut BTreeMap<ObjectKey, Vec<Location>>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, locations) in places {
        locations.sort();
        let mut locations = locations.iter();
        let Some(first) = locations.next() else {
            continue;
        };
        for location in locations {
            problems.push(Problem {
                location: location.clone(),
                message: format!(
                    "{key} is declared twice, first at {first}: remove one of the two, or give it another name"
                ),
            });
        }
    }
    problems
}

struct References<'a> {
    parsed: &'a Parsed,
    places: &'a BTreeMap<ObjectKey, Vec<Location>>,
}

impl References<'_> {
    fn policy(&self, loaded: &Loaded, policy: &BackupPolicy, problems: &mut Vec<Problem>) {
        for (index, destination) in policy.spec.destinations.iter().enumerate() {
            let pointer = format!("/spec/destinations/{index}/name");
            self.destination(loaded, destination, &pointer, problems);
        }
    }

    fn restore(&self, loaded: &Loaded, restore: &Restore, problems: &mut Vec<Problem>) {
        let spec = &restore.spec;
        let from = &spec.from;
        let namespace = loaded.resource.key().namespace;
        let policy = self.find_policy(&namespace, &from.policy);
        // The policy says in which namespace it is.
        let named = policy.and_then(|policy| {
            let mut destinations = policy.spec.destinations.iter();
            destinations.find(|one| Some(&one.name) == from.destination.as_ref())
        });
        let destination = from.destination.as_deref().filter(|name| {
            let pointer = "/spec/from/destination";
            match named {
                Some(named) => self.destination(loaded, named, pointer, problems),
                None => self.exists(loaded, Kind::Destination, name, pointer, problems),
            }
        });
        self.exists(
            loaded,
            Kind::BackupPolicy,
            &from.policy,
            "/spec/from/policy",
            problems,
        );
        let Some(policy) = policy else {
            return;
        };

        let mut push = |pointer: &str, message: String| {
            problems.push(Problem {
                location: loaded.locate(pointer),
                message,
            });
        };
        if let Some(name) = destination {
            let known = &policy.spec.destinations;
            if !known.iter().any(|destination| destination.name == name) {
                let names: Vec<&str> = known.iter().map(|each| each.name.as_str()).collect();
                push(
                    "/spec/from/destination",
                    format!(
                        "policy `{}` does not back up to `{name}`: write one of {}, or leave destination out",
                        from.policy,
                        super::explain::words(&names)
                    ),
                );
            }
        }
        let kind = policy.spec.source.kind();
        if kind == SourceKind::Files && matches!(spec.to, RestoreTarget::Mongodb(_)) {
            push(
                "/spec/to/mongodb",
                format!(
                    "policy `{}` backs up files, which cannot be restored into MongoDB: write `files` or `original`",
                    from.policy
                ),
            );
        }
        for (index, pattern) in spec.include.iter().enumerate() {
            let pointer = format!("/spec/include/{index}");
            match (kind, pattern.starts_with('/')) {
                (SourceKind::Mongodb, true) => push(
                    &pointer,
                    format!(
                        "policy `{}` backs up MongoDB: write database.collection instead of a path",
                        from.policy
                    ),
                ),
                (SourceKind::Files, false) => push(
                    &pointer,
                    format!(
                        "policy `{}` backs up files: write an absolute path instead of a namespace",
                        from.policy
                    ),
                ),
                _ => {}
            }
        }
        if let (RestoreTarget::Mongodb(target), Source::Mongodb(_)) =
            (&spec.to, &policy.spec.source)
            && !spec.include.is_empty()
        {
            for name in target.rename.keys() {
                if !spec.include.iter().any(|pattern| overlap(pattern, name)) {
                    let key = rules::escape_pointer(name);
                    push(
                        &format!("/spec/to/mongodb/rename/{key}"),
                        format!(
                            "`{name}` is renamed but not restored: no pattern of include takes it in; add one, or remove this line"
                        ),
                    );
                }
            }
        }
    }

    fn find_policy(&self, namespace: &str, name: &str) -> Option<&BackupPolicy> {
        self.parsed
            .resources
            .iter()
            .find_map(|loaded| match &loaded.resource {
                Resource::BackupPolicy(policy)
                    if policy.metadata.name.as_deref() == Some(name)
                        && policy.metadata.namespace.as_deref() == Some(namespace) =>
                {
                    Some(policy.as_ref())
                }
                _ => None,
            })
    }

    /// Whether there is such a destination that the object may use; if not, that is a problem.
    fn destination(
        &self,
        loaded: &Loaded,
        reference: &PolicyDestination,
        pointer: &str,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let own = loaded.resource.key().namespace;
        let namespace = reference.namespace_for(&own);
        let name = &reference.name;
        if namespace == own {
            return self.exists(loaded, Kind::Destination, name, pointer, problems);
        }
        let key = ObjectKey {
            kind: Kind::Destination,
            namespace: namespace.to_owned(),
            name: name.clone(),
        };
        let declared = self
            .parsed
            .resources
            .iter()
            .find_map(|loaded| match &loaded.resource {
                Resource::Destination(object) if loaded.resource.key() == key => Some(object),
                _ => None,
            });
        let usable = match declared {
            Some(object) => object.spec.allows(namespace, &own),
            // One that could not be read may allow it.
            None => self.places.contains_key(&key) || self.parsed.unreadable > 0,
        };
        if !usable {
            // The same words whether it is not there or not allowed, as in a cluster.
            problems.push(Problem {
                location: loaded.locate(pointer),
                message: format!(
                    "namespace `{own}` may use no Destination `{name}` of namespace `{namespace}`: declare it there with `{own}` in its spec.allowedNamespaces, or correct the name or the namespace"
                ),
            });
        }
        usable
    }

    /// Whether there is such an object; if not, that is a problem.
    fn exists(
        &self,
        loaded: &Loaded,
        kind: Kind,
        name: &str,
        pointer: &str,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let namespace = loaded.resource.key().namespace;
        let key = ObjectKey {
            kind,
            namespace: namespace.clone(),
            name: name.to_owned(),
        };
        // A document that could not be read may be the one that is missed.
        if self.places.contains_key(&key) || self.parsed.unreadable > 0 {
            return true;
        }
        let elsewhere = self
            .places
            .keys()
            .find(|key| key.kind == kind && key.name == name);
        let names = self
            .places
            .keys()
            .filter(|key| key.kind == kind && key.namespace == namespace);
        let hint = match (
            rules::nearest(name, names.map(|key| key.name.as_str())),
            elsewhere,
        ) {
            (Some(guess), _) => format!("did you mean `{guess}`?"),
            (None, Some(other)) if kind == Kind::Destination => format!(
                "there is one in namespace `{0}`: write `namespace: {0}` with its name in the policy, and `{namespace}` into its spec.allowedNamespaces",
                other.namespace
            ),
            (None, Some(other)) => format!(
                "there is one in namespace `{}`, but references stay within a namespace: put both into the same",
                other.namespace
            ),
            (None, None) => "declare it in one of the files, or correct the name".to_owned(),
        };
        problems.push(Problem {
            location: loaded.locate(pointer),
            message: format!("there is no {kind} `{name}` in namespace `{namespace}`: {hint}"),
        });
        false
    }
}

/// Whether some namespace could match both patterns.
fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // `below[j]`: whether the rest of `a` after this letter and `b[j..]` overlap.
    let mut below = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let mut row = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            let right = j < b.len() && row[j + 1];
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                // The star stands for nothing, or for one letter more.
                (Some(b'*'), _) | (_, Some(b'*')) => right || (i < a.len() && below[j]),
                (Some(x), Some(y)) => (x == y || *x == b'?' || *y == b'?') && below[j + 1],
                _ => false,
            };
        }
        below = row;
    }
    below[0]
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[rstest::rstest]
    #[case("shop.*", "shop.orders", true)]
    #[case("shop.orders", "shop.*", true)]
    #[case("*.tmp_*", "shop.*", true)]
    #[case("shop.a*", "shop.*b", true)]
    #[case("shop.?", "shop.ab", false)]
    #[case("shop.a*", "shop.b*", false)]
    #[case("shop.orders", "shop.orders", true)]
    #[case("*", "", true)]
    #[case(
        "shop.**********z",
        "shop.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaay",
        false
    )]
    fn patterns_overlap(#[case] a: &str, #[case] b: &str, #[case] expected: bool) {
        assert_eq!(overlap(a, b), expected);
        assert_eq!(overlap(b, a), expected);
    }
}
