//! Everything that is declared at one moment, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::manifest::{Loaded, Resource};
use holdfast_crds::{Backup, BackupPolicy, DEFAULT_NAMESPACE, Destination, Restore};
use kube::Resource as _;

/// The namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Name {
    /// A name in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Reads `NAME` or `NAMESPACE/NAME`.
    #[must_use]
    pub fn parse(text: &str, default_namespace: &str) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new(default_namespace, text),
        }
    }

    /// The name of an object; objects of files that name no namespace are in `default`.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that is declared at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// Destinations.
    pub destinations: BTreeMap<Name, Arc<Destination>>,
    /// Policies.
    pub policies: BTreeMap<Name, Arc<BackupPolicy>>,
    /// Backups asked for.
    pub backups: BTreeMap<Name, Arc<Backup>>,
    /// Restores.
    pub restores: BTreeMap<Name, Arc<Restore>>,
    /// Destinations that are declared no more and whose data is still to be deleted.
    pub departing: BTreeMap<Name, Arc<Destination>>,
}

impl Declared {
    /// Sorts loaded resources by kind and name.
    #[must_use]
    pub fn from_loaded(loaded: impl IntoIterator<Item = Loaded>) -> Self {
        let mut declared = Self::default();
        for Loaded { resource, .. } in loaded {
            match resource {
                Resource::Destination(mut object) => {
                    let name = qualify(object.meta_mut());
                    declared.destinations.insert(name, Arc::new(*object));
                }
                Resource::BackupPolicy(mut object) => {
                    let name = qualify(object.meta_mut());
                    declared.policies.insert(name, Arc::new(*object));
                }
                Resource::Backup(mut object) => {
                    let name = qualify(object.meta_mut());
                    declared.backups.insert(name, Arc::new(*object));
                }
                Resource::Restore(mut object) => {
                    let name = qualify(object.meta_mut());
                    declared.restores.insert(name, Arc::new(*object));
                }
            }
        }
        declared
    }

    /// Whether the same is declared.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.destinations == other.destinations
            && self.policies == other.policies
            && self.backups == other.backups
            && self.restores == other.restores
    }

    /// Whether nothing at all is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
            && self.policies.is_empty()
            && self.backups.is_empty()
            && self.restores.is_empty()
    }

    /// What a policy means by the name of one of its destinations. One that it does not name lies
    /// in its own namespace.
    #[must_use]
    pub fn destination_name(&self, policy: &Name, destination: &str) -> Name {
        let namespace = self
            .policies
            .get(policy)
            .and_then(|object| {
                let mut named = object.spec.destinations.iter();
                named.find(|one| one.name == destination)
            })
            .map_or(policy.namespace.as_str(), |one| {
                one.namespace_for(&policy.namespace)
            });
        Name::new(namespace, destination)
    }

    /// A destination, if it is declared and policies of the namespace may use it. Which of the two
    /// is not so must not be told, or one tenant would learn what another one has.
    #[must_use]
    pub fn destination_for(&self, guest: &str, name: &Name) -> Option<Arc<Destination>> {
        self.destinations
            .get(name)
            .filter(|object| object.spec.allows(&name.namespace, guest))
            .cloned()
    }

    /// The destinations of a policy that are declared and that it may use, in the policy's order.
    #[must_use]
    pub fn destinations_of(&self, policy: &Name) -> Vec<(Name, Arc<Destination>)> {
        let Some(object) = self.policies.get(policy) else {
            return Vec::new();
        };
        object
            .spec
            .destinations
            .iter()
            .map(|one| Name::new(one.namespace_for(&policy.namespace), &one.name))
            .filter_map(|name| {
                let object = self.destination_for(&policy.namespace, &name)?;
                Some((name, object))
            })
            .collect()
    }
}

fn qualify(meta: &mut holdfast_crds::meta::ObjectMeta) -> Name {
    let namespace = meta
        .namespace
        .get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned())
        .clone();
    Name::new(namespace, meta.name.clone().unwrap_or_default())
}
