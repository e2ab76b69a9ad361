#![allow(clippy::unwrap_used)]
//! The script with the tools that it needs played by others, and what the agent makes of what it did.

use std::fs;
use std::process::Command;

use super::*;

const NEW: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.0";
const OLD: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.0";

struct Node {
    dir: tempfile::TempDir,
    state: State,
}

impl Node {
    /// A node on trial whose tools write down how they are called. `tools` are those besides `ostree` and `systemctl`.
    fn new(booted: &str, tools: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&Utf8Path::from_path(dir.path()).unwrap().join("state")).unwrap();
        state
            .set_trial(&Trial {
                limit: 3,
                ..Trial::new(NEW.into(), OLD.into(), std::time::Duration::from_secs(60))
            })
            .unwrap();
        let node = Node { dir, state };
        let mark = |id: &str| if id == booted { '*' } else { ' ' };
        let status = format!(
            "{} demo {NEW}\n    origin refspec: caprock/image/x\n{} demo {OLD} (rollback)\n",
            mark(NEW),
            mark(OLD)
        );
        fs::create_dir(node.path("bin")).unwrap();
        node.tool(
            "ostree",
            &format!(
                "[ \"$2\" != status ] || printf '{}'",
                status.replace('\n', "\\n")
            ),
        );
        node.tool("systemctl", "");
        for (name, text) in tools {
            node.tool(name, text);
        }
        node
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    fn tool(&self, name: &str, text: &str) {
        let path = match name {
            "rescue" => {
                fs::create_dir_all(self.path("state/rescue")).unwrap();
                self.path("state/rescue/caprock")
            }
            name => self.path("bin").join(name),
        };
        let log = self.path("log");
        let script = format!("#!/bin/sh\necho \"$(basename $0) $*\" >>{log}\n{text}\n");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the script and returns what it called, without questions.
    fn run(&self, verb: &str) -> Vec<String> {
        let log = self.path("log");
        fs::write(&log, "").unwrap();
        let ran = Command::new("/bin/sh")
            .arg(self.path("state/watch.sh"))
            .arg(verb)
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin")))
            .env("CAPROCK_STATE_DIR", self.path("state"))
            .env("CAPROCK_RUN_DIR", self.path("run"))
            .output()
            .unwrap();
        assert_ne!(ran.status.code(), Some(2), "{ran:?}");
        let calls = fs::read_to_string(log).unwrap();
        calls
            .lines()
            .filter(|call| *call != "ostree admin status")
            .map(str::to_owned)
            .collect()
    }

    fn boots(&self) -> u32 {
        self.state.trial().unwrap().unwrap().boots
    }
}

#[test]
fn boots_of_the_deployment_on_trial_are_counted_and_no_others() {
    let node = Node::new(NEW, &[]);
    assert_eq!(node.run("count"), [""; 0]);
    assert_eq!(node.run("count"), [""; 0]);
    assert_eq!(node.boots(), 2);
    let other = Node::new(OLD, &[]);
    assert_eq!(other.run("count"), [""; 0]);
    assert_eq!(other.boots(), 0);
    other.state.end_trial().unwrap();
    assert_eq!(other.run("count"), [""; 0]);
    assert_eq!(other.run("check"), [""; 0]);
}

#[test]
fn after_too_many_boots_the_program_that_made_the_deployment_takes_it_back() {
    let node = Node::new(NEW, &[("rescue", "exit 0"), ("rpm-ostree", "")]);
    node.state.say("unit `autofs.service` is starting").unwrap();
    for _ in 0..3 {
        assert_eq!(node.run("count"), [""; 0]);
    }
    assert_eq!(
        node.run("count"),
        [
            "caprock agent --take-back it was booted 3 times and never found well; the agent said: unit `autofs.service` is starting",
            "systemctl reboot",
        ]
    );
}

#[test]
fn a_boot_that_takes_too_long_is_left() {
    let node = Node::new(NEW, &[("rescue", "exit 0")]);
    node.run("count");
    assert_eq!(node.run("check"), [""; 0]);
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let now: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let deadline = node.state.trial().unwrap().unwrap().deadline;
    fs::write(
        node.path("run/trial-since"),
        now.saturating_sub(deadline + 5).to_string(),
    )
    .unwrap();
    if now < deadline + 5 {
        // A machine that has just started cannot have waited for long.
        return;
    }
    let calls = node.run("check");
    assert!(
        calls[0].contains("it was not found well within 660 seconds of its boot"),
        "{calls:?}"
    );
    assert_eq!(calls[1], "systemctl reboot");
}

#[test]
fn where_no_caprock_runs_the_hosts_own_tools_go_back() {
    let broken = ("rescue", "exit 127");
    let last = |node: &Node| {
        for _ in 0..3 {
            node.run("count");
        }
        node.run("count")
    };
    let node = Node::new(NEW, &[broken, ("rpm-ostree", ""), ("bootc", "")]);
    assert_eq!(
        last(&node)[1..],
        ["rpm-ostree rollback", "systemctl reboot"]
    );
    let node = Node::new(NEW, &[broken, ("rpm-ostree", "exit 1"), ("bootc", "")]);
    assert_eq!(
        last(&node)[1..],
        ["rpm-ostree rollback", "bootc rollback", "systemctl reboot"]
    );
    let node = Node::new(
        NEW,
        &[broken, ("rpm-ostree", "exit 1"), ("bootc", "exit 1")],
    );
    assert_eq!(
        last(&node)[1..],
        [
            "rpm-ostree rollback",
            "bootc rollback",
            "ostree admin set-default 1",
            "systemctl reboot"
        ]
    );
    let reason = fs::read_to_string(node.path("state/taken-back")).unwrap();
    assert_eq!(reason, "it was booted 3 times and never found well\n");
}

#[test]
fn without_a_way_back_the_trial_ends() {
    let node = Node::new(NEW, &[("rescue", "exit 1"), ("rpm-ostree", "")]);
    for _ in 0..3 {
        node.run("count");
    }
    assert_eq!(node.run("count").len(), 1, "no reboot");
    assert_eq!(node.state.trial().unwrap(), None);
}
