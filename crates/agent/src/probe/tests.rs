#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::state::State;
use crate::tests::fake::Machine;

/// A node that has booted, and what one probe finds there.
async fn probe(prepare: impl FnOnce(&Machine), check: Value) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let machine = Machine::new(path.join("machine"), crate::tests::world::base());
    prepare(&machine);
    let state = State::open(&machine.state_dir()).unwrap();
    let fake = || Arc::new(machine.host());
    let host = Host::new(fake(), fake(), state, &machine.root(), &machine.run_dir());
    let mut probe = check;
    probe["name"] = json!("p");
    let spec = serde_json::from_value(json!({"probes": [probe]})).unwrap();
    let wanted = model::health::Health::of(&spec).unwrap();
    match run(&host, &wanted.probes).await {
        Health::Well => "well".to_owned(),
        Health::Waiting(why) => format!("waiting: {why}"),
        Health::Unwell(why) => format!("unwell: {why}"),
    }
}

#[tokio::test]
async fn files_are_there_with_their_text() {
    let check = async |probe_of: Value, expected: &str| {
        let found = probe(|_| {}, json!({"file": probe_of})).await;
        assert_eq!(found, expected);
    };
    check(json!({"path": "/etc/motd"}), "well").await;
    check(
        json!({"path": "/etc/motd", "contains": "base image"}),
        "well",
    )
    .await;
    check(
        json!({"path": "/etc/motd", "contains": "layered"}),
        "waiting: probe `p`: `/etc/motd` does not contain its text",
    )
    .await;
    check(
        json!({"path": "/etc/absent"}),
        "waiting: probe `p`: not true yet that `/etc/absent` is there: No such file or directory (os error 2)",
    )
    .await;
    check(
        json!({"path": "/etc", "contains": "x"}),
        "waiting: probe `p`: not true yet that `/etc` is there with its text: it is not a file",
    )
    .await;
}

#[tokio::test]
async fn a_pipe_holds_no_probe_up() {
    let found = probe(
        |machine| {
            let path = machine.root().join("etc/pipe");
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        },
        json!({"file": {"path": "/etc/pipe", "contains": "x"}}),
    )
    .await;
    assert!(found.ends_with("it is not a file"), "{found}");
}

#[test]
fn mounts_are_found_by_their_exact_path() {
    let table = "\
36 35 98:0 /mnt1 /var/mnt/home rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 98:0 / /var/a\\040b\\134c rw - tmpfs tmpfs rw
38 35 98:0 / / rw - tmpfs tmpfs rw
";
    for there in ["/var/mnt/home", "/var/mnt/home/", "/var/a b\\c", "/"] {
        assert!(is_mounted(table, there), "{there}");
    }
    for absent in ["/var/mnt", "/var/mnt/home/x", ""].map(|path| format!("{path}x")) {
        assert!(!is_mounted(table, &absent), "{absent}");
    }
}

#[tokio::test]
async fn units_are_active_or_not() {
    let unit = json!({"unit": {"name": "autofs.service"}});
    assert_eq!(probe(|_| {}, unit.clone()).await, "well");
    let failed = probe(|machine| machine.break_unit("autofs.service"), unit).await;
    assert!(
        failed.starts_with("unwell: probe `p`: unit `autofs.service` failed"),
        "{failed}"
    );
}

#[tokio::test]
async fn commands_end_with_their_status() {
    let check = async |argv: &[&str], expected: &str| {
        let command = json!({"command": {"argv": argv, "exitStatus": 3}});
        assert_eq!(probe(|_| {}, command).await, expected);
    };
    check(&["sh", "-c", "exit 3"], "well").await;
    check(
        &["sh", "-c", "echo no server >&2"],
        "waiting: probe `p`: `sh` ended with 0, not 3: no server",
    )
    .await;
}

/// A server that gives one answer.
async fn server(answer: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert_ne!(stream.read(&mut request).await.unwrap(), 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
        // One that says nothing more and does not close either.
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test]
async fn servers_answer_with_their_status() {
    let check = async |answer: &'static str, expected: &str| {
        let address = server(answer).await;
        let url = format!("http://{address}/healthz");
        let found = probe(|_| {}, json!({"http": {"url": url, "timeout": "60s"}})).await;
        assert_eq!(found.replace(&url, "URL"), expected);
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "well").await;
    check(
        "HTTP/1.1 503 Busy\r\nContent-Length: 99999999999\r\n\r\n",
        "waiting: probe `p`: `URL` answers 503, not 200",
    )
    .await;
    check(
        "HTTP/1.1 302 Elsewhere\r\nLocation: http://example.com/\r\nContent-Length: 0\r\n\r\n",
        "waiting: probe `p`: `URL` answers 302, not 200",
    )
    .await;
    let silent = server("").await;
    let http = json!({"http": {"url": format!("http://{silent}/"), "timeout": "1s"}});
    let found = probe(|_| {}, http).await;
    assert!(found.starts_with("waiting: probe `p`: "), "{found}");
}
