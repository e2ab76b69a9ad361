//! Runs the host's tools: the one place where the agent starts a process.
//!
//! Arguments are logged, output is bounded, and a failure carries the end of what the tool wrote to stderr.

use std::io::Read;
use std::process::{Command as Process, ExitStatus, Stdio};

use thiserror::Error;

/// How much of a tool's stdout is kept: far above what `ostree admin status` or `systemctl` print.
const STDOUT_LIMIT: u64 = 4 << 20;
/// How much of the end of stderr an error shows.
const STDERR_TAIL: usize = 2048;

/// A tool that could not be run, or that failed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The tool is missing or not executable.
    #[error("cannot run `{program}`; is it installed?")]
    Start {
        /// Name of the tool.
        program: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The tool ran and said no.
    #[error("`{line}` failed with {status}: {stderr}")]
    Failed {
        /// The command line.
        line: String,
        /// Exit status or signal.
        status: ExitStatus,
        /// End of what it wrote to stderr.
        stderr: String,
    },
}

impl CommandError {
    /// Whether the tool said that the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            CommandError::Start { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            CommandError::Failed { stderr, .. } => stderr.contains("No space left on device"),
        }
    }
}

/// One invocation of a host tool.
#[derive(Debug)]
pub(crate) struct Command {
    program: String,
    args: Vec<String>,
}

impl Command {
    pub(crate) fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs the tool to its end and returns its stdout.
    ///
    /// # Errors
    /// When it cannot be started or its exit status is not zero.
    pub(crate) fn run(&self) -> Result<String, CommandError> {
        let (status, stdout, stderr) = self.output()?;
        if status.success() {
            return Ok(stdout);
        }
        Err(CommandError::Failed {
            line: self.line(),
            status,
            stderr: tail(&stderr).to_owned(),
        })
    }

    /// Runs the tool to its end whatever its exit status: for tools that answer a question by it.
    pub(crate) fn output(&self) -> Result<(ExitStatus, String, String), CommandError> {
        let started = std::time::Instant::now();
        let fault = |source| CommandError::Start {
            program: self.program.clone(),
            source,
        };
        let mut child = Process::new(&self.program)
            .args(&self.args)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fault)?;
        let mut stderr_pipe = child.stderr.take().expect("stderr is piped");
        let stderr = std::thread::spawn(move || last_bytes(&mut stderr_pipe));
        let mut stdout = Vec::new();
        let mut stdout_pipe = child.stdout.take().expect("stdout is piped");
        let read = Read::by_ref(&mut stdout_pipe)
            .take(STDOUT_LIMIT)
            .read_to_end(&mut stdout)
            .and_then(|_| std::io::copy(&mut stdout_pipe, &mut std::io::sink()));
        let status = child.wait().map_err(fault)?;
        read.map_err(fault)?;
        let stderr = stderr
            .join()
            .expect("the stderr reader does not panic")
            .map_err(fault)?;
        tracing::debug!(
            command = %self.line(),
            %status,
            milliseconds = started.elapsed().as_millis(),
            "ran"
        );
        Ok((
            status,
            String::from_utf8_lossy(&stdout).into_owned(),
            String::from_utf8_lossy(&stderr).into_owned(),
        ))
    }

    fn line(&self) -> String {
        let mut line = self.program.clone();
        for arg in &self.args {
            line.push(' ');
            line.push_str(arg);
        }
        line
    }
}

/// Reads to the end and keeps the last bytes, so that a talkative tool costs no memory.
fn last_bytes(pipe: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = pipe.read(&mut chunk)?;
        if n == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&chunk[..n]);
        if kept.len() > 4 * STDERR_TAIL {
            kept.drain(..kept.len() - STDERR_TAIL);
        }
    }
}

fn tail(text: &str) -> &str {
    let text = text.trim();
    let mut from = text.len().saturating_sub(STDERR_TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stdout_is_returned() {
        let said = Command::new("sh").args(["-c", "echo yes"]).run().unwrap();
        assert_eq!(said, "yes\n");
    }

    #[test]
    fn a_failure_shows_the_command_and_the_end_of_stderr() {
        let error = Command::new("sh")
            .args(["-c", "yes no | head -5000 >&2; echo at last >&2; exit 3"])
            .run()
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("`sh -c "), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("at last"), "{error}");
        assert!(error.len() < 3 * STDERR_TAIL, "{}", error.len());
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = Command::new("no-such-tool").run().unwrap_err().to_string();
        assert_eq!(error, "cannot run `no-such-tool`; is it installed?");
    }
}
