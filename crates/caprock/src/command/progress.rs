//! Progress of a build, for people and for programs.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use builder::{BuildError, Event, Transfer};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli;
use crate::output;

/// A step that took less is not worth a line of its own.
const NOTEWORTHY: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(100);

/// Shows events on standard error as they come.
pub(super) struct Shown {
    style: Style,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Tty,
    Json,
}

#[derive(Default)]
struct State {
    /// What is drawn below the lines, on a terminal.
    drawn: Option<MultiProgress>,
    /// Steps that run now; with several, lines say whose they are.
    running: BTreeMap<usize, Running>,
    /// Blobs on their way.
    blobs: BTreeMap<String, ProgressBar>,
}

struct Running {
    title: String,
    since: Instant,
    cached: bool,
    bar: Option<ProgressBar>,
}

impl Shown {
    pub(super) fn new(style: cli::ProgressStyle) -> Self {
        let style = match style {
            cli::ProgressStyle::Plain => Style::Plain,
            cli::ProgressStyle::Tty => Style::Tty,
            cli::ProgressStyle::Json => Style::Json,
            cli::ProgressStyle::Auto if std::io::stderr().is_terminal() => Style::Tty,
            cli::ProgressStyle::Auto => Style::Plain,
        };
        let state = State {
            drawn: (style == Style::Tty).then(MultiProgress::new),
            ..State::default()
        };
        Shown {
            style,
            state: Mutex::new(state),
        }
    }

    pub(super) fn event(&self, event: Event) {
        if self.style == Style::Json {
            output::words(&format!("{}\n", as_json(&event)));
            return;
        }
        let mut state = self.lock();
        match event {
            Event::StepStarted { step, steps, text } => state.start(step, steps, &text),
            Event::Cached { step } => state.cached(step),
            Event::Output { step, line } => match state.running.len() {
                0 | 1 => state.say(&format!("    {line}")),
                _ => state.say(&format!("    [{step}] {line}")),
            },
            Event::StepDone { step } => state.done(step),
            Event::Note(text) => state.say(&format!("note: {text}")),
            Event::Bytes {
                transfer,
                blob,
                done,
                total,
            } => state.bytes(transfer, blob, done, total),
        }
    }

    /// Takes away what is drawn, and shows where in the Containerfile a step failed and what it wrote last.
    pub(super) fn failed(&self, error: &BuildError, file: &str, source: &str) {
        self.lock().clear();
        let BuildError::Step {
            step, line, tail, ..
        } = error
        else {
            return;
        };
        output::words(&match self.style {
            Style::Json => {
                let failed = json!({ "event": "failed", "step": step, "file": file, "line": line, "tail": tail });
                format!("{failed}\n")
            }
            Style::Plain | Style::Tty => failure(file, source, *line, tail),
        });
    }

    /// What is behind the lock is whole at any time.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn start(&mut self, step: usize, steps: usize, text: &str) {
        let title = format!("[{step}/{steps}] {text}");
        let bar = self.drawn.as_ref().map(|drawn| {
            let bar = drawn.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {wide_msg} {elapsed}"));
            bar.set_message(title.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        if bar.is_none() {
            self.say(&title);
        }
        let running = Running {
            title,
            since: Instant::now(),
            cached: false,
            bar,
        };
        self.running.insert(step, running);
    }

    fn cached(&mut self, step: usize) {
        if let Some(running) = self.running.get_mut(&step) {
            running.cached = true;
        }
        // On a terminal the step's own line will say so.
        if self.drawn.is_none() {
            self.say(&format!("[{step}] cached"));
        }
    }

    fn done(&mut self, step: usize) {
        let Some(running) = self.running.remove(&step) else {
            return;
        };
        let took = running.since.elapsed();
        match running.bar {
            Some(bar) => {
                bar.finish_and_clear();
                let how = match running.cached {
                    true => ", cached".to_owned(),
                    false if took < NOTEWORTHY => String::new(),
                    false => format!(", {:.1} s", took.as_secs_f64()),
                };
                self.say(&format!("{}{how}", running.title));
            }
            None if !running.cached && took >= NOTEWORTHY => {
                self.say(&format!("[{step}] done in {:.1} s", took.as_secs_f64()));
            }
            None => {}
        }
    }

    fn bytes(&mut self, transfer: Transfer, blob: String, done: u64, total: u64) {
        let Some(drawn) = &self.drawn else { return };
        if done >= total {
            if let Some(bar) = self.blobs.remove(&blob) {
                bar.finish_and_clear();
            }
            return;
        }
        // A digest's first digits tell blobs apart.
        let digits = blob.trim_start_matches("sha256:").chars().take(12);
        let short: String = digits.collect();
        let bar = self.blobs.entry(blob).or_insert_with(|| {
            let bar = drawn.add(ProgressBar::new(total));
            bar.set_style(style("  {msg} {bar:30} {bytes}/{total_bytes}"));
            bar.set_message(format!("{} {short}", verb(transfer)));
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    fn say(&self, text: &str) {
        // Without a terminal behind it, what draws would print nothing.
        match &self.drawn {
            Some(drawn) => drawn.suspend(|| output::words(&format!("{text}\n"))),
            None => output::words(&format!("{text}\n")),
        }
    }

    fn clear(&mut self) {
        let steps = std::mem::take(&mut self.running).into_values();
        let blobs = std::mem::take(&mut self.blobs).into_values();
        for bar in steps.filter_map(|running| running.bar).chain(blobs) {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The instruction as it is written in the file, then the last lines of its output.
fn failure(file: &str, source: &str, line: u32, tail: &[String]) -> String {
    let mut text = format!("{file}:{line}\n");
    let first = (line as usize).saturating_sub(1);
    for (number, source) in source.lines().enumerate().skip(first).take(SOURCE_LINES) {
        text += &format!("{:>5} | {source}\n", number + 1);
        if !source.trim_end().ends_with(['\\', '`']) {
            break;
        }
    }
    if !tail.is_empty() {
        text += "last lines of its output\n";
        for line in tail {
            text += &format!("    {line}\n");
        }
    }
    text
}

/// Enough of a long instruction to find it.
const SOURCE_LINES: usize = 12;

fn verb(transfer: Transfer) -> &'static str {
    match transfer {
        Transfer::Fetch => "fetching",
        Transfer::Push => "pushing",
    }
}

fn as_json(event: &Event) -> serde_json::Value {
    match event {
        Event::StepStarted { step, steps, text } => {
            json!({ "event": "started", "step": step, "steps": steps, "text": text })
        }
        Event::Cached { step } => json!({ "event": "cached", "step": step }),
        Event::Output { step, line } => json!({ "event": "output", "step": step, "line": line }),
        Event::StepDone { step } => json!({ "event": "done", "step": step }),
        Event::Note(text) => json!({ "event": "note", "text": text }),
        Event::Bytes {
            transfer,
            blob,
            done,
            total,
        } => json!({ "event": verb(*transfer), "blob": blob, "done": done, "total": total }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_instruction_and_its_last_words() {
        let source = "FROM a\nRUN one && \\\n    two\nRUN three\n";
        let tail = ["out".to_owned(), "err".to_owned()];
        assert_eq!(
            failure("Containerfile", source, 2, &tail),
            "Containerfile:2\n    2 | RUN one && \\\n    3 |     two\nlast lines of its output\n    out\n    err\n"
        );
        assert_eq!(failure("f", source, 9, &[]), "f:9\n");
    }
}
