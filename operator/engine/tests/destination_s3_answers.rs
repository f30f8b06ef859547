//! What S3 services answer on days that a real one cannot be asked to have: overload, the wrong
//! region, listings and bodies that end too soon. The answers are canned, the client is real.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod destination_support;

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use destination_support::{open, s3_config};
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::{
    Addressing, S3Config, Storage, StorageConfig, StorageErrorKind as Kind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A service that answers its requests in order, the last answer again and again.
struct Canned {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

impl Canned {
    async fn new(answers: &[String]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(AtomicUsize::new(0));
        let (answers, count) = (Arc::new(answers.to_vec()), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let last = answers.len().saturating_sub(1);
                let answer = answers.get(number.min(last)).cloned().unwrap_or_default();
                tokio::spawn(answer_once(stream, answer));
            }
        });
        Ok(Self { endpoint, requests })
    }

    async fn storage(&self) -> Arc<dyn Storage> {
        open(&StorageConfig::S3(s3_config(&self.endpoint, "bucket", ""))).await
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Reads the head of a request (bodies here fit into what is read with it) and answers.
async fn answer_once(mut stream: TcpStream, answer: String) {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    // The client may have gone; the test sees that in what it got.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

fn refusal(status: &str, headers: &str, code: &str, message: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    answer(status, headers, &body)
}

#[tokio::test]
async fn an_overloaded_service_is_asked_again_until_it_has_time() -> Result<()> {
    let busy = refusal(
        "503 Slow Down",
        "",
        "SlowDown",
        "Please reduce your request rate.",
    );
    let well = answer("200 OK", "ETag: \"x\"\r\n", "hello");
    let service = Canned::new(&[busy.clone(), busy, well]).await?;
    assert_eq!(service.storage().await.read("config").await?, "hello");
    assert_eq!(service.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn the_wish_for_a_pause_is_passed_on() -> Result<()> {
    let busy = refusal("503 Slow Down", "Retry-After: 7\r\n", "SlowDown", "Later.");
    let service = Canned::new(&[busy]).await?;
    let error = service
        .storage()
        .await
        .probe()
        .await
        .expect_err("overloaded");
    assert_eq!(error.kind, Kind::Interrupted, "{error}");
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    Ok(())
}

#[tokio::test]
async fn the_region_that_the_service_names_is_passed_on() -> Result<()> {
    let header = "x-amz-bucket-region: eu-central-1\r\n";
    let redirect = refusal(
        "301 Moved Permanently",
        header,
        "PermanentRedirect",
        "Elsewhere.",
    );
    let malformed = refusal(
        "400 Bad Request",
        "",
        "AuthorizationHeaderMalformed",
        "the region 'us-east-1' is wrong; expecting 'eu-central-1'",
    );
    for said in [redirect, malformed] {
        let service = Canned::new(&[said]).await?;
        let error = service
            .storage()
            .await
            .probe()
            .await
            .expect_err("the wrong region");
        assert_eq!(error.kind, Kind::InvalidConfig, "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(
            error.to_string().contains("region is eu-central-1"),
            "{error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_listing_that_says_there_is_more_and_not_where_is_an_error() -> Result<()> {
    let page = answer(
        "200 OK",
        "",
        "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>data/aa/aabb</Key>\
         <Size>5</Size></Contents></ListBucketResult>",
    );
    let service = Canned::new(&[page]).await?;
    let error = service
        .storage()
        .await
        .list("data")
        .await
        .expect_err("not complete");
    assert!(error.to_string().contains("does not say where"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_look_into_a_bucket_without_end_ends_after_its_first_page() -> Result<()> {
    let page = answer(
        "200 OK",
        "",
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t\
         </NextContinuationToken><Contents><Key>a.jpg</Key><Size>5</Size></Contents>\
         <Contents><Key>b.jpg</Key><Size>5</Size></Contents></ListBucketResult>",
    );
    let service = Canned::new(&[page]).await?;
    let storage = service.storage().await;
    assert_eq!(storage.list_some("", 2).await?.len(), 2);
    assert_eq!(service.requests(), 1);
    assert_eq!(storage.list_some("", 1).await?.len(), 1);
    assert_eq!(service.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn a_second_page_that_fails_fails_the_listing() -> Result<()> {
    let first = answer(
        "200 OK",
        "",
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t\
         </NextContinuationToken><Contents><Key>data/aa/aabb</Key><Size>5</Size></Contents>\
         </ListBucketResult>",
    );
    let denied = refusal("403 Forbidden", "", "AccessDenied", "Access Denied");
    let service = Canned::new(&[first, denied]).await?;
    let error = service
        .storage()
        .await
        .list("data")
        .await
        .expect_err("not complete");
    assert_eq!(error.kind, Kind::PermissionDenied, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_ends_too_soon_is_read_again() -> Result<()> {
    let cut = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhel".to_owned();
    let whole = answer("200 OK", "", "hello");
    let service = Canned::new(&[cut, whole]).await?;
    assert_eq!(service.storage().await.read("config").await?, "hello");
    Ok(())
}

#[tokio::test]
async fn a_range_that_is_ignored_is_an_error() -> Result<()> {
    let service = Canned::new(&[answer("200 OK", "", "hello")]).await?;
    let error = service
        .storage()
        .await
        .read_range("config", 1, 2)
        .await
        .expect_err("too much");
    assert_eq!(error.kind, Kind::InvalidConfig, "{error}");
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_locked_is_retained() -> Result<()> {
    let locked = "Access Denied because object protected by object lock.";
    let service = Canned::new(&[refusal("403 Forbidden", "", "AccessDenied", locked)]).await?;
    let error = service
        .storage()
        .await
        .remove("data/aa/aabb")
        .await
        .expect_err("locked");
    assert_eq!(error.kind, Kind::Retained, "{error}");
    assert_eq!(error.class(), ErrorClass::Waiting);
    Ok(())
}

#[tokio::test]
async fn what_is_no_s3_service_is_said_to_be_none() -> Result<()> {
    let page = answer(
        "404 Not Found",
        "Content-Type: text/html\r\n",
        "<html>nginx</html>",
    );
    let service = Canned::new(&[page]).await?;
    let error = service
        .storage()
        .await
        .probe()
        .await
        .expect_err("no S3 service");
    assert_eq!(error.kind, Kind::NoSuchPlace, "{error}");
    Ok(())
}

/// The storage class goes with packs alone, and the bucket's name where the style wants it.
#[tokio::test]
async fn requests_say_what_the_destination_says() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or_default() == 0 {
                    break;
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&read).to_ascii_lowercase());
            let _ = stream.write_all(answer("200 OK", "", "").as_bytes()).await;
        }
    });
    let addressing = if ("bucket.localhost", port).to_socket_addrs().is_ok() {
        Addressing::Virtual
    } else {
        println!("SKIPPED: the virtual style, since names below localhost are not resolved here");
        Addressing::Path
    };
    let config = S3Config {
        storage_class: Some("GLACIER_IR".to_owned()),
        addressing,
        ..s3_config(&format!("http://localhost:{port}"), "bucket", "shop")
    };
    let storage = open(&StorageConfig::S3(config)).await;
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"pack")])
        .await?;
    let pack = heads.recv().await.expect("a request");
    storage
        .write("index/abcd", vec![Bytes::from_static(b"index")])
        .await?;
    let index = heads.recv().await.expect("a request");

    let (line, host) = match addressing {
        Addressing::Path => (
            "put /bucket/shop/data/ab/abcd",
            format!("host: localhost:{port}"),
        ),
        Addressing::Virtual => (
            "put /shop/data/ab/abcd",
            format!("host: bucket.localhost:{port}"),
        ),
    };
    assert!(pack.starts_with(line) && pack.contains(&host), "{pack}");
    assert!(pack.contains("x-amz-storage-class: glacier_ir"), "{pack}");
    assert!(!index.contains("x-amz-storage-class"), "{index}");
    // The SHA-256 of "pack": the service can tell whether it came unchanged.
    assert!(pack.contains("x-amz-content-sha256: "), "{pack}");
    assert!(!pack.contains("unsigned-payload"), "{pack}");
    assert!(
        !pack.contains("x-amz-checksum") && !pack.contains("aws-chunked"),
        "{pack}"
    );
    Ok(())
}

/// A pack of a large repository, with the blob that made it full: in parts it would be three requests.
#[tokio::test]
async fn a_pack_goes_as_one_request() -> Result<()> {
    const PACK: usize = 40 * 1024 * 1024;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            let end = |read: &[u8]| read.windows(4).position(|four| four == b"\r\n\r\n");
            while end(&read).is_none() {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let head = end(&read).unwrap_or(read.len()) + 4;
            let line = String::from_utf8_lossy(&read[..head.min(read.len())])
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            let mut body = read.len().saturating_sub(head);
            let mut buffer = vec![0; 1 << 20];
            while line.starts_with("PUT") && body < PACK {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(more) => body += more,
                }
            }
            let _ = sender.send((line, body));
            let _ = stream.write_all(answer("200 OK", "", "").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let storage = open(&StorageConfig::S3(s3_config(&endpoint, "bucket", ""))).await;
    let parts = vec![
        Bytes::from(vec![1; PACK / 2]),
        Bytes::from(vec![2; PACK - PACK / 2]),
    ];
    storage.write("data/ab/abcd", parts).await?;
    let (line, body) = requests.recv().await.expect("a request");
    assert!(line.starts_with("PUT /bucket/data/ab/abcd"), "{line}");
    assert!(!line.contains("uploadId"), "{line}");
    assert_eq!(body, PACK);
    assert!(requests.try_recv().is_err(), "there was more than one");
    Ok(())
}
