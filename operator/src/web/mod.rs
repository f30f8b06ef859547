//! What is served over HTTP: `/metrics`, `/healthz`, `/readyz`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use holdfast_engine::class::{Classified, ErrorClass};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

/// How far the start has come; clones share it. A process that is not ready yet is not sick:
/// `/healthz` does not look at this.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    state_opened: AtomicBool,
    resources_loaded: AtomicBool,
    first_pass_done: AtomicBool,
}

impl Readiness {
    /// The state database is open.
    pub fn state_opened(&self) {
        self.0.state_opened.store(true, Ordering::Release);
    }

    /// The resources are read.
    pub fn resources_loaded(&self) {
        self.0.resources_loaded.store(true, Ordering::Release);
    }

    /// Everything has been looked at once.
    pub fn first_pass_done(&self) {
        self.0.first_pass_done.store(true, Ordering::Release);
    }

    /// What is still to come, or `None` when all is ready.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        let Steps {
            state_opened,
            resources_loaded,
            first_pass_done,
        } = &*self.0;
        [
            (state_opened, "the state database is not open yet"),
            (resources_loaded, "the resources are not read yet"),
            (first_pass_done, "the first pass is not done yet"),
        ]
        .into_iter()
        .find_map(|(done, missing)| (!done.load(Ordering::Acquire)).then_some(missing))
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What came back.
        cause: std::io::Error,
    },
    /// The server broke off.
    #[error("the HTTP server broke off: {0}; start again")]
    Serve(std::io::Error),
}

impl Classified for WebError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Listen { .. } => ErrorClass::Waiting,
            Self::Serve(_) => ErrorClass::Transient,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "AddressInUse",
            Self::Serve(_) => "ServerFailed",
        }
    }
}

#[derive(Debug, Clone)]
struct Served {
    registry: Registry,
    readiness: Readiness,
}

/// The routes.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Served {
            registry,
            readiness,
        })
}

/// Takes the address; port 0 takes a free one, [`TcpListener::local_addr`] says which.
///
/// # Errors
/// When the address cannot be had.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, WebError> {
    TcpListener::bind(address)
        .await
        .map_err(|cause| WebError::Listen { address, cause })
}

/// Serves until `shutdown`, then answers what has been asked and ends.
///
/// # Errors
/// When the server breaks off.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), WebError> {
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(WebError::Serve)
}

/// That this answers at all is the proof: the event loop runs.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(served): State<Served>) -> Response {
    match served.readiness.missing() {
        None => "ok\n".into_response(),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")).into_response(),
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    // Gathering reads the journal, which blocks.
    let text = tokio::task::spawn_blocking(move || {
        TextEncoder::new().encode_to_string(&served.registry.gather())
    })
    .await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => broken(&error),
        Err(error) => broken(&error),
    }
}

fn broken(error: &dyn std::error::Error) -> Response {
    tracing::error!(%error, "The metrics cannot be gathered.");
    let text = "the metrics cannot be gathered; the log says why\n";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::IntGauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    #[tokio::test]
    async fn serves_until_it_is_told_to_end() {
        let registry = Registry::new();
        let gauge = IntGauge::new("holdfast_test", "A test.").unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        gauge.set(7);
        let readiness = Readiness::default();
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(
            listener,
            router(registry, readiness.clone()),
            async {
                let _ = ended.await;
            },
        ));
        assert_eq!(ask(address, "/healthz").await.0, 200);
        let (status, text) = ask(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("\nholdfast_test 7\n"), "{text}");
        for (step, missing) in [
            (Readiness::state_opened as fn(&Readiness), "database"),
            (Readiness::resources_loaded, "resources"),
            (Readiness::first_pass_done, "first pass"),
        ] {
            let (status, text) = ask(address, "/readyz").await;
            assert_eq!(status, 503);
            assert!(text.contains(missing), "{text}");
            step(&readiness);
        }
        assert_eq!(ask(address, "/readyz").await.0, 200);
        assert_eq!(ask(address, "/nothing").await.0, 404);
        end.send(()).unwrap();
        server.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn an_address_in_use_is_told() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = listen(listener.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("--listen"), "{error}");
    }
}
