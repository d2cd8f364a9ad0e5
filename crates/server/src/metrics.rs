//! Counters and times, in Prometheus' text form.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of few values each; a tenant or a path is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Everything the server counts.
pub(crate) struct Metrics {
    registry: Registry,
    runs: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    requests: Family<Labels, Counter>,
    /// Programs that run.
    pub(crate) running: Gauge,
    /// Programs that wait.
    pub(crate) waiting: Gauge,
    /// Bytes of contents taken in.
    pub(crate) uploaded_bytes: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// All at nought.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("casemate");
        let (runs, requests) = (Family::default(), Family::default());
        // From 1 ms to 32 s.
        let seconds = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 2.0, 16))
        });
        let (running, waiting) = (Gauge::default(), Gauge::default());
        let uploaded_bytes = Counter::default();
        registry.register(
            "runs",
            "Runs by backend and how they ended",
            Family::clone(&runs),
        );
        registry.register(
            "run_seconds",
            "Time of a run, waiting not included",
            Family::clone(&seconds),
        );
        registry.register(
            "http_requests",
            "Requests by method and status",
            Family::clone(&requests),
        );
        registry.register("running", "Programs that run now", Gauge::clone(&running));
        registry.register("waiting", "Programs that wait now", Gauge::clone(&waiting));
        registry.register(
            "uploaded_bytes",
            "Bytes taken in",
            Counter::clone(&uploaded_bytes),
        );
        Self {
            registry,
            runs,
            seconds,
            requests,
            running,
            waiting,
            uploaded_bytes,
        }
    }

    /// A run has ended.
    pub(crate) fn ran(&self, backend: &str, status: &str, took: Duration) {
        let backend = ("backend", backend.to_owned());
        let labels = Labels(vec![backend.clone(), ("status", status.to_owned())]);
        self.runs.get_or_create(&labels).inc();
        let seconds = self.seconds.get_or_create(&Labels(vec![backend]));
        seconds.observe(took.as_secs_f64());
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &str, status: u16) {
        let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
        let method = if known.contains(&method) {
            method
        } else {
            "other"
        };
        let labels = vec![
            ("method", method.to_owned()),
            ("status", status.to_string()),
        ];
        self.requests.get_or_create(&Labels(labels)).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
