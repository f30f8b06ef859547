//! Follows the API server: what it tells is put into the stores, and what hangs on it is woken. A
//! watch that breaks is begun again after a pause, for as long as the process lives.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use holdfast_crds::{
    Backup, BackupPolicy, Destination, MongoConnection, Restore, RestoreTarget, Source,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::host::{KubernetesHost, is_mirror};
use super::objects::{Change, Objects, Seen};
use super::record::{Concern, JobRecord, MANAGED_BY, MANAGER};
use super::wakes::Wakes;
use crate::host::{Host, Name};
use crate::run::fingerprint;

/// Which namespaces are followed; all when there are none.
#[derive(Debug, Clone, Default)]
pub struct Namespaces(pub Vec<String>);

impl Namespaces {
    fn apis<K>(&self, client: &Client) -> Vec<(Option<String>, Api<K>)>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        if self.0.is_empty() {
            return vec![(None, Api::all(client.clone()))];
        }
        self.0
            .iter()
            .map(|namespace| {
                let api = Api::namespaced(client.clone(), namespace);
                (Some(namespace.clone()), api)
            })
            .collect()
    }
}

/// The longest pause before a watch that broke is begun again: an API server that comes back should
/// not wait for us.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

fn pauses() -> watcher::ExponentialBackoff {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(800))
        .with_max_delay(LONGEST_PAUSE)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .into()
}

/// Follows everything; the receiver is told when all that there is has been read once.
pub fn follow(
    host: &Arc<KubernetesHost>,
    wakes: &Arc<Wakes>,
    namespaces: &Namespaces,
) -> (JoinSet<()>, Vec<oneshot::Receiver<()>>) {
    let mut tasks = JoinSet::new();
    let mut ready = Vec::new();
    let mut barrier = || {
        let (sender, receiver) = oneshot::channel();
        ready.push(receiver);
        sender
    };
    let client = &host.client;
    let told = (host.clone(), wakes.clone());
    tasks.spawn(objects(
        host.clone(),
        |host| &host.destinations,
        namespaces.apis::<Destination>(client),
        {
            let (host, wakes) = told.clone();
            move |change| destination_changed(&host, &wakes, &change)
        },
        barrier(),
    ));
    tasks.spawn(objects(
        host.clone(),
        |host| &host.policies,
        namespaces.apis::<BackupPolicy>(client),
        {
            let (host, wakes) = told.clone();
            move |change| policy_changed(&host, &wakes, &change)
        },
        barrier(),
    ));
    tasks.spawn(objects(
        host.clone(),
        |host| &host.backups,
        namespaces.apis::<Backup>(client),
        {
            let (host, wakes) = told.clone();
            move |change| backup_changed(&host, &wakes, &change)
        },
        barrier(),
    ));
    tasks.spawn(objects(
        host.clone(),
        |host| &host.restores,
        namespaces.apis::<Restore>(client),
        {
            let (host, wakes) = told.clone();
            move |change| restore_changed(&host, &wakes, &change)
        },
        barrier(),
    ));
    tasks.spawn(jobs(
        host.clone(),
        wakes.clone(),
        namespaces.apis::<Job>(client),
        barrier(),
    ));
    tasks.spawn(secrets(
        host.clone(),
        wakes.clone(),
        namespaces.apis::<PartialObjectMeta<Secret>>(client),
        barrier(),
    ));
    (tasks, ready)
}

type Told<K> = (usize, Result<Event<K>, watcher::Error>);

/// One stream of what several watches tell, each with its number.
fn merged<K: Send + 'static>(
    streams: Vec<BoxStream<'static, Result<Event<K>, watcher::Error>>>,
) -> impl futures::Stream<Item = Told<K>> {
    stream::select_all(
        streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| stream.map(move |told| (number, told)).boxed()),
    )
}

fn failed(kind: &str, error: &watcher::Error) {
    tracing::warn!(kind, %error, "What the API server holds cannot be followed; it is tried again.");
}

async fn objects<K>(
    host: Arc<KubernetesHost>,
    store: fn(&KubernetesHost) -> &Objects<K>,
    apis: Vec<(Option<String>, Api<K>)>,
    changed: impl Fn(Change<K>) + Send,
    ready: oneshot::Sender<()>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut waiting: HashSet<usize> = (0..apis.len()).collect();
    let mut seen: Vec<Seen<K>> = apis
        .iter()
        .map(|(namespace, _)| Seen::nothing(namespace.clone()))
        .collect();
    let mut ready = Some(ready);
    let streams = apis
        .into_iter()
        .map(|(_, api)| {
            watcher::watcher(api, Config::default())
                .backoff(pauses())
                .boxed()
        })
        .collect();
    let mut told = std::pin::pin!(merged(streams));
    while let Some((number, event)) = told.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                failed(&K::kind(&()), &error);
                continue;
            }
        };
        let listed = matches!(event, Event::InitDone);
        if let Some(seen) = seen.get_mut(number) {
            for change in store(&host).take(event, seen) {
                changed(change);
            }
        }
        if listed
            && waiting.remove(&number)
            && waiting.is_empty()
            && let Some(ready) = ready.take()
        {
            // Nobody waits any more when the process is about to end.
            let _ = ready.send(());
        }
    }
}

async fn jobs(
    host: Arc<KubernetesHost>,
    wakes: Arc<Wakes>,
    apis: Vec<(Option<String>, Api<Job>)>,
    ready: oneshot::Sender<()>,
) {
    let mut waiting: HashSet<usize> = (0..apis.len()).collect();
    let mut listed: Vec<HashSet<Name>> = apis.iter().map(|_| HashSet::new()).collect();
    let namespaces: Vec<Option<String>> = apis.iter().map(|(one, _)| one.clone()).collect();
    let mut ready = Some(ready);
    let config = Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let streams = apis
        .into_iter()
        .map(|(_, api)| {
            watcher::watcher(api, config.clone())
                .backoff(pauses())
                .boxed()
        })
        .collect();
    let told_of = |record: JobRecord| {
        let concerns = record.concerns();
        host.history.put(record);
        concern(&wakes, concerns);
    };
    let gone = |name: &Name| {
        if let Some(record) = host.history.get(name) {
            let concerns = record.concerns();
            host.history.remove(name);
            concern(&wakes, concerns);
        }
    };
    let mut told = std::pin::pin!(merged(streams));
    while let Some((number, event)) = told.next().await {
        match event {
            Err(error) => failed("Job", &error),
            Ok(Event::Init) => {
                if let Some(listed) = listed.get_mut(number) {
                    listed.clear();
                }
            }
            Ok(Event::InitApply(job)) => {
                if let Some(listed) = listed.get_mut(number) {
                    listed.insert(Name::of(&job));
                }
                JobRecord::of(&job).into_iter().for_each(told_of);
            }
            Ok(Event::Apply(job)) => JobRecord::of(&job).into_iter().for_each(told_of),
            Ok(Event::Delete(job)) => gone(&Name::of(&job)),
            Ok(Event::InitDone) => {
                let namespace = namespaces.get(number).cloned().flatten();
                if let Some(listed) = listed.get(number) {
                    for name in host.history.names(namespace.as_deref()) {
                        if !listed.contains(&name) {
                            gone(&name);
                        }
                    }
                }
                if waiting.remove(&number) && waiting.is_empty() {
                    host.history.complete();
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(());
                    }
                }
            }
        }
    }
}

async fn secrets(
    host: Arc<KubernetesHost>,
    wakes: Arc<Wakes>,
    apis: Vec<(Option<String>, Api<PartialObjectMeta<Secret>>)>,
    ready: oneshot::Sender<()>,
) {
    let mut waiting: HashSet<usize> = (0..apis.len()).collect();
    let mut listed: Vec<HashSet<Name>> = apis.iter().map(|_| HashSet::new()).collect();
    let namespaces: Vec<Option<String>> = apis.iter().map(|(one, _)| one.clone()).collect();
    let mut ready = Some(ready);
    let streams = apis
        .into_iter()
        .map(|(_, api)| {
            watcher::watcher(api, Config::default())
                .backoff(pauses())
                .boxed()
        })
        .collect();
    let changed = |name: &Name, version: Option<String>| {
        if host.secrets.set_version(name, version) {
            secret_changed(&host, &wakes, name);
        }
    };
    let mut told = std::pin::pin!(merged(streams));
    while let Some((number, event)) = told.next().await {
        match event {
            Err(error) => failed("Secret", &error),
            Ok(Event::Init) => {
                if let Some(listed) = listed.get_mut(number) {
                    listed.clear();
                }
            }
            Ok(Event::InitApply(secret)) => {
                let name = Name::of(&secret);
                if let Some(listed) = listed.get_mut(number) {
                    listed.insert(name.clone());
                }
                changed(&name, secret.resource_version());
            }
            Ok(Event::Apply(secret)) => changed(&Name::of(&secret), secret.resource_version()),
            Ok(Event::Delete(secret)) => changed(&Name::of(&secret), None),
            Ok(Event::InitDone) => {
                let namespace = namespaces.get(number).cloned().flatten();
                if let Some(listed) = listed.get(number) {
                    for name in host.secrets.retain(namespace.as_deref(), listed) {
                        secret_changed(&host, &wakes, &name);
                    }
                }
                if waiting.remove(&number)
                    && waiting.is_empty()
                    && let Some(ready) = ready.take()
                {
                    let _ = ready.send(());
                }
            }
        }
    }
}

/// Wakes what something concerns.
pub(super) fn concern(wakes: &Wakes, concerns: Vec<Concern>) {
    for concern in concerns {
        match concern {
            Concern::Policy(name) => wakes.policy(&name),
            Concern::Restore(name) => wakes.restore(&name),
            Concern::Destination(name) => wakes.destination(&name),
            Concern::Backup(name) => wakes.backup(&name),
        }
    }
}

fn destination_changed(host: &KubernetesHost, wakes: &Wakes, change: &Change<Destination>) {
    let (Change::Declared(object) | Change::Gone(object)) = change else {
        return;
    };
    host.declaration_changed();
    let name = Name::of(object.as_ref());
    if matches!(change, Change::Gone(_)) {
        host.looks.forget(&name);
        wake_backups(host, wakes, |backup| {
            let status = backup.status.as_ref();
            backup.namespace().as_deref() == Some(name.namespace.as_str())
                && status.is_some_and(|status| {
                    let mut copies = status.copies.iter();
                    copies.any(|copy| copy.destination == name.name)
                })
        });
    }
    wakes.destination(&name);
    wake_users(host, wakes, &name);
}

/// Wakes the policies and Restores that use a destination.
pub fn wake_users(host: &KubernetesHost, wakes: &Wakes, destination: &Name) {
    if wakes.nobody_listens() {
        return;
    }
    let declared = host.declared();
    let mut users = HashSet::new();
    for (name, policy) in &declared.policies {
        let uses = policy.spec.destinations.iter().any(|one| {
            one.name == destination.name
                && one.namespace.as_ref().unwrap_or(&name.namespace) == &destination.namespace
        });
        if uses {
            wakes.policy(name);
            users.insert(name.clone());
        }
    }
    for (name, restore) in &declared.restores {
        let from = &restore.spec.from;
        let named = name.namespace == destination.namespace
            && from.destination.as_ref() == Some(&destination.name);
        if named || users.contains(&Name::new(&name.namespace, &from.policy)) {
            wakes.restore(name);
        }
    }
}

/// Wakes Backups that something is gone for.
fn wake_backups(host: &KubernetesHost, wakes: &Wakes, concerned: impl Fn(&Backup) -> bool) {
    if wakes.nobody_listens() {
        return;
    }
    for backup in host.backups.all() {
        if concerned(&backup) {
            wakes.backup(&Name::of(backup.as_ref()));
        }
    }
}

fn policy_changed(host: &KubernetesHost, wakes: &Wakes, change: &Change<BackupPolicy>) {
    let (Change::Declared(object) | Change::Gone(object)) = change else {
        return;
    };
    host.declaration_changed();
    let name = Name::of(object.as_ref());
    if matches!(change, Change::Gone(_)) {
        host.history.forget_policy(&name);
        // Its restore points are shown on by the destinations of its namespace.
        for destination in &object.spec.destinations {
            wakes.destination(&Name::new(&name.namespace, &destination.name));
        }
        wake_backups(host, wakes, |backup| {
            backup.spec.policy == name.name
                && backup.namespace().as_deref() == Some(name.namespace.as_str())
        });
    }
    wakes.policy(&name);
    if wakes.nobody_listens() {
        return;
    }
    for (restore, one) in &host.declared().restores {
        if restore.namespace == name.namespace && one.spec.from.policy == name.name {
            wakes.restore(restore);
        }
    }
}

fn backup_changed(host: &KubernetesHost, wakes: &Wakes, change: &Change<Backup>) {
    let (Change::Declared(object) | Change::Status(object) | Change::Gone(object)) = change;
    let by_hand = !is_mirror(object);
    if by_hand {
        host.declaration_changed();
    }
    let name = Name::of(object.as_ref());
    if !matches!(change, Change::Status(_)) {
        wakes.backup(&name);
    }
    // One that mirrors a restore point and was deleted comes back while that is there.
    if by_hand || matches!(change, Change::Gone(_)) {
        wakes.policy(&Name::new(&name.namespace, &object.spec.policy));
    }
    if let Change::Gone(object) = change
        && let Some(status) = &object.status
    {
        // Nobody may declare its policy: then the destinations show it.
        for copy in &status.copies {
            wakes.destination(&Name::new(&name.namespace, &copy.destination));
        }
    }
}

fn restore_changed(host: &KubernetesHost, wakes: &Wakes, change: &Change<Restore>) {
    let (Change::Declared(object) | Change::Status(object) | Change::Gone(object)) = change;
    let name = Name::of(object.as_ref());
    if !matches!(change, Change::Status(_)) {
        host.declaration_changed();
        wakes.restore(&name);
    }
    // Its backups wait for one that writes into its source.
    wakes.policy(&Name::new(&name.namespace, &object.spec.from.policy));
}

fn secret_changed(host: &KubernetesHost, wakes: &Wakes, secret: &Name) {
    if wakes.nobody_listens() {
        return;
    }
    let declared = host.declared();
    let is_meant = |source: &holdfast_crds::SecretSource| matches!(source, holdfast_crds::SecretSource::SecretKeyRef(reference) if reference.name == secret.name);
    for (name, destination) in &declared.destinations {
        if name.namespace == secret.namespace
            && fingerprint::secrets(&destination.spec)
                .into_iter()
                .any(is_meant)
        {
            wakes.destination(name);
            wake_users(host, wakes, name);
        }
    }
    for (name, policy) in &declared.policies {
        if name.namespace == secret.namespace
            && let Source::Mongodb(source) = &policy.spec.source
            && let MongoConnection::UriFrom(source) = &source.connection
            && is_meant(source)
        {
            wakes.policy(name);
            // A Restore to where it reads from waits for the same.
            for (restore, one) in &declared.restores {
                let original = matches!(one.spec.to, RestoreTarget::Original(_));
                let from = Name::new(&restore.namespace, &one.spec.from.policy);
                if original && from == *name {
                    wakes.restore(restore);
                }
            }
        }
    }
    for (name, restore) in &declared.restores {
        if name.namespace == secret.namespace
            && let RestoreTarget::Mongodb(to) = &restore.spec.to
            && let MongoConnection::UriFrom(source) = &to.connection
            && is_meant(source)
        {
            wakes.restore(name);
        }
    }
}
