//! Executing one `RUN`.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub(crate) use super::mounts::Sources;
use super::mounts::{self, Failure};
use super::runtime::Runtime;
use super::spec::{self, Bind, Step};
use super::stubs::Stubs;
use super::user::Users;
use crate::error::{BuildError, StepStatus};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::state::RunAction;

/// How many lines of output a failure carries.
const TAIL_LINES: usize = 20;
/// Longer lines are split.
const MAX_LINE: usize = 8 << 10;
/// Bytes of output that are shown; the end of what follows is still in a failure's tail.
const MAX_OUTPUT: usize = 16 << 20;
/// Where a here-document that is a program appears.
const SCRIPT: &str = "/dev/containerfile-script";

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Succeeded,
    Failed {
        status: StepStatus,
        tail: Vec<String>,
    },
}

/// Runs the command of a step in a mounted snapshot; each line of output goes to `output`. Blocks until the command
/// and all processes it started are gone.
pub(crate) fn run(
    action: &RunAction,
    snapshot: &Snapshot,
    runtime: &Runtime,
    sources: &mut Sources<'_>,
    output: &mut dyn FnMut(String),
) -> Result<Outcome, BuildError> {
    let root =
        Root::open(&snapshot.root()).map_err(BuildError::host("cannot open the root of a step"))?;
    let users =
        Users::read(&root).map_err(BuildError::host("cannot read the users of an image"))?;
    let user = match users.user(&action.user) {
        Ok(user) => user,
        Err(reason) => return Ok(refused(reason)),
    };
    let unmapped = sources.cache.superuser().unmapped(user.owner);
    if let Some(reason) = unmapped.map_err(BuildError::host("cannot see which owners there are"))? {
        return Ok(refused(reason));
    }
    match root.make_dirs(Path::new(&action.cwd), user.owner) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(refused(format!(
                "working directory `{}` is not a directory",
                action.cwd
            )));
        }
        Err(error) => {
            return Err(BuildError::host("cannot create the working directory")(
                error,
            ));
        }
    }
    let mut ready = match mounts::prepare(&action.mounts, sources, &snapshot.aside("secrets")) {
        Ok(ready) => ready,
        Err(Failure::Refused(reason)) => return Ok(refused(reason)),
        Err(Failure::Other(error)) => return Err(*error),
    };
    let failed = || BuildError::host::<io::Error>("cannot prepare a step");
    let aside = sources.cache.memory().map_err(failed())?;
    let bundle = &aside.path;
    let mut args = action.args.clone();
    let mut binds = network_files(bundle).map_err(failed())?;
    if let Some(script) = &action.script {
        let source = bundle.join("script");
        fs::write(&source, script).map_err(failed())?;
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        binds.push(Bind {
            source,
            target: SCRIPT.into(),
            readonly: true,
        });
        args = vec![SCRIPT.into()];
    }
    binds.append(&mut ready.binds);
    let mut env = action.env.clone();
    env.extend(action.proxies.clone());
    env.extend(ready.env.iter().cloned());
    env.entry("HOME".into())
        .or_insert_with(|| user.home.clone());

    let mut stubs = Stubs::default();
    let placed = place(&mut stubs, &root, &binds, &ready.tmpfs);
    let ended = placed.map_err(failed()).and_then(|()| {
        let spec = spec::spec(&Step {
            root: &snapshot.root(),
            mount: runtime.mount(),
            args: &args,
            env: &env,
            cwd: &action.cwd,
            user: &user,
            offline: action.offline,
            binds: &binds,
            tmpfs: &ready.tmpfs,
        });
        fs::write(bundle.join("config.json"), spec.to_string()).map_err(failed())?;
        execute(runtime, bundle, sources.cancel, output)
    });
    stubs
        .remove(&root)
        .map_err(BuildError::host("cannot clean up after a step"))?;
    ended
}

fn refused(reason: String) -> Outcome {
    Outcome::Failed {
        status: StepStatus::Refused(reason),
        tail: Vec::new(),
    }
}

/// Name resolution inside a step is the host's; its own name resolves too.
fn network_files(bundle: &Path) -> io::Result<Vec<Bind>> {
    let hosts = bundle.join("hosts");
    let text = format!(
        "127.0.0.1\tlocalhost {name}\n::1\tlocalhost {name}\n",
        name = spec::HOSTNAME
    );
    fs::write(&hosts, text)?;
    let resolv = bundle.join("resolv.conf");
    match fs::read("/etc/resolv.conf") {
        Ok(content) => fs::write(&resolv, content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(&resolv, "")?,
        Err(error) => return Err(error),
    }
    let bind = |source: PathBuf, target: &str| Bind {
        source,
        target: target.into(),
        readonly: true,
    };
    Ok(vec![
        bind(hosts, "/etc/hosts"),
        bind(resolv, "/etc/resolv.conf"),
    ])
}

fn place(stubs: &mut Stubs, root: &Root, binds: &[Bind], tmpfs: &[spec::Tmpfs]) -> io::Result<()> {
    for dir in ["/proc", "/dev", "/sys"] {
        stubs.directory(root, Path::new(dir))?;
    }
    for mount in tmpfs {
        stubs.directory(root, Path::new(&mount.target))?;
    }
    for bind in binds {
        let target = Path::new(&bind.target);
        // These are memory file systems by the time that the runtime mounts something in them.
        if target.starts_with("/dev") || target.starts_with("/proc") || target.starts_with("/sys") {
            continue;
        }
        match bind.source.is_dir() {
            true => stubs.directory(root, target)?,
            false => stubs.file(root, target)?,
        }
    }
    Ok(())
}

/// Starts the runtime and waits for it, killing everything when the build is cancelled.
fn execute(
    runtime: &Runtime,
    bundle: &Path,
    cancel: &CancellationToken,
    output: &mut dyn FnMut(String),
) -> Result<Outcome, BuildError> {
    let log = bundle.join("log");
    let failed = || BuildError::host::<io::Error>("cannot start a step");
    let (reader, writer) = io::pipe().map_err(failed())?;
    let mut command = runtime.command(bundle, &log);
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed())?)
        .stderr(writer);
    let mut tail: VecDeque<String> = VecDeque::new();
    let mut shown = 0usize;
    command.process_group(0);
    let (started, starting) = mpsc::sync_channel(1);
    let (status, read) = thread::scope(|scope| {
        // The runtime dies with the thread that starts it, so that one waits for it.
        let waiter = scope.spawn(move || {
            let child = runtime.hide_mounts().and_then(|()| command.spawn());
            // The command holds copies of the writing end, which would keep the pipe open.
            drop(command);
            let child = child?;
            let running = Arc::new(Mutex::new(Some(Pid::from_child(&child))));
            if started.send(running.clone()).is_err() {
                kill(&running);
            }
            wait(child, &running)
        });
        let Ok(running) = starting.recv() else {
            return (waiter.join(), Ok(()));
        };
        let killer = Handle::current().spawn({
            let (cancel, running) = (cancel.clone(), running.clone());
            async move {
                cancel.cancelled().await;
                kill(&running);
            }
        });
        let read = lines(reader, &mut |line| {
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.clone());
            let before = shown;
            shown = shown.saturating_add(line.len() + 1);
            if shown <= MAX_OUTPUT {
                output(line);
            } else if before <= MAX_OUTPUT {
                output("(the rest of the output is not shown)".into());
            }
        });
        if read.is_err() {
            kill(&running);
        }
        let status = waiter.join();
        killer.abort();
        (status, read)
    });
    let status = status
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .map_err(failed())?;
    read.map_err(BuildError::host("cannot read the output of a step"))?;
    if cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    if status.success() {
        return Ok(Outcome::Succeeded);
    }
    failure(status, tail.into(), &log)
}

/// The end of a step that did not succeed: its command failed, or the runtime could not start it.
fn failure(status: ExitStatus, mut tail: Vec<String>, log: &Path) -> Result<Outcome, BuildError> {
    if let Some(message) = runtime_error(log) {
        // Runtimes print their error too, some as they log it. It is told once, in words.
        tail.retain(|line| *line != message && error_of(line).as_ref() != Some(&message));
        let about_command = ["executable", "exec", "chdir", "`cwd`"]
            .iter()
            .any(|word| message.contains(word));
        if !about_command {
            let source = io::Error::other(message);
            return Err(BuildError::Host {
                action: "the container runtime failed".into(),
                source,
            });
        }
        return Ok(Outcome::Failed {
            status: StepStatus::Refused(message),
            tail,
        });
    }
    Ok(Outcome::Failed {
        status: step_status(status),
        tail,
    })
}

/// Waits for a child. Its number stays taken until it is reaped; from then on it must not be killed any more.
fn wait(mut child: Child, running: &Mutex<Option<Pid>>) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let exited = loop {
        match rustix::process::waitid(WaitId::Pid(pid), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other,
        }
    };
    *running.lock().expect("nobody panics with this lock") = None;
    let status = child.wait()?;
    exited?;
    Ok(status)
}

/// The runtime and shells report a command that was killed as 128 and the signal's number.
fn step_status(status: ExitStatus) -> StepStatus {
    const SIGNALS: std::ops::RangeInclusive<i32> = 129..=192;
    match (status.code(), status.signal()) {
        (Some(code), _) if SIGNALS.contains(&code) => StepStatus::Signal(code - 128),
        (Some(code), _) => StepStatus::Exit(code),
        (None, signal) => StepStatus::Signal(signal.unwrap_or(0)),
    }
}

/// Kills the runtime's process group. The first process of the step's namespace dies with it, and so does
/// everything in there.
fn kill(running: &Mutex<Option<Pid>>) {
    let running = running.lock().expect("nobody panics with this lock");
    if let Some(pid) = *running
        && let Err(error) = rustix::process::kill_process_group(pid, Signal::KILL)
    {
        tracing::warn!(%error, "cannot kill a step");
    }
}

/// The last error in the runtime's log. A command that fails leaves none.
fn runtime_error(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().rev().find_map(error_of)
}

/// The message of an error as the runtime logs it.
fn error_of(line: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        msg: String,
        level: String,
    }
    let line: Line = serde_json::from_str(line).ok()?;
    (line.level == "error").then_some(line.msg)
}

/// Reads lines until the end; bytes that are not text are replaced.
fn lines(mut reader: impl Read, line: &mut dyn FnMut(String)) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut chunk = [0; 8 << 10];
    let mut emit = |bytes: &[u8]| {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        // A progress display that writes over itself: what a terminal would show in the end.
        let bytes = bytes
            .rsplit(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        line(String::from_utf8_lossy(bytes).into_owned());
    };
    loop {
        let length = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = &chunk[..length];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            pending.extend_from_slice(&rest[..end]);
            emit(&pending);
            pending.clear();
            rest = &rest[end + 1..];
        }
        pending.extend_from_slice(rest);
        if pending.len() > MAX_LINE {
            emit(&pending);
            pending.clear();
        }
    }
    if !pending.is_empty() {
        emit(&pending);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_of_the_runtime_is_told_once_and_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let logged = |message: &str| {
            format!(r#"{{"msg":"{message}","level":"error","time":"2026-01-01T00:00:00Z"}}"#)
        };
        let failed = |message: &str| {
            fs::write(&log, logged(message)).unwrap();
            // What the step printed before, JSON as well, and the runtime's error in either form.
            let own = r#"{"msg":"mine","level":"error"}"#;
            let tail = vec![own.to_owned(), logged(message), message.to_owned()];
            failure(ExitStatus::from_raw(1 << 8), tail, &log)
        };
        let message = "executable file `apt-get` not found in $PATH";
        match failed(message).unwrap() {
            Outcome::Failed { status, tail } => {
                assert_eq!(status, StepStatus::Refused(message.to_owned()));
                assert_eq!(tail, [r#"{"msg":"mine","level":"error"}"#]);
            }
            Outcome::Succeeded => panic!("it failed"),
        }
        let error = failed("mount `proc`: permission denied").err().unwrap();
        assert_eq!(
            error.to_string(),
            "the container runtime failed: mount `proc`: permission denied"
        );
    }

    #[test]
    fn output_is_split_into_lines() {
        let mut found = Vec::new();
        lines(&b"one\r\n\ntw\xffo\n5%\r100%\nlast"[..], &mut |line| {
            found.push(line)
        })
        .unwrap();
        assert_eq!(found, ["one", "", "tw\u{fffd}o", "100%", "last"]);
        let mut lengths = Vec::new();
        lines(io::repeat(b'x').take(100_000), &mut |line| {
            lengths.push(line.len())
        })
        .unwrap();
        assert_eq!(lengths.iter().sum::<usize>(), 100_000);
        assert!(lengths.iter().all(|length| *length <= 2 * MAX_LINE));
    }
}
