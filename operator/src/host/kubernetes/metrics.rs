//! The figures of runs in a cluster, for the metrics: added up from the Jobs while this process
//! lives, so that they do not go down when Jobs are cleaned up.

use std::sync::Arc;

use super::history::Sums;
use super::host::KubernetesHost;
use crate::journal::JournalError;
use crate::metrics::{History, Source};

/// Tells the metrics of the runs of a cluster.
#[derive(Debug, Clone)]
pub struct JobMetrics(pub Arc<KubernetesHost>);

impl Source for JobMetrics {
    fn history(&self) -> Result<History, JournalError> {
        let Sums {
            policies,
            destinations,
            running,
        } = self.0.history.sums();
        let named = |(name, sum): (crate::host::Name, _)| (name.to_string(), sum);
        Ok(History {
            policies: policies.into_iter().map(named).collect(),
            destinations: destinations.into_iter().map(named).collect(),
            running: running
                .into_iter()
                .map(|(name, count)| (name.to_string(), count))
                .collect(),
        })
    }
}
