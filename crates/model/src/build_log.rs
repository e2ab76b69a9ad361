//! A build's log as it is kept in a ConfigMap, where everybody who may read the API can follow it.
//!
//! The log is cut into numbered segments, one key each, so that an append rewrites one segment only. When there are
//! more than fit, the oldest go: the end of a log is what people look for.

use std::collections::{BTreeMap, VecDeque};

/// Longest segment in bytes; small, because it is sent again with each append.
const MAX_SEGMENT: usize = 32 * 1024;
/// Most segments. With keys and metadata this stays below the 1 MiB that a ConfigMap may have.
const MAX_SEGMENTS: usize = 24;
/// Longest line; the rest of a longer one is cut off.
const MAX_LINE: usize = 4096;

/// Name of the ConfigMap with the log of a build.
pub fn name(build: &str) -> String {
    format!("log-{build}")
}

/// A log being written.
#[derive(Debug, Default)]
pub struct Log {
    segments: VecDeque<Segment>,
    next: u32,
    dropped: Vec<u32>,
}

#[derive(Debug)]
struct Segment {
    number: u32,
    text: String,
    changed: bool,
}

impl Log {
    /// Appends a line. Control characters but tabs are left out, so that a log cannot play with a terminal.
    pub fn push(&mut self, line: &str) {
        let clean = line.chars().filter(|c| !c.is_control() || *c == '\t');
        let mut text = String::new();
        for c in clean {
            if text.len() + c.len_utf8() > MAX_LINE {
                break;
            }
            text.push(c);
        }
        text.push('\n');
        let fits = |segment: &Segment| segment.text.len() + text.len() <= MAX_SEGMENT;
        match self.segments.back_mut().filter(|segment| fits(segment)) {
            Some(segment) => {
                segment.text.push_str(&text);
                segment.changed = true;
            }
            None => self.start(text),
        }
    }

    fn start(&mut self, text: String) {
        self.segments.push_back(Segment {
            number: self.next,
            text,
            changed: true,
        });
        self.next += 1;
        if self.segments.len() > MAX_SEGMENTS
            && let Some(oldest) = self.segments.pop_front()
        {
            self.dropped.push(oldest.number);
        }
    }

    /// What changed since the last call, as a merge patch of the ConfigMap's `data`: `None` removes a key.
    pub fn take_changes(&mut self) -> BTreeMap<String, Option<String>> {
        let dropped = std::mem::take(&mut self.dropped);
        let mut changes: BTreeMap<_, _> = dropped
            .into_iter()
            .map(|number| (key(number), None))
            .collect();
        for segment in self.segments.iter_mut().filter(|segment| segment.changed) {
            segment.changed = false;
            changes.insert(key(segment.number), Some(segment.text.clone()));
        }
        changes
    }
}

fn key(number: u32) -> String {
    format!("{number:08}")
}

/// How far somebody has read a log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    segment: u32,
    offset: usize,
}

impl Position {
    /// What is new in a ConfigMap's `data`. What was dropped before it was read is passed over. A log that starts anew
    /// (another attempt of the same build) is read from its beginning.
    pub fn advance(&mut self, data: Option<&BTreeMap<String, String>>) -> String {
        let segments: BTreeMap<u32, &str> = data
            .into_iter()
            .flatten()
            .filter_map(|(key, text)| Some((key.parse().ok()?, text.as_str())))
            .collect();
        let restarted = match segments.last_key_value() {
            None => return String::new(),
            Some((last, text)) => {
                *last < self.segment || (*last == self.segment && text.len() < self.offset)
            }
        };
        if restarted {
            *self = Position::default();
        }
        let mut new = String::new();
        for (number, text) in segments.range(self.segment..) {
            let read = if *number == self.segment {
                self.offset
            } else {
                0
            };
            // An offset that is not at a character is none of ours: the log was replaced.
            new.push_str(text.get(read..).unwrap_or(text));
            *self = Position {
                segment: *number,
                offset: text.len(),
            };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(data: &mut BTreeMap<String, String>, log: &mut Log) {
        for (key, value) in log.take_changes() {
            match value {
                Some(text) => data.insert(key, text),
                None => data.remove(&key),
            };
        }
    }

    #[test]
    fn a_reader_sees_each_line_once() {
        let (mut log, mut data, mut position) =
            (Log::default(), BTreeMap::new(), Position::default());
        let mut seen = String::new();
        let mut written = String::new();
        for number in 0..5000 {
            let line = format!("line {number}");
            log.push(&line);
            written.push_str(&line);
            written.push('\n');
            if number % 7 == 0 {
                apply(&mut data, &mut log);
                seen.push_str(&position.advance(Some(&data)));
            }
        }
        apply(&mut data, &mut log);
        seen.push_str(&position.advance(Some(&data)));
        assert_eq!(seen, written);
        assert_eq!(position.advance(Some(&data)), "");
    }

    #[test]
    fn an_append_rewrites_one_segment() {
        let mut log = Log::default();
        for _ in 0..2000 {
            log.push("a line of a build that prints a lot");
        }
        log.take_changes();
        log.push("one more");
        assert_eq!(log.take_changes().len(), 1);
        assert!(log.take_changes().is_empty());
    }

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let (mut log, mut data) = (Log::default(), BTreeMap::new());
        for number in 0..20_000 {
            log.push(&format!("{number:0>100}"));
            apply(&mut data, &mut log);
        }
        let size: usize = data.values().map(String::len).sum();
        assert!(size <= MAX_SEGMENT * MAX_SEGMENTS);
        assert!(
            Position::default()
                .advance(Some(&data))
                .ends_with("19999\n")
        );
    }

    #[test]
    fn a_second_attempt_is_read_from_its_beginning() {
        let mut position = Position::default();
        let data = |text: &str| BTreeMap::from([(key(0), text.to_owned())]);
        assert_eq!(
            position.advance(Some(&data("first\nattempt\n"))),
            "first\nattempt\n"
        );
        assert_eq!(position.advance(Some(&data("second\n"))), "second\n");
    }

    #[test]
    fn a_line_cannot_play_with_the_terminal() {
        let mut log = Log::default();
        log.push("\u{1b}[2Jred\u{7}\tgreen\r");
        assert_eq!(
            log.take_changes()[&key(0)].as_deref(),
            Some("[2Jred\tgreen\n")
        );
        log.push(&"é".repeat(MAX_LINE));
        assert!(
            log.take_changes()[&key(0)]
                .as_deref()
                .is_some_and(|text| text.len() < MAX_LINE + 30)
        );
    }
}
