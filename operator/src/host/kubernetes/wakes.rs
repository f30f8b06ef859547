//! Which objects are to be looked at: one queue a kind. While nobody listens (another replica
//! leads) nothing is kept: who begins to lead looks at everything.

use std::sync::{Mutex, PoisonError};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use holdfast_crds::{Backup, BackupPolicy, Destination, Restore};
use kube::Resource;
use kube::runtime::reflector::ObjectRef;

use super::objects::reference;
use crate::host::Name;

/// The queues.
#[derive(Debug, Default)]
pub struct Wakes {
    senders: Mutex<Option<Senders>>,
}

#[derive(Debug)]
struct Senders {
    destinations: UnboundedSender<ObjectRef<Destination>>,
    policies: UnboundedSender<ObjectRef<BackupPolicy>>,
    backups: UnboundedSender<ObjectRef<Backup>>,
    restores: UnboundedSender<ObjectRef<Restore>>,
}

/// The ends from which the controllers read.
#[derive(Debug)]
pub struct Woken {
    /// Destinations.
    pub destinations: UnboundedReceiver<ObjectRef<Destination>>,
    /// Policies.
    pub policies: UnboundedReceiver<ObjectRef<BackupPolicy>>,
    /// Backups.
    pub backups: UnboundedReceiver<ObjectRef<Backup>>,
    /// Restores.
    pub restores: UnboundedReceiver<ObjectRef<Restore>>,
}

impl Wakes {
    /// Begins to listen.
    pub fn listen(&self) -> Woken {
        let (destinations, woken_destinations) = unbounded();
        let (policies, woken_policies) = unbounded();
        let (backups, woken_backups) = unbounded();
        let (restores, woken_restores) = unbounded();
        *self.lock() = Some(Senders {
            destinations,
            policies,
            backups,
            restores,
        });
        Woken {
            destinations: woken_destinations,
            policies: woken_policies,
            backups: woken_backups,
            restores: woken_restores,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Senders>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing that is told here is heard.
    pub fn nobody_listens(&self) -> bool {
        self.lock().is_none()
    }

    /// Wakes a destination.
    pub fn destination(&self, name: &Name) {
        self.send(|senders| &senders.destinations, name);
    }

    /// Wakes a policy.
    pub fn policy(&self, name: &Name) {
        self.send(|senders| &senders.policies, name);
    }

    /// Wakes a Backup.
    pub fn backup(&self, name: &Name) {
        self.send(|senders| &senders.backups, name);
    }

    /// Wakes a Restore.
    pub fn restore(&self, name: &Name) {
        self.send(|senders| &senders.restores, name);
    }

    fn send<K: Resource<DynamicType = ()>>(
        &self,
        queue: impl Fn(&Senders) -> &UnboundedSender<ObjectRef<K>>,
        name: &Name,
    ) {
        if let Some(senders) = self.lock().as_ref() {
            // A queue whose reader is gone belongs to a process that ends.
            let _ = queue(senders).unbounded_send(reference(name));
        }
    }
}
