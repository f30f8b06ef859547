//! What an S3 service or the SDK says, in the words of [`StorageError`].

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::destination::{StorageError, StorageErrorKind as Kind};

/// The failure of a request, with what the service said about it.
pub(super) fn failure<E>(
    action: &str,
    location: &str,
    error: &SdkError<E, HttpResponse>,
) -> StorageError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (kind, cause) = match error {
        SdkError::ServiceError(service) => refusal(service.err(), service.raw()),
        SdkError::TimeoutError(_) => (Kind::Interrupted, "no answer in time".to_owned()),
        SdkError::ResponseError(response) => (
            kind_of_status(response.raw().status().as_u16()),
            format!(
                "the answer is not that of an S3 service (HTTP {}): {}",
                response.raw().status().as_u16(),
                chain(error)
            ),
        ),
        SdkError::DispatchFailure(dispatch) => {
            let cause = chain(error);
            let kind = if cause.contains("credentials") {
                Kind::AuthenticationFailed
            } else if dispatch.is_user() {
                Kind::InvalidConfig
            } else if [
                "connection closed",
                "broken pipe",
                "reset by peer",
                "incomplete message",
            ]
            .iter()
            .any(|sign| cause.to_ascii_lowercase().contains(sign))
            {
                Kind::Interrupted
            } else {
                Kind::Unreachable
            };
            (kind, cause)
        }
        _ => {
            let cause = chain(error);
            let kind = if cause.contains("credentials") {
                Kind::AuthenticationFailed
            } else {
                Kind::InvalidConfig
            };
            (kind, cause)
        }
    };
    let mut failure = StorageError::new(kind, action, location, cause);
    failure.retry_after = error
        .raw_response()
        .and_then(|response| response.headers().get("retry-after"))
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    failure
}

/// The same for a request about the bucket as a whole: there, 404 cannot be about an object.
pub(super) fn bucket_failure<E>(
    action: &str,
    location: &str,
    error: &SdkError<E, HttpResponse>,
) -> StorageError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let mut failure = failure(action, location, error);
    if failure.kind == Kind::NotFound {
        failure.kind = Kind::NoSuchPlace;
    }
    failure
}

/// Whether the service says 404 (an answer to `HEAD` says no more).
pub(super) fn is_absent<E>(error: &SdkError<E, HttpResponse>) -> bool {
    error
        .raw_response()
        .is_some_and(|response| response.status().as_u16() == 404)
}

fn refusal(error: &impl ProvideErrorMetadata, response: &HttpResponse) -> (Kind, String) {
    let status = response.status().as_u16();
    let code = error.code();
    let message = error.message().unwrap_or_default();
    let mut kind = kind_of(code, message, status);
    let said = match (code, message) {
        (None, "") => format!("HTTP {status}"),
        (Some(code), "") => format!("{code} (HTTP {status})"),
        (None, message) => format!("{message} (HTTP {status})"),
        (Some(code), message) => format!("{code}: {message} (HTTP {status})"),
    };
    // The header comes with successes too: it says something about this refusal only when the
    // refusal is one of the region.
    let wrong_region = matches!(
        code,
        Some(
            "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
        )
    ) || matches!(status, 301 | 307);
    if !wrong_region {
        return (kind, said);
    }
    kind = Kind::InvalidConfig;
    let region = response
        .headers()
        .get("x-amz-bucket-region")
        .map(str::to_owned)
        .or_else(|| expected_region(message));
    match region {
        Some(region) => (kind, format!("{said}; the bucket's region is {region}")),
        None => (
            kind,
            format!("{said}; the region or the endpoint is not the bucket's"),
        ),
    }
}

/// `… the region 'us-east-1' is wrong; expecting 'eu-west-1'`.
fn expected_region(message: &str) -> Option<String> {
    let rest = message.split_once("expecting '")?.1;
    Some(rest.split_once('\'')?.0.to_owned())
}

fn kind_of(code: Option<&str>, message: &str, status: u16) -> Kind {
    match code.unwrap_or_default() {
        "NoSuchKey" | "NoSuchVersion" => Kind::NotFound,
        "NoSuchBucket" => Kind::NoSuchPlace,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "RequestTimeTooSkewed"
        | "NotSignedUp"
        | "AccountProblem" => Kind::AuthenticationFailed,
        "AccessDenied" | "AllAccessDisabled" | "Forbidden" | "InvalidRequest"
            if speaks_of_lock(message) =>
        {
            Kind::Retained
        }
        "ObjectLocked" | "ObjectImmutable" | "ObjectUnderRetention" => Kind::Retained,
        "AccessDenied" | "AllAccessDisabled" | "Forbidden" | "UnauthorizedAccess" => {
            Kind::PermissionDenied
        }
        "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "QuotaExceeded"
        | "StorageQuotaExceeded"
        | "InsufficientStorage"
        | "ServiceQuotaExceeded" => Kind::Full,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "InternalError"
        | "RequestTimeout"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "OperationAborted"
        | "NoSuchUpload"
        | "IncompleteBody"
        // The body did not arrive as it was sent; sent again it may.
        | "BadDigest"
        | "XAmzContentSHA256Mismatch" => Kind::Interrupted,
        "InvalidRange" => Kind::Corrupt,
        "InvalidBucketName"
        | "InvalidStorageClass"
        | "InvalidObjectState"
        | "MethodNotAllowed"
        | "NotImplemented"
        | "KeyTooLongError" => Kind::InvalidConfig,
        _ => kind_of_status(status),
    }
}

fn kind_of_status(status: u16) -> Kind {
    match status {
        401 => Kind::AuthenticationFailed,
        403 => Kind::PermissionDenied,
        404 => Kind::NotFound,
        408 | 425 | 429 | 500 | 502..=504 => Kind::Interrupted,
        405 | 501 => Kind::InvalidConfig,
        416 => Kind::Corrupt,
        507 => Kind::Full,
        _ => Kind::Other,
    }
}

/// What services say when object lock keeps an object: there is no code of its own for it.
fn speaks_of_lock(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "object lock",
        "objectlock",
        "worm",
        "retention",
        "retained",
        "legal hold",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// An error and its sources in one line, without repetitions.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() && !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    if said.is_empty() {
        error.to_string()
    } else {
        said.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Classified, ErrorClass};
    use rstest::rstest;

    #[rstest]
    #[case("NoSuchKey", "", 404, Kind::NotFound)]
    #[case("NoSuchBucket", "", 404, Kind::NoSuchPlace)]
    #[case("SignatureDoesNotMatch", "", 403, Kind::AuthenticationFailed)]
    #[case("AccessDenied", "Access Denied", 403, Kind::PermissionDenied)]
    #[case("AccessDenied", "protected by object lock", 403, Kind::Retained)]
    #[case("InvalidRequest", "Object is WORM protected", 400, Kind::Retained)]
    #[case("SlowDown", "", 503, Kind::Interrupted)]
    #[case("SomethingNew", "", 503, Kind::Interrupted)]
    #[case("SomethingNew", "", 400, Kind::Other)]
    fn codes_have_kinds(
        #[case] code: &str,
        #[case] message: &str,
        #[case] status: u16,
        #[case] kind: Kind,
    ) {
        assert_eq!(kind_of(Some(code), message, status), kind);
    }

    #[rstest]
    #[case(403, Kind::PermissionDenied)]
    #[case(503, Kind::Interrupted)]
    #[case(507, Kind::Full)]
    fn a_bare_status_has_a_kind(#[case] status: u16, #[case] kind: Kind) {
        assert_eq!(kind_of(None, "", status), kind);
    }

    #[test]
    fn the_right_region_is_read_from_the_message() {
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; \
                       expecting 'eu-west-1'";
        assert_eq!(expected_region(message).as_deref(), Some("eu-west-1"));
        assert_eq!(expected_region("malformed"), None);
    }

    #[test]
    fn an_overloaded_service_is_asked_again_and_a_lock_is_waited_for() {
        let class = |kind| StorageError::new(kind, "", "", "").class();
        assert_eq!(
            class(kind_of(Some("SlowDown"), "", 503)),
            ErrorClass::Transient
        );
        assert_eq!(
            class(kind_of(Some("ObjectLocked"), "", 403)),
            ErrorClass::Waiting
        );
    }
}
