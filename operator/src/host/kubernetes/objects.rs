//! What the API server holds of one kind, as it was last told: several watches (one per namespace)
//! and the answers to our own writes feed one store.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use kube::Resource;
use kube::ResourceExt;
use kube::runtime::reflector::store::{Store, Writer};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::Event;
use std::sync::Arc;

use crate::host::Name;

/// The annotation in which kubectl keeps what it applied: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a watch told of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K> {
    /// It is new, or its specification, its annotations or its deletion are.
    Declared(Arc<K>),
    /// Only its status or what surrounds it.
    Status(Arc<K>),
    /// It is gone.
    Gone(Arc<K>),
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer: Mutex<Writer<K>>,
    reader: Store<K>,
    /// What we created ourselves and no watch has told of yet.
    created: Mutex<HashSet<ObjectRef<K>>>,
}

/// Which objects one watch has told of: what is not in its next list is gone.
#[derive(Debug)]
pub struct Seen<K: Resource<DynamicType = ()>> {
    /// The namespace that it is of, or all.
    namespace: Option<String>,
    known: HashSet<ObjectRef<K>>,
    listed: HashSet<ObjectRef<K>>,
    /// What we had created when its list began: that must be in it.
    created: HashSet<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()>> Seen<K> {
    /// Nothing yet, of a watch of one namespace or of all.
    pub fn nothing(namespace: Option<String>) -> Self {
        Self {
            namespace,
            known: HashSet::new(),
            listed: HashSet::new(),
            created: HashSet::new(),
        }
    }
}

impl<K> Default for Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    fn default() -> Self {
        let (reader, mut writer) = reflector::store();
        // A store is ready after its first list, which replaces what is in it. Ours is fed by several
        // watches, piece by piece, and nobody reads it before all have told what there is.
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self {
            writer: Mutex::new(writer),
            reader,
            created: Mutex::default(),
        }
    }
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    /// For kube's runtime.
    pub fn store(&self) -> Store<K> {
        self.reader.clone()
    }

    /// One object.
    pub fn get(&self, name: &Name) -> Option<Arc<K>> {
        self.reader.get(&reference(name))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.reader.state()
    }

    /// Takes over what one watch says, and tells what it changed.
    pub fn take(&self, event: Event<K>, seen: &mut Seen<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                seen.listed.clear();
                let ours = |reference: &&ObjectRef<K>| {
                    seen.namespace.is_none() || seen.namespace == reference.namespace
                };
                seen.created = self.created().iter().filter(ours).cloned().collect();
                Vec::new()
            }
            Event::InitApply(object) => {
                let reference = ObjectRef::from(&object);
                self.created().remove(&reference);
                seen.listed.insert(reference);
                self.put(object).into_iter().collect()
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut seen.listed);
                let mut before = std::mem::replace(&mut seen.known, listed);
                before.extend(std::mem::take(&mut seen.created));
                self.created()
                    .retain(|reference| !before.contains(reference));
                before
                    .iter()
                    .filter(|reference| !seen.known.contains(reference))
                    .filter_map(|reference| self.reader.get(reference))
                    .map(|object| self.remove(object))
                    .collect()
            }
            Event::Apply(object) => {
                let reference = ObjectRef::from(&object);
                self.created().remove(&reference);
                seen.known.insert(reference);
                self.put(object).into_iter().collect()
            }
            Event::Delete(object) => {
                let reference = ObjectRef::from(&object);
                seen.known.remove(&reference);
                self.created().remove(&reference);
                self.reader
                    .get(&reference)
                    .filter(|known| known.uid() == object.uid())
                    .map(|known| self.remove(known))
                    .into_iter()
                    .collect()
            }
        }
    }

    /// Takes over one object, unless a newer version of it is known: our own writes are known before
    /// the watch tells of them.
    pub fn put(&self, object: K) -> Option<Change<K>> {
        self.put_if(object, |_, _| true)
    }

    fn created(&self) -> std::sync::MutexGuard<'_, HashSet<ObjectRef<K>>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over an object that we created. Should it be deleted before any watch tells of it, the
    /// next list does by not having it.
    pub fn put_created(&self, object: K) -> Option<Change<K>> {
        self.created().insert(ObjectRef::from(&object));
        self.put(object)
    }

    /// Takes over the answer to a write to an object that is there. Where that was deleted, or declared
    /// otherwise, before the answer came, it is left to the watch: who is concerned is woken by what
    /// the watch tells, and one that is gone must not come back.
    pub fn put_answer(&self, object: K) -> Option<Change<K>> {
        self.put_if(object, |known, answer| {
            known.is_some_and(|known| {
                let (known, answer) = (known.meta(), answer.meta());
                known.uid == answer.uid
                    && known.generation == answer.generation
                    && known.deletion_timestamp == answer.deletion_timestamp
                    && known.annotations == answer.annotations
                    && known.labels == answer.labels
            })
        })
    }

    fn put_if(
        &self,
        mut object: K,
        wanted: impl FnOnce(Option<&K>, &K) -> bool,
    ) -> Option<Change<K>> {
        // Who set which field, and what kubectl applied last, take more room than the object.
        object.meta_mut().managed_fields = None;
        if let Some(annotations) = &mut object.meta_mut().annotations {
            annotations.remove(LAST_APPLIED);
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.reader.get(&ObjectRef::from(&object));
        if let Some(known) = &known
            && known.uid() == object.uid()
            && is_older(object.meta().resource_version.as_deref(), known.as_ref())
        {
            return None;
        }
        if !wanted(known.as_deref(), &object) {
            return None;
        }
        let declared = known
            .as_ref()
            .is_none_or(|known| !same_declaration(known.as_ref(), &object));
        let reference = ObjectRef::from(&object);
        writer.apply_watcher_event(&Event::Apply(object));
        let object = self.reader.get(&reference)?;
        Some(if declared {
            Change::Declared(object)
        } else {
            Change::Status(object)
        })
    }

    /// Takes note that an object is gone.
    pub fn remove(&self, object: Arc<K>) -> Change<K> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply_watcher_event(&Event::Delete(object.as_ref().clone()));
        Change::Gone(object)
    }
}

/// A reference to an object by its name.
pub fn reference<K: Resource<DynamicType = ()>>(name: &Name) -> ObjectRef<K> {
    ObjectRef::new(&name.name).within(&name.namespace)
}

/// The name of an object that the API server told of.
pub fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> Name {
    Name::of(object)
}

/// Whether a version is not newer than a known one. Versions are numbers that grow, wherever the
/// API server says so (Kubernetes promises it since 1.35, and it was so before); others are taken
/// as they come.
fn is_older<K: Resource>(version: Option<&str>, known: &K) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    match (
        number(version),
        number(known.meta().resource_version.as_deref()),
    ) {
        (Some(version), Some(known)) => version <= known,
        _ => false,
    }
}

fn same_declaration<K: Resource>(one: &K, other: &K) -> bool {
    let (one, other) = (one.meta(), other.meta());
    one.uid == other.uid
        && one.generation == other.generation
        && one.deletion_timestamp == other.deletion_timestamp
        && one.annotations == other.annotations
        && one.labels == other.labels
        && one.finalizers == other.finalizers
}

#[cfg(test)]
mod tests {
    use holdfast_crds::Backup;
    use serde_json::json;

    use super::*;

    fn backup(name: &str, version: &str, generation: i64) -> Backup {
        serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Backup",
            "metadata": {
                "namespace": "default", "name": name, "uid": name,
                "resourceVersion": version, "generation": generation,
            },
            "spec": {"policy": "shop"},
        }))
        .unwrap()
    }

    fn names(objects: &Objects<Backup>) -> Vec<String> {
        let mut names: Vec<String> = objects.all().iter().map(|one| one.name_any()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_older_version_does_not_undo_our_own_write() {
        let objects = Objects::<Backup>::default();
        let mut seen = Seen::nothing(None);
        assert!(objects.put(backup("a", "7", 2)).is_some());
        assert!(
            objects
                .take(Event::Apply(backup("a", "5", 1)), &mut seen)
                .is_empty()
        );
        let known = objects.get(&Name::new("default", "a")).unwrap();
        assert_eq!(known.metadata.generation, Some(2));
        let changes = objects.take(Event::Apply(backup("a", "8", 2)), &mut seen);
        assert!(matches!(changes[..], [Change::Status(_)]));
        let changes = objects.take(Event::Apply(backup("a", "9", 3)), &mut seen);
        assert!(matches!(changes[..], [Change::Declared(_)]));
    }

    #[test]
    fn what_kubectl_applied_is_not_kept_and_is_no_declaration() {
        let objects = Objects::<Backup>::default();
        let applied = |version: &str, text: &str| {
            let mut backup = backup("a", version, 1);
            backup.annotations_mut().extend([
                (LAST_APPLIED.to_owned(), text.to_owned()),
                ("a".to_owned(), "b".to_owned()),
            ]);
            backup
        };
        objects.put(applied("1", "{}"));
        let known = objects.get(&Name::new("default", "a")).unwrap();
        assert_eq!(known.annotations().len(), 1);
        let change = objects.put(applied("2", "{ }"));
        assert!(matches!(change, Some(Change::Status(_))));
    }

    #[tokio::test]
    async fn who_reads_waits_for_no_list() {
        let objects = Objects::<Backup>::default();
        objects.put(backup("a", "1", 1));
        let ready = objects.store();
        assert!(ready.wait_until_ready().await.is_ok());
        assert_eq!(names(&objects), ["a"]);
    }

    #[test]
    fn an_answer_brings_nothing_back_and_hides_no_declaration() {
        let objects = Objects::<Backup>::default();
        assert_eq!(objects.put_answer(backup("a", "1", 1)), None);
        assert!(objects.get(&Name::new("default", "a")).is_none());
        objects.put(backup("a", "1", 1));
        assert!(matches!(
            objects.put_answer(backup("a", "2", 1)),
            Some(Change::Status(_))
        ));
        // A new specification came between: the watch tells of it, and wakes.
        assert_eq!(objects.put_answer(backup("a", "4", 2)), None);
        assert!(matches!(
            objects.put(backup("a", "3", 2)),
            Some(Change::Declared(_))
        ));
    }

    #[test]
    fn what_a_new_list_lacks_is_gone_and_what_other_watches_told_stays() {
        let objects = Objects::<Backup>::default();
        let (mut one, mut other) = (Seen::nothing(None), Seen::nothing(None));
        for event in [
            Event::Init,
            Event::InitApply(backup("a", "1", 1)),
            Event::InitApply(backup("b", "2", 1)),
            Event::InitDone,
        ] {
            objects.take(event, &mut one);
        }
        objects.take(Event::Apply(backup("c", "3", 1)), &mut other);
        assert_eq!(names(&objects), ["a", "b", "c"]);
        objects.take(Event::Init, &mut one);
        objects.take(Event::InitApply(backup("b", "2", 1)), &mut one);
        assert_eq!(names(&objects), ["a", "b", "c"]);
        let gone = objects.take(Event::InitDone, &mut one);
        assert!(matches!(gone[..], [Change::Gone(_)]));
        assert_eq!(names(&objects), ["b", "c"]);
        assert_eq!(
            objects
                .take(Event::Delete(backup("c", "9", 1)), &mut other)
                .len(),
            1
        );
        assert_eq!(names(&objects), ["b"]);
    }

    /// The watch was away when it was created and deleted: no event ever tells of it.
    #[test]
    fn what_we_created_and_a_new_list_lacks_is_gone() {
        let objects = Objects::<Backup>::default();
        let mut seen = Seen::nothing(Some("default".to_owned()));
        let mut elsewhere = Seen::nothing(Some("other".to_owned()));
        objects.put_created(backup("a", "1", 1));
        for event in [Event::Init, Event::InitDone] {
            assert!(objects.take(event, &mut elsewhere).is_empty());
        }
        objects.take(Event::Init, &mut seen);
        // Created while it is being listed: it may come after the list.
        objects.put_created(backup("b", "2", 1));
        let gone = objects.take(Event::InitDone, &mut seen);
        assert!(matches!(&gone[..], [Change::Gone(one)] if one.name_any() == "a"));
        assert_eq!(names(&objects), ["b"]);
        objects.take(Event::Apply(backup("b", "3", 1)), &mut seen);
        objects.take(Event::Init, &mut seen);
        objects.take(Event::InitDone, &mut seen);
        assert!(names(&objects).is_empty());
    }
}
