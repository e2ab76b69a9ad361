//! SIGKILL between any two system calls of any kind of step: afterwards the next start brings the node to the old or the
//! new state, exactly, and nothing lies around.
//!
//! The step runs in a process of its own under `strace`, which kills it at the first call of a kind that changes
//! something, then at the second, until it gets through; then the same with the `systemctl` that it runs. The going on is
//! done here.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use model::ledger::Cause;
use oci::Digest;

use super::plain::{Plain, actions, copy, versions};
use super::tree::{assert_same, tree};
use crate::host::HostError;

/// After these something is different on the disk. What only writes to or dresses a file that is not in its place yet
/// is seen by the last call before the rename.
const CALLS: [&str; 6] = [
    "fchmod",
    "renameat",
    "unlinkat",
    "mkdirat",
    "symlinkat",
    "fchownat",
];
/// The same in `systemctl`.
const SYSTEMCTL_CALLS: [&str; 4] = ["symlinkat", "unlink", "unlinkat", "rename"];

/// A kind of step, from a node's state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Live, from one to two.
    Apply,
    /// Live, back from two to one.
    Remove,
    /// Live, to what fails and is undone.
    Undo,
    /// A new deployment with two.
    Deploy,
    /// The first boot of that.
    Boot,
}

const STEPS: [Step; 5] = [
    Step::Apply,
    Step::Remove,
    Step::Undo,
    Step::Deploy,
    Step::Boot,
];

impl Step {
    /// A node just before the step.
    fn before(self, dir: &Utf8Path) -> Plain {
        let node = Plain::new(dir);
        let host = node.host();
        let [one, two, _] = versions(&host);
        let go = |to| host.apply(&host.look().unwrap(), to, &actions()).unwrap();
        go(&one);
        match self {
            Step::Apply | Step::Undo | Step::Deploy => {}
            Step::Remove => go(&two),
            Step::Boot => {
                let sight = host.look().unwrap();
                host.deploy(&sight, &two, image()).unwrap();
                host.reboot(&host.look().unwrap(), &two.target(), Cause::NotAsked)
                    .unwrap();
                node.boot();
            }
        }
        node
    }

    /// Does it; also what remains of it.
    fn run(self, node: &Plain) -> Result<(), HostError> {
        let host = node.host();
        let [one, two, bad] = versions(&host);
        let sight = host.look()?;
        match self {
            Step::Apply => host.apply(&sight, &two, &actions()),
            Step::Remove => host.apply(&sight, &one, &actions()),
            Step::Undo => match host.apply(&sight, &bad, &actions()) {
                Err(HostError::Systemd(_)) => Ok(()),
                other => other,
            },
            Step::Deploy => host.deploy(&sight, &two, image()),
            Step::Boot => host.complete_boot(),
        }
    }

    /// What the next start does, going on to where it was going or, when that was withdrawn, back.
    fn go_on(self, node: &Plain, forward: bool) {
        let host = node.host();
        host.complete_boot().unwrap();
        let sight = host.look().unwrap();
        let [one, two, _] = versions(&host);
        match (self, forward) {
            (Step::Apply, false) => host.apply(&sight, &one, &actions()).unwrap(),
            (Step::Remove, false) => host.apply(&sight, &two, &actions()).unwrap(),
            (Step::Undo, false) => host.apply(&sight, &one, &actions()).unwrap(),
            (Step::Undo, true) if sight.failure.is_some() && sight.interrupted.is_none() => {}
            _ => self.run(node).unwrap(),
        }
    }

    fn is_reversible(self) -> bool {
        matches!(self, Step::Apply | Step::Remove | Step::Undo)
    }
}

fn image() -> Digest {
    Digest::of(b"layered")
}

/// Every root of a node, the one that boots next first.
fn roots(node: &Plain) -> Vec<BTreeMap<String, String>> {
    node.roots().iter().map(|root| tree(root)).collect()
}

/// The process that is killed.
#[test]
fn subject() {
    let (Ok(step), Ok(dir)) = (
        std::env::var("CAPROCK_TEST_STEP"),
        std::env::var("CAPROCK_TEST_DIR"),
    ) else {
        return;
    };
    let step = STEPS.into_iter().find(|known| format!("{known:?}") == step);
    step.unwrap().run(&Plain(dir.into())).unwrap();
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Agent,
    /// The `systemctl` that it runs, and it with that.
    Systemctl,
}

/// Where: at a call, the first, second … time.
#[derive(Debug, Clone, Copy)]
struct Kill {
    whom: Whom,
    call: &'static str,
    when: u32,
}

impl Kill {
    /// Runs the subject; whether it was killed.
    fn run(self, step: Step, dir: &Utf8Path, tools: &Utf8Path) -> bool {
        let subject = std::env::current_exe().unwrap();
        let subject = subject.to_str().unwrap();
        let Kill { whom, call, when } = self;
        let mut command = match whom {
            Whom::Agent => {
                let mut command = Command::new("strace");
                command.args([
                    "--seccomp-bpf",
                    "-f",
                    "-b",
                    "execve",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                ]);
                command.arg(format!("trace={call}")).arg("-e");
                command.arg(format!("inject={call}:signal=SIGKILL:when={when}"));
                command.arg(subject);
                command
            }
            Whom::Systemctl => {
                let mut command = Command::new(subject);
                let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
                command.env("PATH", path);
                command.env("KILL", format!("{call}:signal=SIGKILL:when={when}"));
                command
            }
        };
        let run = command
            .args(["--exact", "tests::syscalls::subject", "--test-threads=1"])
            .env("CAPROCK_TEST_STEP", format!("{step:?}"))
            .env("CAPROCK_TEST_DIR", dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        match (run.status.signal(), run.status.success()) {
            (Some(9), _) => true,
            (None, true) => false,
            _ => panic!(
                "{step:?} {self:?}: {}\n{}",
                String::from_utf8_lossy(&run.stdout),
                String::from_utf8_lossy(&run.stderr)
            ),
        }
    }
}

/// A `systemctl` that dies with whoever runs it.
fn tools(dir: &Utf8Path) -> Utf8PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let tools = dir.join("tools");
    let real = String::from_utf8(
        Command::new("which")
            .arg("systemctl")
            .output()
            .unwrap()
            .stdout,
    );
    let script = format!(
        "#!/bin/sh\nstrace -qq -o /dev/null -e trace=${{KILL%%:*}} -e inject=$KILL {} \"$@\"\n\
        status=$?\n[ $status -ne 137 ] || kill -KILL $PPID\nexit $status\n",
        real.unwrap().trim()
    );
    std::fs::create_dir(&tools).unwrap();
    std::fs::write(tools.join("systemctl"), script).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tools.join("systemctl"), mode).unwrap();
    tools
}

/// Kills one kind of step everywhere; returns how often.
fn kill_everywhere(step: Step) -> u32 {
    // Nothing of a killed process needs to reach a disk.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let tools = tools(dir);
    let template = step.before(&dir.join("template"));
    let before = roots(&template);
    copy(&template.0, &dir.join("calm"));
    let calm = Plain(dir.join("calm"));
    step.run(&calm).unwrap();
    let after = roots(&calm);

    let mut kills = 0;
    let own = CALLS.map(|call| (Whom::Agent, call));
    let with_systemctl = SYSTEMCTL_CALLS.map(|call| (Whom::Systemctl, call));
    for (whom, call) in own.into_iter().chain(with_systemctl) {
        for when in 1.. {
            let kill = Kill { whom, call, when };
            let node = Plain(dir.join("node"));
            copy(&template.0, &node.0);
            if !kill.run(step, &node.0, &tools) {
                assert_same(
                    &roots(&node)[0],
                    &after[0],
                    &format!("{step:?} {kill:?}: not killed"),
                );
                std::fs::remove_dir_all(&node.0).unwrap();
                break;
            }
            kills += 1;
            let said = format!("{step:?} {kill:?}");
            if step == Step::Deploy {
                let running = tree(&node.root());
                assert_same(&running, &before[0], &format!("{said}: the running root"));
            }
            let forward = when % 2 == 1 || !step.is_reversible();
            step.go_on(&node, forward);
            let expected = if forward { &after } else { &before };
            let found = roots(&node);
            assert_eq!(found.len(), expected.len(), "{said}");
            for (found, expected) in found.iter().zip(expected) {
                assert_same(found, expected, &said);
            }
            let all = tree(&node.0);
            let left: Vec<&String> = all
                .keys()
                .filter(|path| path.contains("/.caprock-"))
                .collect();
            assert!(left.is_empty(), "{said}: {left:?}");
            assert_eq!(node.host().state().journal().unwrap(), None, "{said}");
            std::fs::remove_dir_all(&node.0).unwrap();
        }
    }
    kills
}

#[test]
fn privileged_killed_between_any_two_system_calls() {
    if !super::privileged("strace") {
        return;
    }
    let began = std::time::Instant::now();
    let steps = std::thread::scope(|scope| {
        let threads = STEPS.map(|step| scope.spawn(move || (step, kill_everywhere(step))));
        threads.map(|thread| thread.join().unwrap())
    });
    eprintln!("{steps:?} in {:?}", began.elapsed());
    for (step, kills) in steps {
        assert!(kills > 5, "{step:?} was killed only {kills} times");
    }
}
