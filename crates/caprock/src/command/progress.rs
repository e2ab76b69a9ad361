//! Progress of a build, for people and for programs.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use builder::{Event, Transfer};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli;
use crate::output;

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
    bar: Option<ProgressBar>,
    /// Steps that run now; with several, lines say whose they are.
    running: BTreeSet<usize>,
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
        Shown {
            style,
            state: Mutex::default(),
        }
    }

    pub(super) fn event(&self, event: Event) {
        if self.style == Style::Json {
            output::words(&format!("{}\n", as_json(&event)));
            return;
        }
        let mut state = self.lock();
        match event {
            Event::StepStarted { step, steps, text } => {
                state.running.insert(step);
                say(&state, &format!("[{step}/{steps}] {text}"));
            }
            Event::Cached { step } => say(&state, &format!("[{step}] cached")),
            Event::Output { step, line } => match state.running.len() {
                0 | 1 => say(&state, &format!("    {line}")),
                _ => say(&state, &format!("    [{step}] {line}")),
            },
            Event::StepDone { step } => drop(state.running.remove(&step)),
            Event::Note(text) => say(&state, &format!("note: {text}")),
            Event::Bytes {
                transfer,
                blob,
                done,
                total,
            } => self.bytes(&mut state, transfer, &blob, done, total),
        }
    }

    /// What is behind the lock is whole at any time.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, state: &mut State, transfer: Transfer, blob: &str, done: u64, total: u64) {
        if self.style != Style::Tty {
            return;
        }
        let shown = state.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}");
            ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        // A digest's first digits tell blobs apart.
        let short: String = blob
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        shown.set_message(format!("{} {short}", verb(transfer)));
        shown.set_length(total);
        shown.set_position(done);
        if done >= total {
            shown.finish_and_clear();
            state.bar = None;
        }
    }
}

fn say(state: &State, text: &str) {
    match &state.bar {
        Some(bar) => bar.println(text),
        None => output::words(&format!("{text}\n")),
    }
}

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
