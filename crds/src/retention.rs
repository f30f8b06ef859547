//! Which backups are kept.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, meta, patterns};

/// Which backups are kept: a backup that any of the rules wants stays. The
/// words mean what they mean in `restic forget`. At least one is needed;
/// without `retention` everything is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct Retention {
    /// The newest so many backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_last: Option<u32>,
    /// The newest backup of each of the last so many hours that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_hourly: Option<u32>,
    /// The newest backup of each of the last so many days that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_daily: Option<u32>,
    /// The newest backup of each of the last so many weeks that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_weekly: Option<u32>,
    /// The newest backup of each of the last so many months that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_monthly: Option<u32>,
    /// The newest backup of each of the last so many years that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int32"))]
    pub keep_yearly: Option<u32>,
    /// Every backup that is younger than this, counted from the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Duration>,
    /// Every backup that bears one of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), extend("items" = meta::list_of(patterns::TAG, 128)))]
    pub keep_tags: Vec<String>,
}
