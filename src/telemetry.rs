//! Logs and metrics: how they are set up, and the one list of metric names.
//!
//! Called once by `commands`. Log messages are lower-case, read alone and carry dotted fields with units; metric names end in their unit.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Metric names; every metric that gleaner exports stands here.
pub mod metric {
    /// Requests answered, by `route`, `method` and `status`.
    pub const HTTP_REQUESTS_TOTAL: &str = "gleaner_http_requests_total";
    /// Time to answer a request in seconds, by `route` and `method`.
    pub const HTTP_REQUEST_SECONDS: &str = "gleaner_http_request_seconds";
    /// Labels by `outcome`.
    pub const LABELS_TOTAL: &str = "gleaner_labels_total";
    /// Tasks leased.
    pub const LEASES_TOTAL: &str = "gleaner_leases_total";
    /// Jobs ended, by `kind` and `state`.
    pub const JOBS_TOTAL: &str = "gleaner_jobs_total";
    /// Time a job ran in seconds, by `kind`.
    pub const JOB_SECONDS: &str = "gleaner_job_seconds";
    /// Events numbered by the relay.
    pub const EVENTS_TOTAL: &str = "gleaner_events_total";
    /// Attempts to deliver to a webhook, by `outcome` (`delivered`, `failed`).
    pub const WEBHOOK_ATTEMPTS_TOTAL: &str = "gleaner_webhook_attempts_total";
}

/// Starts logging to standard error: one line an event, JSON when standard error is no terminal and `json` is asked for.
///
/// A filter that can't be parsed falls back to `info` and says so.
pub fn start_logging(filter: &str, json: bool) {
    let (parsed, complaint) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new("info"), Some(error.to_string())),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    if started.is_ok()
        && let Some(complaint) = complaint
    {
        tracing::warn!(log.filter = filter, error = complaint, "log filter not understood, using info");
    }
}

/// Installs the metrics recorder of this process and returns the handle that renders it as Prometheus text.
///
/// Errors when a recorder is already installed.
pub fn start_metrics() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let job_seconds = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(metric::HTTP_REQUEST_SECONDS.to_owned()), &seconds)?
        .set_buckets_for_metric(Matcher::Full(metric::JOB_SECONDS.to_owned()), &job_seconds)?
        .install_recorder()
}
