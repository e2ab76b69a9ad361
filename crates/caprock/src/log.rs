//! Logs, on stderr: for the operator of a long-running part. Commands for people say their result without them.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::output;

/// Starts logging. `CAPROCK_LOG` chooses more closely what `-v` chooses roughly.
pub(crate) fn start(verbose: u8) {
    let default = match verbose {
        0 => "warn,caprock=info,controllers=info,agent=info,builder=info,apiserver=info,oci=info",
        1 => {
            "info,caprock=debug,controllers=debug,agent=debug,builder=debug,apiserver=debug,oci=debug"
        }
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("CAPROCK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if stderr_is_journal() {
        lines.with_ansi(false).event_format(JournalLine).init();
    } else {
        lines.with_target(false).with_ansi(output::colour()).init();
    }
}

/// Whether stderr goes to the journal, as systemd.exec(5) says to find out: `JOURNAL_STREAM` names what it is.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// A line for the journal: its priority in the way of sd-daemon(3), and neither time nor level, which the journal has.
/// The journal's own protocol would keep fields out of the text, where `journalctl` does not show them.
struct JournalLine;

impl<S, N> FormatEvent<S, N> for JournalLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// syslog's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_the_journal_has_a_priority_and_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(JournalLine)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(unit = "autofs.service", "is inactive");
            tracing::info!("runs");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<4>is inactive unit=\"autofs.service\"\n<6>runs\n");
    }
}
