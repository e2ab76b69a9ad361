//! When the certificates end that this process shows to others.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Says when a certificate ends, once there is one.
type Ends = Box<dyn Fn() -> Option<Timestamp> + Send + Sync>;

/// The certificates, by what they are for.
#[derive(Default)]
pub(super) struct Certificates(Vec<(&'static str, Ends)>);

impl Certificates {
    pub(super) fn add(&mut self, name: &'static str, ends: Ends) {
        self.0.push((name, ends));
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Collector for Certificates {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = to.encode_descriptor(
            "caprock_certificate_expiry_timestamp_seconds",
            "End of a certificate that this process shows, since the Unix epoch",
            None,
            MetricType::Gauge,
        )?;
        for (name, ends) in &self.0 {
            if let Some(ends) = ends() {
                let of_name = [("certificate", *name)];
                ConstGauge::new(ends.as_second()).encode(family.encode_family(&of_name)?)?;
            }
        }
        Ok(())
    }
}
