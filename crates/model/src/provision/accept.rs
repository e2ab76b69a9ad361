//! Which version of the Ignition specification a client gets, from its `Accept` header.

use std::fmt;

use thiserror::Error;

/// Media type of Ignition configs.
pub const MEDIA_TYPE: &str = "application/vnd.coreos.ignition+json";
/// Media ranges of a header that are looked at; real clients send two.
const MAX_RANGES: usize = 32;

/// A version of the specification that configs can be served in. The patch level is always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecVersion {
    major: u32,
    minor: u32,
}

impl SpecVersion {
    /// The newest one.
    pub const NEWEST: SpecVersion = SpecVersion { major: 3, minor: 5 };
    /// What a client gets that names none: those of specification 2 did not say.
    pub const UNNAMED: SpecVersion = SpecVersion { major: 2, minor: 2 };

    /// Whether it is of the old specification, where every path says that it is on the root file system.
    pub fn is_old(self) -> bool {
        self.major == 2
    }

    /// Whether setuid, setgid and sticky bits of a mode mean something in it.
    pub fn has_special_modes(self) -> bool {
        self >= SpecVersion { major: 3, minor: 4 }
    }

    /// The version that serves a client which can read `major.minor`.
    fn serving(major: u32, minor: u32) -> Option<SpecVersion> {
        match (major, minor) {
            (2, 2..) => Some(SpecVersion::UNNAMED),
            // A newer minor version reads every older one.
            (3, _) => Some(SpecVersion { major, minor }.min(SpecVersion::NEWEST)),
            _ => None,
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

/// No version that the client asks for can be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no Ignition version of `{asked}` can be served; expected 2.2, or 3.0 to 3.5")]
pub struct Unsupported {
    /// What it asked for.
    pub asked: String,
}

/// The version for a client's `Accept` header: the first that can be served, the highest weight first. A header that
/// asks for no Ignition version gets [`SpecVersion::UNNAMED`].
///
/// # Errors
/// When the header asks for Ignition versions and none of them can be served.
pub fn negotiate(accept: Option<&str>) -> Result<SpecVersion, Unsupported> {
    let mut asked: Vec<(f32, &str)> = accept
        .unwrap_or_default()
        .split(',')
        .take(MAX_RANGES)
        .filter_map(range)
        .collect();
    if asked.is_empty() {
        return Ok(SpecVersion::UNNAMED);
    }
    // Stable: of equal weights the first counts.
    asked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    asked
        .iter()
        .find_map(|(_, version)| {
            let (major, minor) = parse(version)?;
            SpecVersion::serving(major, minor)
        })
        .ok_or_else(|| Unsupported {
            asked: asked
                .iter()
                .map(|(_, version)| version.chars().take(32).collect::<String>())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Weight and version of a media range, when it is Ignition's and names a version. A weight of 0 refuses it.
fn range(text: &str) -> Option<(f32, &str)> {
    let mut parts = text.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(MEDIA_TYPE) {
        return None;
    }
    let (mut version, mut weight) = (None, 1.0);
    for part in parts {
        let (key, value) = part.split_once('=')?;
        match key.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value.trim().trim_matches('"')),
            "q" => weight = value.trim().parse().ok()?,
            _ => {}
        }
    }
    (weight > 0.0 && weight <= 1.0).then_some((weight, version?))
}

/// Major and minor number of `x.y.z`, where anything may follow a hyphen or plus sign.
fn parse(version: &str) -> Option<(u32, u32)> {
    let release = version.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| {
        number
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| number.parse::<u32>().ok())
            .flatten()
    });
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some((major, minor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn asked(accept: &str) -> Result<String, String> {
        negotiate(Some(accept))
            .map(|version| version.to_string())
            .map_err(|unsupported| unsupported.asked)
    }

    fn ignition(version: &str) -> String {
        format!("{MEDIA_TYPE}; version={version}")
    }

    #[test]
    fn each_version_is_served_as_it_is_and_newer_ones_as_the_newest() {
        for minor in 0..=5 {
            let version = format!("3.{minor}.0");
            assert_eq!(asked(&ignition(&version)), Ok(version.clone()));
        }
        for newer in ["3.6.0", "3.6.0-experimental", "3.99.7"] {
            assert_eq!(asked(&ignition(newer)), Ok("3.5.0".to_owned()), "{newer}");
        }
        for old in ["2.2.0", "2.3.0", "2.4.0"] {
            assert_eq!(asked(&ignition(old)), Ok("2.2.0".to_owned()), "{old}");
        }
    }

    #[test]
    fn who_names_no_version_gets_the_oldest() {
        assert_eq!(negotiate(None), Ok(SpecVersion::UNNAMED));
        for header in ["", "*/*", "application/json", MEDIA_TYPE, ",,;;"] {
            assert_eq!(asked(header), Ok("2.2.0".to_owned()), "{header}");
        }
    }

    #[test]
    fn the_highest_weight_that_can_be_served_wins() {
        let real = format!("{MEDIA_TYPE};version=3.4.0, */*;q=0.1");
        assert_eq!(asked(&real), Ok("3.4.0".to_owned()));
        let both = format!("{MEDIA_TYPE};version=3.2.0;q=0.5, {MEDIA_TYPE};version=3.3.0;q=0.9");
        assert_eq!(asked(&both), Ok("3.3.0".to_owned()));
        let unknown_first =
            format!("{MEDIA_TYPE};version=4.0.0;q=1, {MEDIA_TYPE};version=3.2.0;q=0.2");
        assert_eq!(asked(&unknown_first), Ok("3.2.0".to_owned()));
        let equal = format!("{MEDIA_TYPE};version=3.1.0, {MEDIA_TYPE};version=3.5.0");
        assert_eq!(asked(&equal), Ok("3.1.0".to_owned()));
    }

    #[test]
    fn versions_that_nobody_serves_are_refused() {
        for version in [
            "1.0.0", "2.1.0", "4.0.0", "3", "3.4", "3.x.0", "three", "+3.4.0",
        ] {
            assert!(asked(&ignition(version)).is_err(), "{version}");
        }
        // A weight of nought is a refusal.
        let refused = format!("{MEDIA_TYPE};version=3.4.0;q=0");
        assert_eq!(asked(&refused), Ok("2.2.0".to_owned()));
    }

    proptest! {
        #[test]
        fn no_header_is_too_strange(header in ".{0,200}") {
            let _any = negotiate(Some(&header));
        }

        #[test]
        fn what_is_served_is_never_newer_than_what_was_asked(major in 0u32..5, minor in 0u32..12) {
            if let Ok(version) = negotiate(Some(&ignition(&format!("{major}.{minor}.0")))) {
                prop_assert_eq!(version.major, major);
                prop_assert!(version.minor <= minor);
            }
        }
    }
}
