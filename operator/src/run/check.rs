//! Checks a repository, and reads part of its data back.

use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CheckOptions, CheckReport, MAX_PARTS, ReadData, Repository, RepositoryError,
};
use tokio_util::sync::CancellationToken;

use crate::run::RunError;

/// Why a part of the data could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidPart {
    /// It is nothing that names a part.
    #[error("{0:?} names no part of the data; write 5%, 100%, or 2/10 for the second of ten parts")]
    Unknown(String),
    /// There are not so many parts.
    #[error(
        "{0:?} divides the data into too many parts, some of which would be empty; write at most \
         n/{MAX_PARTS}, or a percentage"
    )]
    TooMany(String),
}

/// Reads `5%`, `100%` or `2/10`.
///
/// # Errors
/// When it is none of them.
pub fn parse_part(text: &str) -> Result<ReadData, InvalidPart> {
    let invalid = || InvalidPart::Unknown(text.to_owned());
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| invalid())?;
        return if percent == 0.0 {
            Ok(ReadData::None)
        } else if percent == 100.0 {
            Ok(ReadData::All)
        } else if percent > 0.0 && percent < 100.0 {
            Ok(ReadData::Percent(percent))
        } else {
            Err(invalid())
        };
    }
    let (n, of) = text.split_once('/').ok_or_else(invalid)?;
    let n: u32 = n.trim().parse().map_err(|_| invalid())?;
    let of: u32 = of.trim().parse().map_err(|_| invalid())?;
    if n == 0 || n > of {
        return Err(invalid());
    }
    if of > MAX_PARTS {
        return Err(InvalidPart::TooMany(text.to_owned()));
    }
    Ok(ReadData::Subset { n, of })
}

/// Checks a repository. Damage is in the report.
///
/// # Errors
/// When the check could not be carried out, or was stopped.
pub async fn check(
    repository: &Repository,
    read_data: ReadData,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<CheckReport, RunError> {
    progress.set_phase("checking the repository");
    let checked = repository
        .check(
            &CheckOptions { read_data },
            progress.clone(),
            cancel.clone(),
        )
        .await;
    match checked {
        Err(RepositoryError::Cancelled) => Err(RunError::Cancelled),
        checked => Ok(checked?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_nonsense_is_refused() {
        assert_eq!(parse_part("5%"), Ok(ReadData::Percent(5.0)));
        assert_eq!(parse_part("0.5%"), Ok(ReadData::Percent(0.5)));
        assert_eq!(parse_part("100%"), Ok(ReadData::All));
        assert_eq!(parse_part("2/10"), Ok(ReadData::Subset { n: 2, of: 10 }));
        for nonsense in ["", "5", "101%", "-1%", "NaN%", "0/3", "4/3", "a/b", "%"] {
            assert_eq!(
                parse_part(nonsense),
                Err(InvalidPart::Unknown(nonsense.to_owned()))
            );
        }
        assert_eq!(
            parse_part("256/256"),
            Ok(ReadData::Subset { n: 256, of: 256 })
        );
        let error = parse_part("300/1000").unwrap_err();
        assert_eq!(error, InvalidPart::TooMany("300/1000".to_owned()));
        assert!(error.to_string().contains("at most n/256"), "{error}");
    }
}
