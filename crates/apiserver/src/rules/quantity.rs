//! Quantities such as `500m`, `2Gi` and `1e3`, exactly: in units of a billionth, the smallest that Kubernetes has.

use std::cmp::Ordering;

/// A quantity; equal amounts are equal however they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

const BILLION: i128 = 1_000_000_000;

impl Quantity {
    /// `None`: not a quantity, or beyond 2^63 - 1 of the suffix's units, as in Kubernetes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') || number.len() > 40 {
            return None;
        }
        let (up, down) = factor(suffix)?;
        let digits: i128 = format!("{whole}{part}").parse().ok()?;
        let scaled = digits.checked_mul(BILLION)?.checked_mul(up)?;
        let divisor = 10_i128
            .checked_pow(u32::try_from(part.len()).ok()?)?
            .checked_mul(down)?;
        // What is smaller than a billionth is rounded up, away from zero.
        let amount = scaled / divisor + i128::from(scaled % divisor != 0);
        (amount / BILLION <= i128::from(i64::MAX)).then_some(Self(match negative {
            true => -amount,
            false => amount,
        }))
    }

    pub(super) fn of(number: i64) -> Self {
        Self(i128::from(number) * BILLION)
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub(super) fn sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// -1, 0 or 1.
    pub(super) fn sign(self) -> i64 {
        match self.0.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// `None`: not a whole number, or too large.
    pub(super) fn integer(self) -> Option<i64> {
        (self.0 % BILLION == 0)
            .then(|| i64::try_from(self.0 / BILLION).ok())
            .flatten()
    }

    pub(super) fn float(self) -> f64 {
        // Approximate is what is asked for.
        self.0 as f64 / BILLION as f64
    }
}

/// What a suffix multiplies with, and divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E'])
        && !exponent.is_empty()
    {
        let exponent: i32 = exponent.parse().ok()?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
        return Some(if exponent < 0 { (1, power) } else { (power, 1) });
    }
    let thousands = |n: u32| 1000_i128.pow(n);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, thousands(3)),
        "u" => (1, thousands(2)),
        "m" => (1, thousands(1)),
        "k" => (thousands(1), 1),
        "M" => (thousands(2), 1),
        "G" => (thousands(3), 1),
        "T" => (thousands(4), 1),
        "P" => (thousands(5), 1),
        "E" => (thousands(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts() {
        for (text, expected) in [
            ("1", Some(1.0)),
            ("-1.5", Some(-1.5)),
            ("+500m", Some(0.5)),
            ("2Ki", Some(2048.0)),
            ("1e3", Some(1000.0)),
            ("1E", Some(1e18)),
            ("1E-2", Some(0.01)),
            ("0.5n", Some(1e-9)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("1K", None),
            ("1 Gi", None),
            ("100E", None),
            ("1e99", None),
        ] {
            assert_eq!(
                Quantity::parse(text).map(Quantity::float),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[-+]?[0-9.]{0,50}[a-zA-Z]{0,3}[-0-9]{0,12}") {
            Quantity::parse(&text);
        }

        #[test]
        fn whole_numbers_stay(number in any::<i64>()) {
            prop_assume!(number > i64::MIN);
            let quantity = Quantity::parse(&number.to_string()).unwrap();
            prop_assert_eq!(quantity.integer(), Some(number));
            prop_assert_eq!(quantity, Quantity::of(number));
        }
    }
}
