//! Builds that are stopped: by cancelling, by losing interest, by killing the builder. Takes root, crun and busybox.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use builder::{BuildError, Event, Request};
use common::{Lab, privileged};
use tokio_util::sync::CancellationToken;

/// Waits until something holds, or fails the test.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose command line has this word.
fn processes(word: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == word.as_bytes())
    })
    .collect()
}

/// How many mounts a cache directory has, but for the memory that an engine keeps as long as it lives.
fn mounts(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(dir) && !line.contains("/memory "))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_cancelling_kills_every_process_of_the_step() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let cancel = CancellationToken::new();
    let request = lab.request(
        "RUN sleep 31415 & (sleep 31415 &) ; setsid sh -c 'sleep 31415 & sleep 31415' & echo started; sleep 31415",
    );
    let started = |event: &Event| matches!(event, Event::Output { line, .. } if line == "started");
    let progress = |event: Event| {
        if started(&event) {
            cancel.cancel();
        }
    };
    let result = lab.engine.build(request, cancel.clone(), &progress).await;
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
    assert_eq!(processes("31415"), Vec::<u32>::new());
    assert_eq!(mounts(lab.dir.path()), 0);
    lab.build("RUN true").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_dropping_the_build_stops_it() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let started = CancellationToken::new();
    let progress = |event: Event| {
        if matches!(event, Event::Output { .. }) {
            started.cancel();
        }
    };
    let build = lab.engine.build(
        lab.request("RUN echo started; sleep 27182"),
        CancellationToken::new(),
        &progress,
    );
    tokio::select! {
        result = build => panic!("{result:?}"),
        () = started.cancelled() => {}
    }
    eventually("the command stops", || processes("27182").is_empty());
    eventually("its mounts are gone", || mounts(lab.dir.path()) == 0);
}

/// Not a test of its own: the builder that the tests below kill. It prints a line for each event.
#[tokio::test(flavor = "multi_thread")]
async fn helper_build_until_killed() {
    let Some(dir) = std::env::var_os("CAPROCK_TEST_BUILD_IN") else {
        return;
    };
    let dir = Path::new(&dir);
    let engine = common::open(&dir.join("cache"));
    let request = Request {
        containerfile: fs::read_to_string(dir.join("Containerfile")).unwrap(),
        context: Some(dir.join("context")),
        ..Request::default()
    };
    let show = |event: Event| println!("event {event:?}");
    engine
        .build(request, CancellationToken::new(), &show)
        .await
        .unwrap();
}

/// Starts the builder above in a process of its own.
fn builder(lab: &Lab, containerfile: &str) -> Child {
    fs::write(lab.dir.path().join("Containerfile"), containerfile).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_build_until_killed", "--nocapture"])
        .env("CAPROCK_TEST_BUILD_IN", lab.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_killed_builder_leaves_nothing() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mut child = builder(
        &lab,
        "FROM scratch\nCOPY rootfs /\nRUN echo kept > /kept\nRUN (sleep 16180 &); touch /half; sleep 16180",
    );
    eventually("the step runs", || processes("16180").len() >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the step dies with its builder", || {
        processes("16180").is_empty()
    });
    assert!(
        mounts(lab.dir.path()) > 0,
        "a killed builder cannot unmount"
    );
    let cache = lab.dir.path().join("cache");
    let engine = common::open(&cache);
    assert_eq!(mounts(lab.dir.path()), 0);
    // One directory for each living engine, and the lock.
    assert_eq!(fs::read_dir(cache.join("work")).unwrap().count(), 3);
    drop(engine);
    let image = lab.build("RUN echo kept > /kept").await.unwrap();
    assert_eq!(
        lab.cached(),
        [2, 3],
        "finished steps of the killed builder count"
    );
    assert!(image.root(&|_| {}).await.unwrap().exists("/kept").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_builder_killed_again_and_again_gives_the_same_image() {
    if !privileged() {
        return;
    }
    let steps = "RUN for i in $(seq 1 9); do echo $i > /f$i; echo $i; done\nWORKDIR /w\nCOPY rootfs/etc .\nRUN rm /w/passwd; ls /w";
    let expected = Lab::new().build(steps).await.unwrap().digest();
    let lab = Lab::new();
    let text = lab.request(steps).containerfile;
    // Killed after its first event, its second, and so on, until it lives long enough to finish.
    for events in 1.. {
        let mut child = builder(&lab, &text);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines
            .map_while(Result::ok)
            .filter(|line| line.starts_with("event"))
            .take(events)
            .count();
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        let killed = ended.status.signal() == Some(9);
        assert!(
            killed || ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
        if seen < events || !killed {
            break;
        }
    }
    assert_eq!(lab.build(steps).await.unwrap().digest(), expected);
    assert_eq!(lab.cached(), [2, 3, 4, 5, 6]);
    assert_eq!(mounts(lab.dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_builder_killed_at_any_moment_spoils_nothing() {
    if !privileged() {
        return;
    }
    let steps = "RUN for i in $(seq 1 2000); do echo $i; done > /numbers\nCOPY rootfs /again\nRUN rm -r /again/bin; seq 1 300000 > /more\n\
                 FROM base\nRUN seq 1 100000 > /side";
    let expected = Lab::new().build(steps).await.unwrap().digest();
    let lab = Lab::new();
    let text = lab.request(steps).containerfile;
    // Any sequence will do; one that is always the same is easier to look into.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..15 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut child = builder(&lab, &text);
        // When it is killed decides only how far it came.
        std::thread::sleep(Duration::from_millis(state % 600));
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        let killed = ended.status.signal() == Some(9);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(killed || ended.status.success(), "{said}");
        if !killed {
            // It was faster: the next one has everything to do again.
            fs::remove_dir_all(lab.dir.path().join("cache/index")).unwrap();
            fs::create_dir(lab.dir.path().join("cache/index")).unwrap();
        }
    }
    assert_eq!(lab.build(steps).await.unwrap().digest(), expected);
    // Also what lies in the store is whole.
    let elsewhere = common::open(&lab.dir.path().join("cache"));
    assert_eq!(mounts(lab.dir.path()), 0);
    let image = elsewhere
        .build(lab.request(steps), Default::default(), &|_| {})
        .await
        .unwrap();
    let layout = lab.dir.path().join("layout");
    elsewhere
        .write_layout(&image, &layout, None, &|_| {})
        .await
        .unwrap();
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let found = oci::Digest::of(&fs::read(blob.path()).unwrap()).hex();
        assert_eq!(found, blob.file_name().to_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_builds_at_the_same_time_do_not_meet() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let second = common::open(&lab.dir.path().join("cache"));
    let steps = "RUN echo a > /a\nRUN echo b > /b";
    let build = |engine: &builder::Engine| {
        let (engine, request) = (engine.clone(), lab.request(steps));
        async move {
            engine
                .build(request, CancellationToken::new(), &|_| {})
                .await
                .unwrap()
                .digest()
        }
    };
    let (a, b, c) = tokio::join!(build(&lab.engine), build(&lab.engine), build(&second));
    assert_eq!((a, b), (b, c));
    assert_eq!(mounts(lab.dir.path()), 0);
}
