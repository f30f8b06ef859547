//! What the API server's audit log says of one client's requests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// Reads an audit log from where it ended when this was made.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    offset: u64,
}

/// How many requests there were: by verb and resource, such as `patch backups/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests(pub BTreeMap<(String, String), u64>);

impl Audit {
    /// From its end on.
    pub fn from_now(path: &Path) -> Result<Self> {
        let offset = std::fs::metadata(path)
            .with_context(|| format!("asking for the end of {}", path.display()))?
            .len();
        Ok(Self {
            path: path.to_owned(),
            offset,
        })
    }

    /// The requests since the last reading that neither kubectl nor Kubernetes itself made.
    pub fn read(&mut self) -> Result<Requests> {
        let mut file = File::open(&self.path).context("opening the audit log")?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // The last line may be on its way yet.
        let end = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |position| position + 1);
        self.offset += u64::try_from(end)?;
        let mut requests = Requests::default();
        for line in text
            .get(..end)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
        {
            if line.is_empty() {
                continue;
            }
            let entry: Value = serde_json::from_slice(line).context("reading the audit log")?;
            if let Some(key) = key(&entry) {
                *requests.0.entry(key).or_default() += 1;
            }
        }
        Ok(requests)
    }
}

fn key(entry: &Value) -> Option<(String, String)> {
    let user = entry["user"]["username"].as_str().unwrap_or_default();
    let agent = entry["userAgent"].as_str().unwrap_or_default();
    if user.starts_with("system:") || agent.starts_with("kubectl") || agent.starts_with("kube-") {
        return None;
    }
    let verb = entry["verb"].as_str()?;
    let reference = &entry["objectRef"];
    let resource = match (
        reference["resource"].as_str(),
        reference["subresource"].as_str(),
    ) {
        (Some(resource), Some(part)) => format!("{resource}/{part}"),
        (Some(resource), None) => resource.to_owned(),
        _ => entry["requestURI"].as_str()?.to_owned(),
    };
    Some((verb.to_owned(), resource))
}

impl Requests {
    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        for (key, count) in &others.0 {
            *self.0.entry(key.clone()).or_default() += count;
        }
    }

    /// Those that write, renewals of the lease left out.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.count(|verb, resource| is_write(verb) && resource != "leases")
    }

    /// How many there are of a kind.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&str, &str) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|((verb, resource), _)| wanted(verb, resource))
            .map(|(_, count)| count)
            .sum()
    }
}

fn is_write(verb: &str) -> bool {
    !matches!(verb, "get" | "list" | "watch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_ask_and_renewals_of_the_lease_do_not_count() {
        let dir = crate::Workdir::new().unwrap();
        let path = dir.join("audit.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut audit = Audit::from_now(&path).unwrap();
        let line = |user: &str, agent: &str, verb: &str, resource: &str, part: Option<&str>| {
            serde_json::json!({
                "verb": verb, "user": {"username": user}, "userAgent": agent,
                "objectRef": {"resource": resource, "subresource": part},
            })
            .to_string()
        };
        let lines = [
            line("admin", "", "patch", "backups", Some("status")),
            line("admin", "", "update", "leases", None),
            line("admin", "", "watch", "secrets", None),
            line("admin", "kubectl/v1", "create", "secrets", None),
            line("system:apiserver", "kube-apiserver", "update", "x", None),
        ];
        std::fs::write(&path, format!("before\n{}\n{{\"half", lines.join("\n"))).unwrap();
        let read = audit.read().unwrap();
        assert_eq!(read.0.len(), 3);
        assert_eq!(read.writes(), 1);
        assert_eq!(read.count(|_, resource| resource == "leases"), 1);
        assert_eq!(audit.read().unwrap(), Requests::default());
    }
}
