//! A `caprock serve` of a test's own, with who asks it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Real clusters are slow, and so is a busy test machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A process that is killed when nobody needs it any more.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `caprock` as nobody on no cluster.
pub(crate) fn caprock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caprock"));
    command
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// Starts `caprock` with its words in a file.
pub(crate) fn start(args: &[&str], log: &Path) -> Process {
    let log = std::fs::File::create(log).unwrap();
    let mut command = caprock();
    command.args(args).stdout(Stdio::null()).stderr(log);
    Process(command.spawn().unwrap())
}

/// A ready server on ports of its own, with `data` and `serve.log` in a directory.
pub(crate) fn serve(dir: &Path, flags: &[&str]) -> Process {
    let (data, log) = (dir.join("data"), dir.join("serve.log"));
    let fixed = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--registry-listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let mut server = start(&[&fixed, flags].concat(), &log);
    let began = Instant::now();
    while !kubeconfig(dir).exists() {
        assert!(
            began.elapsed() < DEADLINE && server.0.try_wait().unwrap().is_none(),
            "the server is not ready: {}",
            std::fs::read_to_string(log).unwrap()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// The administrator's, of a server whose data is in a directory.
pub(crate) fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("data/kubeconfig")
}

/// The administrator.
pub(crate) async fn client(dir: &Path) -> Client {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = Kubeconfig::read_from(kubeconfig(dir)).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options);
    Client::try_from(config.await.unwrap()).unwrap()
}
