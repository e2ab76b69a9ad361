//! Content negotiation: which shape of answer a client wants.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// The shape of an answer. Every shape is made as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    /// `as=Table`.
    Table(Meta),
    /// `as=PartialObjectMetadata` and `as=PartialObjectMetadataList`.
    Partial(Meta),
    /// `as=APIGroupDiscoveryList`, version v2.
    AggregatedDiscovery,
    /// The same in version v2beta1.
    AggregatedDiscoveryBeta,
}

/// Version of `meta.k8s.io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    V1,
    V1Beta1,
}

impl Meta {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

impl Shape {
    /// The first shape of the `Accept` header that we can give and `wanted` allows here.
    pub(crate) fn negotiate(
        headers: &HeaderMap,
        wanted: impl Fn(Self) -> bool,
    ) -> Result<Self, ApiError> {
        let ranges = ranges(headers);
        if ranges.is_empty() {
            return Ok(Self::Object);
        }
        ranges
            .into_iter()
            .filter_map(Self::parse)
            .find(|shape| *shape == Self::Object || wanted(*shape))
            .ok_or_else(|| ApiError::not_acceptable(&["application/json"]))
    }

    fn parse(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        match parts.next()? {
            "application/json" | "application/*" | "*/*" => {}
            // Only as another way to write whole objects.
            YAML if parts.clone().all(|part| part.starts_with("q=")) => return Some(Self::Object),
            _ => return None,
        }
        let (mut kind, mut group, mut version) = (None, None, None);
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", value)) => kind = Some(value),
                Some(("g", value)) => group = Some(value),
                Some(("v", value)) => version = Some(value),
                Some(("stream", _)) => return None,
                _ => {}
            }
        }
        let meta = match (group, version) {
            (Some("meta.k8s.io"), Some("v1")) => Some(Meta::V1),
            (Some("meta.k8s.io"), Some("v1beta1")) => Some(Meta::V1Beta1),
            _ => None,
        };
        match (kind, meta, group, version) {
            (None, ..) => Some(Self::Object),
            (Some("Table"), Some(meta), ..) => Some(Self::Table(meta)),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some(meta), ..) => {
                Some(Self::Partial(meta))
            }
            (Some("APIGroupDiscoveryList"), None, Some("apidiscovery.k8s.io"), Some("v2")) => {
                Some(Self::AggregatedDiscovery)
            }
            (Some("APIGroupDiscoveryList"), None, Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                Some(Self::AggregatedDiscoveryBeta)
            }
            _ => None,
        }
    }

    /// Shapes that stand for objects and lists of them.
    pub(crate) fn of_objects(self) -> bool {
        matches!(self, Self::Object | Self::Table(_) | Self::Partial(_))
    }
}

const YAML: &str = "application/yaml";

/// Whether the first range that we can serve asks for YAML.
pub(crate) fn wants_yaml(headers: &HeaderMap) -> bool {
    ranges(headers)
        .into_iter()
        .find(|range| Shape::parse(range).is_some())
        .is_some_and(|range| range.starts_with(YAML))
}

/// Whether a media type is named as one that the client takes.
pub(crate) fn takes(headers: &HeaderMap, media_type: &str) -> bool {
    let named = |range: &str| range.split(';').next().map(str::trim) == Some(media_type);
    ranges(headers).into_iter().any(named)
}

/// The ranges of all `Accept` headers, best first; equal ones keep the client's order.
fn ranges(headers: &HeaderMap) -> Vec<&str> {
    let mut ranges: Vec<(f32, &str)> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        let Ok(text) = value.to_str() else { continue };
        for range in text.split(',') {
            let quality = range
                .split(';')
                .filter_map(|p| p.trim().strip_prefix("q="))
                .find_map(|q| q.parse().ok());
            ranges.push((quality.unwrap_or(1.0), range.trim()));
        }
    }
    ranges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranges.into_iter().map(|(_, range)| range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<Shape>) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = accept.parse() {
            headers.insert(header::ACCEPT, value);
        }
        let found = Shape::negotiate(&headers, Shape::of_objects).ok();
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn accept_headers() {
        check("application/json", Some(Shape::Object));
        check("*/*", Some(Shape::Object));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some(Shape::Table(Meta::V1)),
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
             application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            Some(Shape::Partial(Meta::V1)),
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some(Shape::Object),
        );
        check(
            "application/json;as=Table;v=v2;g=meta.k8s.io,application/json;q=0.1",
            Some(Shape::Object),
        );
        check("application/json;as=Nothing;v=v1;g=meta.k8s.io", None);
        check("application/vnd.kubernetes.protobuf", None);
        check("application/yaml", Some(Shape::Object));
        check("application/yaml;as=Table;v=v1;g=meta.k8s.io", None);
    }
}
