//! The two text forms of metrics: OpenMetrics, which the library writes, and the older one of Prometheus.

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

/// How metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4: what a person or an old client gets, who asks for nothing.
    Prometheus,
}

impl Format {
    /// What a client prefers, by its `Accept` header.
    pub(crate) fn negotiate(accept: &str) -> Self {
        let quality = |wanted: &[&str]| {
            accept
                .split(',')
                .filter_map(|range| {
                    let mut parts = range.split(';').map(str::trim);
                    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
                    let weight = parts.find_map(|part| part.strip_prefix("q="));
                    let weight: f32 = weight.map_or(Some(1.0), |text| text.parse().ok())?;
                    wanted.contains(&kind.as_str()).then_some(weight)
                })
                .fold(0.0, f32::max)
        };
        let plain = quality(&["text/plain", "text/*", "*/*"]);
        match quality(&["application/openmetrics-text"]) {
            open if open > 0.0 && open >= plain => Format::OpenMetrics,
            _ => Format::Prometheus,
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Brings OpenMetrics text without its end into this form.
    pub(crate) fn of_open_metrics(self, text: String) -> String {
        match self {
            Format::OpenMetrics => text + "# EOF\n",
            Format::Prometheus => to_prometheus(&text),
        }
    }
}

/// OpenMetrics without its end, so that more can follow.
pub(super) fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    encode_registry(&mut text, registry).expect("writing to a string does not fail");
    text
}

/// Samples are the same in both; families are not: OpenMetrics names a counter without `_total`, and has types that
/// Prometheus calls gauges.
fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                out.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# UNIT ") && line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_prefer() {
        let check = |accept: &str, expected| {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        };
        check("", Format::Prometheus);
        check("*/*", Format::Prometheus);
        check("text/html,*/*;q=0.8", Format::Prometheus);
        check("application/openmetrics-text", Format::OpenMetrics);
        check(
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.3",
            Format::OpenMetrics,
        );
        check(
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5",
            Format::Prometheus,
        );
        check("application/openmetrics-text;q=0, */*", Format::Prometheus);
        check("application/openmetrics-text;q=what", Format::Prometheus);
    }

    #[test]
    fn families_have_the_names_of_their_samples() {
        let open = "# HELP a_requests Asked.\n# TYPE a_requests counter\na_requests_total{code=\"200\"} 1\n\
                    # HELP a_build The version.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                    a_seconds_sum 1.0\na_seconds_count 1\na_seconds_bucket{le=\"+Inf\"} 1\n\
                    # HELP a_depth Waiting.\n# TYPE a_depth gauge\na_depth 0\n# EOF\n";
        let expected = "# HELP a_requests_total Asked.\n# TYPE a_requests_total counter\na_requests_total{code=\"200\"} 1\n\
                        # HELP a_build_info The version.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                        # HELP a_seconds Time.\n# TYPE a_seconds histogram\n\
                        a_seconds_sum 1.0\na_seconds_count 1\na_seconds_bucket{le=\"+Inf\"} 1\n\
                        # HELP a_depth Waiting.\n# TYPE a_depth gauge\na_depth 0\n";
        assert_eq!(to_prometheus(open), expected);
    }
}
