//! systemd: unit states, jobs and reboot over D-Bus; by `systemctl`, which has a way of its own, what must work before
//! the bus is up.

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::runtime::Handle;
use zbus::OwnedObjectPath;

use crate::command::{Command, CommandError};
use model::deadline::JOB;

/// What a soft reboot is to systemd, from version 254.
pub(crate) const SOFT_REBOOT: &str = "soft-reboot.target";

/// How much of the end of what a command says is kept.
const SAID_BYTES: usize = 300;
/// Lines of a failed unit's journal that a reason shows.
const JOURNAL_LINES: &str = "5";

/// What systemd could not do.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// `systemctl` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// No connection, or the call was refused.
    #[error("systemd cannot {action}")]
    Call {
        /// What was asked.
        action: String,
        /// What D-Bus or systemd said.
        #[source]
        source: Box<zbus::Error>,
    },
    /// A job ended otherwise than well.
    #[error(
        "systemd cannot {action}: the job ended as `{result}`{said}; see `systemctl status {unit}` on the node"
    )]
    Job {
        /// What was asked.
        action: String,
        /// The unit.
        unit: String,
        /// systemd's word: `failed`, `timeout`, `dependency`, ….
        result: String,
        /// The end of the unit's journal.
        said: String,
    },
    /// A job did not end.
    #[error("systemd did not {action} within {} seconds", JOB.as_secs())]
    Deadline {
        /// What was asked.
        action: String,
    },
}

/// Something done to one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Job {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Reload it if it runs, or restart it when it cannot reload.
    Reload,
    /// Restart it if it runs.
    Restart,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Job::Start => "start",
            Job::Stop => "stop",
            Job::Reload => "reload",
            Job::Restart => "restart",
        })
    }
}

/// What systemd knows of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UnitState {
    /// Its own name, whichever alias it was asked for by.
    pub id: String,
    /// `loaded`, `not-found`, `masked`, ….
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, ….
    pub active: String,
    /// The same in the words of the unit's type: `running`, `exited`, `waiting`, ….
    pub sub: String,
    /// Whether its conditions were met when it was last to start.
    pub condition_met: bool,
    /// When it was last to start and its conditions were looked at, in microseconds of the system's clock; 0 for never.
    pub condition_checked: u64,
    /// `success`, or why a service failed; empty for other units.
    pub result: String,
    /// `oneshot`, `simple`, …; empty for other units.
    pub service_type: String,
    /// Whether a service counts as active when its process has ended.
    pub remains_after_exit: bool,
    /// Whether a running unit wants or requires it, as the targets of this boot do.
    pub asked_for: bool,
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its exit status; none when it did not end in time.
    pub status: Option<i32>,
    /// The end of what it said, in one line.
    pub said: String,
}

/// What the agent needs of systemd. Calls block.
pub(crate) trait Systemd: Send + Sync + fmt::Debug {
    /// Reads all units again.
    ///
    /// # Errors
    /// When systemd refuses.
    fn daemon_reload(&self) -> Result<(), SystemdError>;

    /// Does something to a unit and waits for the end of it.
    ///
    /// # Errors
    /// When the job fails or does not end.
    fn run(&self, job: Job, unit: &str) -> Result<(), SystemdError>;

    /// State of a unit.
    ///
    /// # Errors
    /// When systemd refuses.
    fn unit(&self, name: &str) -> Result<UnitState, SystemdError>;

    /// Starts everything that boot starts and that is not running, without waiting.
    ///
    /// # Errors
    /// When systemd refuses.
    fn start_missing(&self) -> Result<(), SystemdError>;

    /// Runs a command as root, without the agent's own confinement, and ends it with all that it started when it takes
    /// too long.
    ///
    /// # Errors
    /// When it cannot be started.
    fn command(&self, argv: &[String], timeout: Duration) -> Result<Ended, SystemdError>;

    /// Names this start of everything but the kernel: another name after each reboot and soft reboot.
    ///
    /// # Errors
    /// When systemd does not answer.
    fn started(&self) -> Result<String, SystemdError>;

    /// Starts everything but the kernel anew, in good order, without waiting.
    ///
    /// # Errors
    /// When systemd refuses.
    fn soft_reboot(&self) -> Result<(), SystemdError>;

    /// Reboots in good order, without waiting.
    ///
    /// # Errors
    /// When systemd refuses.
    fn reboot(&self) -> Result<(), SystemdError>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property)]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn condition_result(&self) -> zbus::Result<bool>;
    #[zbus(property)]
    fn condition_timestamp(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn wanted_by(&self) -> zbus::Result<Vec<String>>;
    #[zbus(property)]
    fn required_by(&self) -> zbus::Result<Vec<String>>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property, name = "Type")]
    fn type_(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn remain_after_exit(&self) -> zbus::Result<bool>;
}

async fn unit_proxy(
    connection: &zbus::Connection,
    path: OwnedObjectPath,
) -> zbus::Result<UnitProxy<'_>> {
    let builder = UnitProxy::builder(connection).path(path);
    builder
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
}

/// The running systemd.
#[derive(Debug)]
pub(crate) struct Bus {
    runtime: Handle,
}

impl Bus {
    /// systemd of this host; connects when it is asked something.
    #[must_use]
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime }
    }

    fn ask<T>(
        &self,
        action: &str,
        question: impl AsyncFnOnce(zbus::Connection) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        self.runtime
            .block_on(async { question(zbus::Connection::system().await?).await })
            .map_err(|source| SystemdError::Call {
                action: action.to_owned(),
                source: Box::new(source),
            })
    }

    fn leave_for(&self, action: &str, target: &str) -> Result<(), SystemdError> {
        self.ask(action, async |connection| {
            let manager = ManagerProxy::new(&connection).await?;
            let job = manager.start_unit(target, "replace-irreversibly");
            job.await.map(drop)
        })
    }

    async fn job(job: Job, unit: &str) -> zbus::Result<String> {
        let manager = ManagerProxy::new(&zbus::Connection::system().await?).await?;
        manager.subscribe().await?;
        let mut ended = manager.receive_job_removed().await?;
        let path = match job {
            Job::Start => manager.start_unit(unit, "replace").await?,
            Job::Stop => manager.stop_unit(unit, "replace").await?,
            Job::Restart => manager.try_restart_unit(unit, "replace").await?,
            Job::Reload => manager.reload_or_try_restart_unit(unit, "replace").await?,
        };
        while let Some(signal) = ended.next().await {
            let signal = signal.args()?;
            if signal.job == path {
                return Ok(signal.result);
            }
        }
        Err(zbus::Error::Failure(
            "the connection ended before the job".to_owned(),
        ))
    }
}

impl Systemd for Bus {
    fn daemon_reload(&self) -> Result<(), SystemdError> {
        Ok(Command::new("systemctl")
            .arg("daemon-reload")
            .run()
            .map(drop)?)
    }

    fn run(&self, job: Job, unit: &str) -> Result<(), SystemdError> {
        let action = format!("{job} `{unit}`");
        let waited = self
            .runtime
            .block_on(tokio::time::timeout(JOB, Self::job(job, unit)));
        match waited {
            Err(_) => Err(SystemdError::Deadline { action }),
            Ok(Err(source)) => Err(SystemdError::Call {
                action,
                source: Box::new(source),
            }),
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(SystemdError::Job {
                action,
                unit: unit.to_owned(),
                result,
                said: last_words(unit),
            }),
        }
    }

    fn unit(&self, name: &str) -> Result<UnitState, SystemdError> {
        self.ask(&format!("tell about `{name}`"), async |connection| {
            let manager = ManagerProxy::new(&connection).await?;
            let path = manager.load_unit(name).await?;
            let unit = unit_proxy(&connection, path.clone()).await?;
            let mut state = UnitState {
                id: unit.id().await?,
                load: unit.load_state().await?,
                active: unit.active_state().await?,
                sub: unit.sub_state().await?,
                condition_met: unit.condition_result().await?,
                condition_checked: unit.condition_timestamp().await?,
                ..UnitState::default()
            };
            for asking in unit
                .wanted_by()
                .await?
                .into_iter()
                .chain(unit.required_by().await?)
            {
                let asking = unit_proxy(&connection, manager.load_unit(&asking).await?).await?;
                state.asked_for |= asking.active_state().await? == "active";
            }
            if name.ends_with(".service") {
                let service = ServiceProxy::builder(&connection)
                    .path(path)
                    .cache_properties(zbus::proxy::CacheProperties::No)
                    .build()
                    .await?;
                state.result = service.result().await?;
                state.service_type = service.type_().await?;
                state.remains_after_exit = service.remain_after_exit().await?;
            }
            Ok(state)
        })
    }

    fn start_missing(&self) -> Result<(), SystemdError> {
        let command = Command::new("systemctl").args(["--no-block", "start", "default.target"]);
        Ok(command.run().map(drop)?)
    }

    fn command(&self, argv: &[String], timeout: Duration) -> Result<Ended, SystemdError> {
        let started = std::time::Instant::now();
        let (status, stdout, stderr) = Command::new("systemd-run")
            .args(["--quiet", "--wait", "--pipe", "--collect"])
            .args(["--service-type=exec", "--property=TimeoutStopSec=2"])
            .arg(format!("--property=RuntimeMaxSec={}", timeout.as_secs()))
            .arg("--")
            .args(argv)
            .output()?;
        let said = match stderr.trim() {
            "" => stdout.trim(),
            stderr => stderr,
        };
        let from = said.ceil_char_boundary(said.len().saturating_sub(SAID_BYTES));
        Ok(Ended {
            status: status.code().filter(|_| started.elapsed() < timeout),
            said: said[from..].replace('\n', "; "),
        })
    }

    fn started(&self) -> Result<String, SystemdError> {
        // A target that every start reaches once, and early.
        let command = Command::new("systemctl").args([
            "show",
            "--property=InvocationID",
            "--value",
            "local-fs.target",
        ]);
        Ok(command.run()?.trim().to_owned())
    }

    fn soft_reboot(&self) -> Result<(), SystemdError> {
        self.leave_for("soft-reboot", SOFT_REBOOT)
    }

    fn reboot(&self) -> Result<(), SystemdError> {
        self.leave_for("reboot", "reboot.target")
    }
}

/// The end of a unit's journal; where the journal cannot be read the reason stands alone.
pub(crate) fn last_words(unit: &str) -> String {
    let command = Command::new("journalctl").args([
        "--no-pager",
        "--output=cat",
        "--lines",
        JOURNAL_LINES,
        "--unit",
        unit,
    ]);
    match command.run() {
        Ok(lines) if !lines.trim().is_empty() => format!(": {}", lines.trim().replace('\n', "; ")),
        Ok(_) => String::new(),
        Err(error) => {
            tracing::debug!(%error, unit, "no journal");
            String::new()
        }
    }
}
