//! What a restore says of whether what it wrote is what was backed up.

use holdfast_crds::OnConflict;
use holdfast_engine::source::files::RestoreFilesReport;
use holdfast_engine::source::mongodb::restore::{RestoreReport, Verification};

/// Every collection was read back and compared, or the first says why not.
pub(super) fn mongodb(report: &RestoreReport) -> String {
    if report.verified() {
        return "Verified".to_owned();
    }
    report
        .namespaces
        .iter()
        .find_map(|one| match &one.verification {
            Verification::NotComparable { reason } => {
                Some(format!("NotComparable: {}: {reason}", one.target))
            }
            Verification::Mismatched { .. } => Some(format!("Mismatched: {}", one.target)),
            Verification::Verified { .. } | Verification::NoData => None,
        })
        .unwrap_or_else(|| "NotComparable".to_owned())
}

/// Every blob is verified against its id, and every file against its size, on the way: all that was
/// written is what was backed up.
pub(super) fn files(report: &RestoreFilesReport, on_conflict: OnConflict) -> String {
    if !report.skipped.is_empty() {
        return format!(
            "NotComparable: {} entries could not be made: {}",
            report.skipped.count, report.skipped
        );
    }
    // Elsewhere what is kept was compared and is the same; Merge keeps whatever it finds.
    if on_conflict == OnConflict::Merge && report.kept > 0 {
        return format!(
            "NotComparable: {} entries were there before and were kept",
            report.kept
        );
    }
    "Verified".to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn files_are_verified_only_where_all_of_them_are_the_backups() {
        let mut report = RestoreFilesReport {
            files: 2,
            kept: 1,
            ..RestoreFilesReport::default()
        };
        for on_conflict in [OnConflict::Fail, OnConflict::Drop] {
            assert_eq!(files(&report, on_conflict), "Verified");
        }
        let merged = files(&report, OnConflict::Merge);
        assert!(merged.starts_with("NotComparable: 1 "), "{merged}");
        report.skipped.push(Path::new("/dev/x"), "not allowed");
        let skipped = files(&report, OnConflict::Fail);
        assert!(
            skipped.starts_with("NotComparable") && skipped.contains("/dev/x"),
            "{skipped}"
        );
    }
}
