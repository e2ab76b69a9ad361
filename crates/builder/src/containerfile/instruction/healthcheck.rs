//! `HEALTHCHECK`, whose flags are durations.

use super::super::flags::{Flags, clip};
use super::super::{Healthcheck, Kind};
use super::Parser;

impl Parser<'_> {
    pub(super) fn healthcheck(&mut self, flags: &mut Flags, args: usize) -> Option<Kind> {
        let mut duration = |name: &str| {
            let word = flags.one(name, &mut self.problems)?;
            let parsed = duration(&word.raw);
            if parsed.is_none() {
                let message = format!(
                    "`--{name}`: expected a duration such as `30s`, found `{}`",
                    clip(&word.raw)
                );
                self.wrong(&word, message);
            }
            parsed
        };
        let interval = duration("interval");
        let timeout = duration("timeout");
        let start_period = duration("start-period");
        let start_interval = duration("start-interval");
        let retries =
            flags
                .one("retries", &mut self.problems)
                .and_then(|word| match word.raw.parse() {
                    Ok(retries) => Some(retries),
                    Err(_) => {
                        let message = format!(
                            "`--retries`: expected a number, found `{}`",
                            clip(&word.raw)
                        );
                        self.wrong(&word, message);
                        None
                    }
                });
        let text = &self.line.text[args..];
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        let command = match keyword.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => None,
            "CMD" if !rest.is_empty() => Some(self.command(self.line.text.len() - rest.len())),
            _ => {
                self.problem(args, "`HEALTHCHECK`: expected `CMD COMMAND` or `NONE`");
                return None;
            }
        };
        let check = Healthcheck {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        };
        Some(Kind::Healthcheck(check))
    }
}

/// A duration such as `1m30s` or `500ms` in nanoseconds.
fn duration(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |offset| digits + offset);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}
