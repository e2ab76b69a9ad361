//! A server killed in the middle of writes keeps every write that it acknowledged, and no half of another; and a watch goes on
//! where it was.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use apiserver::{ApiServer, Config, Token};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};

const DIRECTORY: &str = "APISERVER_KILL_TEST_DIRECTORY";
const ROUND: &str = "APISERVER_KILL_TEST_ROUND";
const WRITERS: usize = 8;
const ROUNDS: usize = 3;
const ACKNOWLEDGED: usize = 60;

fn open(directory: &std::path::Path) -> kube::Client {
    let config = Config {
        tokens: vec![Token::new("admin", &["system:masters"], common::ADMIN)],
        ..Config::new(directory)
    };
    let server = ApiServer::open(config).unwrap();
    kube::Client::new(server.router_as(common::ADMIN), "default")
}

/// What a restarted server has, by name, and what a watch that saw `since` before the kill is told, as versions and
/// names. The server's runtime goes with it, so that the directory is free again.
fn stored(
    directory: &std::path::Path,
    since: u64,
) -> (BTreeMap<String, ConfigMap>, Vec<(u64, String)>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(open(directory));
        let found = api.list(&ListParams::default()).await.unwrap();
        let newest = found.iter().map(version).max().unwrap();
        let mut events = Vec::new();
        let (parameters, since) = (WatchParams::default(), since.to_string());
        let mut watch = std::pin::pin!(api.watch(&parameters, &since).await.unwrap());
        while events.last().is_none_or(|(seen, _)| *seen < newest) {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Added(map) => events.push((version(&map), map.name_any())),
                other => panic!("{other:?}"),
            }
        }
        let named = found.into_iter().map(|map| (map.name_any(), map));
        (named.collect(), events)
    })
}

fn version(map: &ConfigMap) -> u64 {
    map.resource_version().unwrap().parse().unwrap()
}

/// Big enough to span pages, and checkable.
fn content(name: &str) -> String {
    format!("{name};").repeat(400)
}

/// Not a test by itself: the process that is killed.
#[tokio::test]
async fn child_writes_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let round = std::env::var(ROUND).unwrap();
    let client = open(directory.as_ref());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let round = round.clone();
        writers.spawn(async move {
            for index in 0.. {
                let name = format!("r{round}-w{writer}-{index}");
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        ..ObjectMeta::default()
                    },
                    data: Some([("key".to_owned(), content(&name))].into()),
                    ..ConfigMap::default()
                };
                let created = api.create(&PostParams::default(), &map).await.unwrap();
                let version = created.metadata.resource_version.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {name} {version}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    writers.join_next().await;
}

#[test]
fn acknowledged_writes_survive_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    let mut newest = 0;
    for round in 0..ROUNDS {
        // What somebody who watches saw last before the kill.
        let mut since = 0;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_killed", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut record = |line: String| {
            // The test harness may print before the first line.
            let Some((_, line)) = line.split_once("ack ") else {
                return false;
            };
            let (name, version) = line.split_once(' ').unwrap();
            let number: u64 = version.parse().unwrap();
            assert!(number > newest, "a version was given out twice");
            acknowledged.insert(name.into(), version.into());
            if since == 0 {
                since = number;
            }
            true
        };
        let mut count = 0;
        while count < ACKNOWLEDGED {
            count += usize::from(record(lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What was said before the kill still counts.
        for line in lines {
            record(line.unwrap());
        }
        let versions = acknowledged.values().map(|v| v.parse().unwrap());
        newest = versions.max().unwrap_or(newest);

        let (found, events) = stored(directory.path(), since);
        for (name, map) in &found {
            let data = map.data.as_ref().unwrap();
            assert_eq!(data["key"], content(name), "{name} is half written");
        }
        let versions: Vec<u64> = events.iter().map(|(version, _)| *version).collect();
        assert!(
            versions.is_sorted_by(|a, b| a < b),
            "out of order: {versions:?}"
        );
        let told: BTreeMap<&str, u64> =
            events.iter().map(|(v, name)| (name.as_str(), *v)).collect();
        for (name, map) in &found {
            let expected = Some(version(map)).filter(|version| *version > since);
            assert_eq!(
                told.get(name.as_str()).copied(),
                expected,
                "{name} after {since}"
            );
        }
        for (name, version) in &acknowledged {
            let map = found.get(name).unwrap_or_else(|| panic!("{name} is lost"));
            assert_eq!(map.metadata.resource_version.as_ref(), Some(version));
        }
    }
}
