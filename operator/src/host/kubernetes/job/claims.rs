//! Claims on their way into a pod: where each is mounted, and whether it may be written.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume, VolumeMount};

use super::order::BuildError;

/// The claims that a pod needs.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The claims, and whether they are mounted for reading only, in the order of their volumes.
    volumes: Vec<(String, bool)>,
    mounts: Vec<(usize, String)>,
}

impl Claims {
    /// Mounts a claim at a path. One that is only read is a volume of its own even where the same
    /// is written elsewhere: Kubernetes must not change the owners of what is backed up.
    pub(super) fn mount(&mut self, claim: &str, path: &str, read_only: bool) {
        let wanted = (claim.to_owned(), read_only);
        let known = self.volumes.iter().position(|volume| *volume == wanted);
        let index = known.unwrap_or_else(|| {
            self.volumes.push(wanted);
            self.volumes.len() - 1
        });
        let mount = (index, path.to_owned());
        if !self.mounts.contains(&mount) {
            self.mounts.push(mount);
        }
    }

    /// The volumes.
    pub(super) fn volumes(&self) -> Vec<Volume> {
        let volume = |(index, (claim, read_only)): (usize, &(String, bool))| Volume {
            name: volume_name(index),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: read_only.then_some(true),
            }),
            ..Volume::default()
        };
        self.volumes.iter().enumerate().map(volume).collect()
    }

    /// Where they are mounted.
    pub(super) fn mounts(&self) -> Vec<VolumeMount> {
        self.mounts
            .iter()
            .map(|(index, path)| VolumeMount {
                name: volume_name(*index),
                mount_path: path.clone(),
                read_only: self
                    .volumes
                    .get(*index)
                    .and_then(|(_, read_only)| read_only.then_some(true)),
                ..VolumeMount::default()
            })
            .collect()
    }
}

fn volume_name(index: usize) -> String {
    format!("holdfast-claim-{index}")
}

/// Refuses mounts that share a path: the API server would, in words nobody connects with a policy.
pub(super) fn check(mounts: &[VolumeMount]) -> Result<(), BuildError> {
    let path = |mount: &VolumeMount| mount.mount_path.trim_end_matches('/').to_owned();
    for (index, mount) in mounts.iter().enumerate() {
        if mounts
            .iter()
            .skip(index + 1)
            .any(|other| path(other) == path(mount))
        {
            return Err(BuildError::MountConflict { path: path(mount) });
        }
    }
    Ok(())
}
