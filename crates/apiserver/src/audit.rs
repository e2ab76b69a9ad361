//! The audit log: one line of `audit.k8s.io/v1` for every request that changed, or was refused, something.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::auth::User;
use crate::http::path::ResourcePath;
use crate::resources::names;

/// Lines that may wait for the disk before requests are made to wait.
const QUEUE: usize = 4096;

/// Where lines go. Dropping it ends the writer.
#[derive(Debug)]
pub(crate) struct AuditLog {
    lines: mpsc::Sender<Value>,
}

/// What a line says about a request, beside its answer. Bodies are never in it.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) verb: &'a str,
    pub(crate) uri: String,
    pub(crate) path: Option<&'a ResourcePath>,
    pub(crate) user: Option<&'a User>,
    pub(crate) impersonator: Option<&'a User>,
    pub(crate) address: Option<String>,
    pub(crate) agent: String,
    pub(crate) received: Timestamp,
    pub(crate) code: u16,
    /// What admission policies had to say.
    pub(crate) notes: BTreeMap<String, String>,
}

impl AuditLog {
    /// Appends to a file that only this user may read.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        let (lines, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || write(file, receiver))?;
        Ok(Self { lines })
    }

    /// Adds a line; waits when the disk does not keep up.
    pub(crate) async fn add(&self, facts: Facts<'_>) {
        if self.lines.send(line(&facts)).await.is_err() {
            tracing::error!("the audit log is not written any more");
        }
    }
}

fn write(file: File, mut lines: mpsc::Receiver<Value>) {
    let mut out = BufWriter::new(file);
    while let Some(line) = lines.blocking_recv() {
        let mut written = writeln!(out, "{line}");
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| writeln!(out, "{line}"));
        }
        if let Err(error) = written.and_then(|()| out.flush()) {
            tracing::error!(%error, "cannot write the audit log");
        }
    }
}

fn line(facts: &Facts<'_>) -> Value {
    let mut line = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata", "stage": "ResponseComplete",
        "auditID": names::uid().unwrap_or_default(),
        "requestURI": facts.uri, "verb": facts.verb,
        "user": shown(facts.impersonator.or(facts.user)),
        "userAgent": facts.agent,
        "responseStatus": {"metadata": {}, "code": facts.code},
        "requestReceivedTimestamp": exact(facts.received),
        "stageTimestamp": exact(Timestamp::now()),
    });
    if !facts.notes.is_empty() {
        line["annotations"] = json!(facts.notes);
    }
    if facts.impersonator.is_some() {
        line["impersonatedUser"] = shown(facts.user);
    }
    if let Some(address) = &facts.address {
        line["sourceIPs"] = json!([address]);
    }
    if let Some(path) = facts.path {
        let mut object = json!({"resource": path.resource, "apiVersion": path.version});
        for (field, value) in [
            (
                "apiGroup",
                Some(&path.group).filter(|group| !group.is_empty()),
            ),
            ("namespace", path.namespace.as_ref()),
            ("name", path.name.as_ref()),
            ("subresource", path.subresource.as_ref()),
        ] {
            if let Some(value) = value {
                object[field] = json!(value);
            }
        }
        line["objectRef"] = object;
    }
    line
}

fn shown(user: Option<&User>) -> Value {
    match user {
        Some(user) => json!({"username": user.name, "groups": user.groups}),
        None => json!({"username": "system:anonymous", "groups": ["system:unauthenticated"]}),
    }
}

fn exact(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
