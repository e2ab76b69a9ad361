//! What the process takes of the machine, read from `/proc` at each scrape, under the names that every Prometheus
//! client library uses.

use std::fmt;
use std::io;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// Ticks of a second in `/proc`: fixed by the kernel's interface on every machine that this is built for.
const TICKS: f64 = 100.0;

/// This process.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc` says of it.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    start_seconds: f64,
    threads: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Usage {
    /// Reads `/proc/self/stat` and `/proc/self/status`; `booted` is the second at which the machine did.
    fn parse(stat: &str, status: &str, booted: f64) -> Option<Self> {
        // The program's name may have spaces and parentheses in it.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and the two before these are the ID and the name.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let kibibytes = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key))?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            start_seconds: booted + field(22)? as f64 / TICKS,
            threads: field(20)?,
            virtual_bytes: kibibytes("VmSize:")? * 1024,
            resident_bytes: kibibytes("VmRSS:")? * 1024,
        })
    }

    fn now() -> io::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let machine = std::fs::read_to_string("/proc/stat")?;
        let booted = machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status")?;
        Self::parse(&stat, &status, booted)
            .ok_or_else(|| io::Error::other("`/proc/self` has another form"))
    }
}

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let usage = match Usage::now() {
            Ok(usage) => usage,
            Err(error) => {
                tracing::debug!("the process cannot be looked at: {error}");
                return Ok(());
            }
        };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let of_cpu = to.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time spent",
            None,
            cpu.metric_type(),
        )?;
        cpu.encode(of_cpu)?;
        gauge(
            &mut to,
            "process_start_time_seconds",
            "Start of the process since the Unix epoch",
            usage.start_seconds,
        )?;
        gauge(
            &mut to,
            "process_threads",
            "Threads of the process",
            usage.threads as f64,
        )?;
        gauge(
            &mut to,
            "process_virtual_memory_bytes",
            "Virtual memory",
            usage.virtual_bytes as f64,
        )?;
        gauge(
            &mut to,
            "process_resident_memory_bytes",
            "Resident memory",
            usage.resident_bytes as f64,
        )?;
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // The directory that is being read is one of them.
            let open = open.count().saturating_sub(1);
            gauge(
                &mut to,
                "process_open_fds",
                "Open file descriptors",
                open as f64,
            )?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge(
                &mut to,
                "process_max_fds",
                "File descriptors that may be open",
                most as f64,
            )?;
        }
        Ok(())
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(to.encode_descriptor(name, help, None, gauge.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_parentheses() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 4096000 100 \
                    18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n";
        let status = "Name:\ta) b\nVmSize:\t    4000 kB\nVmRSS:\t     400 kB\n";
        let expected = Usage {
            cpu_seconds: 3.0,
            start_seconds: 1_000_010.0,
            threads: 7,
            virtual_bytes: 4_096_000,
            resident_bytes: 409_600,
        };
        assert_eq!(Usage::parse(stat, status, 1_000_000.0), Some(expected));
        assert_eq!(Usage::parse("42 (a) S 1", status, 0.0), None);
    }

    #[test]
    fn this_process_is_there() {
        let usage = Usage::now().expect("`/proc` is mounted");
        assert!(usage.threads > 0 && usage.resident_bytes > 0 && usage.start_seconds > 1e9);
    }
}
