//! `ADD` of files by URL and of git repositories, and what else reaches a step from outside. Takes root, crun and
//! busybox; repositories take git.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use builder::BuildError;
use common::{Lab, privileged};
use oci::Digest;

/// Serves one file at `/dir/file.tar`, and counts how often.
async fn web(content: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let file = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { content }
    };
    let router = axum::Router::new().route("/dir/file.tar", axum::routing::get(file));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, count)
}

async fn refused(lab: &Lab, steps: &str) -> String {
    match lab.build(steps).await.unwrap_err() {
        error @ BuildError::Step { .. } => error.to_string(),
        other => panic!("{steps}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_files_are_added_by_url() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (address, count) = web(b"content").await;
    let url = format!("http://{address}/dir/file.tar");
    let steps = format!(
        "ARG URL={url}\nADD $URL /a/\nADD --chmod=644 --chown=web {url}?x=y /named\nRUN stat -c '%a %u' /a/file.tar /named; cat /a/file.tar"
    );
    lab.build(&steps).await.unwrap();
    assert_eq!(lab.output(), ["600 0", "644 33", "content"]);
    let before = count.load(Ordering::SeqCst);
    lab.build(&steps).await.unwrap();
    assert_eq!(lab.cached().len(), 4);
    assert_eq!(
        count.load(Ordering::SeqCst),
        before + 2,
        "asked for, as it may have changed"
    );

    let digest = Digest::of(b"content");
    let pinned = format!("ADD --checksum={digest} {url} /pinned");
    lab.build(&pinned).await.unwrap();
    assert_eq!(
        count.load(Ordering::SeqCst),
        before + 2,
        "it is known by its digest"
    );
    let wrong = format!("ADD --checksum={} {url} /x", Digest::of(b"other"));
    let error = refused(&lab, &wrong).await;
    assert!(error.contains("expected `sha256:"), "{error}");
    let error = refused(&lab, &format!("ADD http://{address}/none /x")).await;
    assert!(error.contains("404"), "{error}");
    let error = refused(&lab, &format!("ADD http://{address} /x/")).await;
    assert!(error.contains("does not end with a file name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_remote_archives_are_unpacked_when_asked() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (address, _) = web(include_bytes!("fixtures/side.tar.xz")).await;
    let url = format!("http://{address}/dir/file.tar");
    lab.build(&format!(
        "ADD {url} /a/\nADD --unpack=true {url} /b\nRUN ls /a; cat /b/in/side"
    ))
    .await
    .unwrap();
    assert_eq!(lab.output(), ["file.tar", "hi"]);
}

/// A git server that ends with its value.
struct Daemon {
    process: Child,
    address: SocketAddr,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        self.process.wait().unwrap();
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=n", "-c", "user.email=e@x.example"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

fn serve_git(dir: &Path) -> Daemon {
    use std::os::unix::process::CommandExt as _;
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let process = Command::new("git")
        .args([
            "daemon",
            "--export-all",
            "--reuseaddr",
            "--listen=127.0.0.1",
        ])
        .arg(format!("--port={}", address.port()))
        .arg(format!("--base-path={}", dir.display()))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let daemon = Daemon { process, address };
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "git daemon does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_repositories_are_added() {
    if !privileged() {
        return;
    }
    let has_daemon = Command::new("git").args(["daemon", "--help"]).output();
    if !has_daemon.is_ok_and(|output| output.status.success() || output.status.code() == Some(16)) {
        eprintln!("skipped: there is no git daemon");
        return;
    }
    let lab = Lab::new();
    let served = lab.dir.path().join("served");
    let repository = served.join("r");
    fs::create_dir_all(repository.join("sub")).unwrap();
    fs::write(repository.join("top"), "one").unwrap();
    fs::write(repository.join("sub/file"), "in").unwrap();
    git(&repository, &["init", "--quiet", "--initial-branch=main"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "one"]);
    git(&repository, &["tag", "-a", "v1", "-m", "v1"]);
    let first = git(&repository, &["rev-parse", "HEAD"]);
    let daemon = serve_git(&served);
    let url = format!("git://{}/r", daemon.address);
    let steps = format!(
        "ADD {url} /all\nADD {url}#v1:sub /sub\nADD --keep-git-dir {url} /kept\nRUN cat /all/top /sub/file; ls -A /all; test -d /kept/.git"
    );
    lab.build(&steps).await.unwrap();
    assert_eq!(lab.output(), ["oneinsub", "top"]);

    fs::write(repository.join("top"), "two").unwrap();
    git(&repository, &["commit", "--quiet", "-am", "two"]);
    lab.build(&format!("ADD {url} /all\nRUN cat /all/top; echo"))
        .await
        .unwrap();
    assert_eq!(lab.output(), ["two"]);
    let error = refused(&lab, &format!("ADD --checksum={first} {url} /x")).await;
    assert!(error.contains(&format!("expected `{first}`")), "{error}");
    let error = refused(&lab, &format!("ADD {url}#nope /x")).await;
    assert!(error.contains("has no revision `nope`"), "{error}");
    let error = refused(&lab, &format!("ADD {url}#:none /x")).await;
    assert!(error.contains("has no directory `none`"), "{error}");
    drop(daemon);
    // A commit that is at hand takes no network.
    lab.build(&format!("ADD {url}#{first} /all\nRUN cat /all/top; echo"))
        .await
        .unwrap();
    assert_eq!(lab.output(), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_agents_are_lent() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let socket = lab.dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let step =
        "RUN --mount=type=ssh,uid=33 test -S $SSH_AUTH_SOCK && stat -c '%u %a' $SSH_AUTH_SOCK";
    let mut request = lab.request(step);
    request.ssh_agents.insert("default".into(), socket);
    lab.build_request(request, Default::default())
        .await
        .unwrap();
    assert_eq!(lab.output(), ["33 600"]);
    let error = refused(&lab, "RUN --mount=type=ssh,required true").await;
    assert!(
        error.contains("was given no SSH agent `default`"),
        "{error}"
    );
    lab.build("RUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\"")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_caches_start_as_a_copy() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let steps = "FROM base AS seed\nRUN mkdir /s && echo seed > /s/f\nFROM base\n\
                 RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/f; echo more > /c/g\n\
                 RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/g";
    lab.build(steps).await.unwrap();
    assert_eq!(lab.output(), ["seed", "more"]);
}
