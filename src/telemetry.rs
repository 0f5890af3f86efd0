//! Logs and metrics: how they are set up, and the one list of metric names.
//!
//! Called once by `commands`. Log messages are lower-case, read alone and carry dotted fields with units; metric names end in their unit.

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tracing_subscriber::EnvFilter;

/// How long a gauge is shown that nobody sets; longer than any sensible interval of scrapes, which set them.
const GAUGE_LIFETIME: Duration = Duration::from_secs(60);

/// Metric names; every metric that gleaner exports stands here.
pub mod metric {
    /// How a metric's numbers are to be read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind {
        /// Only grows, until the process ends.
        Counter,
        /// What is true at the moment.
        Gauge,
        /// A distribution in buckets.
        Histogram,
    }

    /// Makes a constant a metric, documented by its help, and `ALL` of the list.
    macro_rules! metrics {
        ($($kind:ident $constant:ident = $name:literal, $help:literal;)*) => {
            $(
                #[doc = $help]
                pub const $constant: &str = $name;
            )*

            /// Each metric's kind, name and help.
            pub const ALL: &[(Kind, &str, &str)] = &[$((Kind::$kind, $name, $help)),*];
        };
    }

    metrics! {
        Counter HTTP_REQUESTS_TOTAL = "gleaner_http_requests_total", "Requests answered, by route, method and status.";
        Histogram HTTP_REQUEST_SECONDS = "gleaner_http_request_seconds", "Time to answer a request, by route and method.";
        Counter LABELS_TOTAL = "gleaner_labels_total", "Labels submitted, by outcome.";
        Counter LEASES_TOTAL = "gleaner_leases_total", "Tasks leased.";
        Counter LEASE_WAITS_TOTAL = "gleaner_lease_waits_total", "Lease calls that found nothing to hand out, by reason.";
        Counter LEASE_EXPIRIES_TOTAL = "gleaner_lease_expiries_total", "Leases that ran out and were opened again.";
        Counter JOBS_TOTAL = "gleaner_jobs_total", "Jobs ended in this process, by kind and state.";
        Histogram JOB_SECONDS = "gleaner_job_seconds", "Time a job ran in this process, by kind.";
        Counter EVENTS_TOTAL = "gleaner_events_total", "Events numbered by the relay of this process.";
        Counter WEBHOOK_ATTEMPTS_TOTAL = "gleaner_webhook_attempts_total", "Attempts to deliver to a webhook, by outcome.";
        Gauge EVENT_UNNUMBERED_AGE_SECONDS = "gleaner_event_unnumbered_age_seconds", "Age of the oldest event that waits for its number; 0 when none does.";
        Gauge PROJECT_STATE = "gleaner_project_state", "1 for the state that the project is in, 0 for the others; failed when a job failed.";
        Gauge PROJECT_PAUSED = "gleaner_project_paused", "1 when the project is paused.";
        Gauge PROJECT_POOL_ITEMS = "gleaner_project_pool_items", "Items of the pool that may be asked or were.";
        Gauge PROJECT_LABELED_ITEMS = "gleaner_project_labeled_items", "Items of the pool with a class.";
        Gauge PROJECT_BUDGET = "gleaner_project_budget", "What may be spent in all, in the project's unit of cost.";
        Gauge PROJECT_SPENT = "gleaner_project_spent", "What accepted votes have cost.";
        Gauge PROJECT_OPEN_SLOTS = "gleaner_project_open_slots", "Votes that wait for a labeler.";
        Gauge PROJECT_LEASED_SLOTS = "gleaner_project_leased_slots", "Votes that a labeler has in hand.";
        Gauge PROJECT_SCORED_FRACTION = "gleaner_project_scored_fraction", "Share of the newest model's score shards that are done, 0 to 1.";
        Gauge PROJECT_MODEL_VERSION = "gleaner_project_model_version", "Newest published model; 0 before the first.";
        Gauge PROJECT_TEST_ACCURACY = "gleaner_project_test_accuracy", "Accuracy of the newest model on the test split, 0 to 1.";
        Gauge PROJECT_TRAINING_LOSS = "gleaner_project_training_loss", "Mean loss of the newest model's last pass over its labels, in nats.";
        Gauge JOB_QUEUE_DEPTH = "gleaner_job_queue_depth", "Jobs that wait for a worker, by kind.";
        Gauge JOB_RUNNING = "gleaner_job_running", "Jobs that a worker has in hand, by kind.";
        Gauge JOB_FAILED = "gleaner_job_failed", "Jobs that failed and wait for retry, by kind.";
        Gauge JOB_WAIT_SECONDS = "gleaner_job_wait_seconds", "Age of the oldest job that waits, by kind.";
        Gauge JOB_AGE_SECONDS = "gleaner_job_age_seconds", "Time since the longest running job began, by kind.";
        Gauge JOB_RATE = "gleaner_job_rate", "Units of work done per second by running jobs since they began, by kind.";
        Gauge ENGINE_QUEUE_DEPTH = "gleaner_engine_queue_depth", "Pieces of work that wait for this process's engine, by line.";
        Gauge DATABASE_CONNECTIONS = "gleaner_database_connections", "Connections to Postgres that this process holds, by state.";
    }
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
    let recorder = PrometheusBuilder::new()
        // A gauge that nobody sets any more speaks of a project that is gone.
        .idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_LIFETIME))
        .set_buckets_for_metric(Matcher::Full(metric::HTTP_REQUEST_SECONDS.to_owned()), &seconds)?
        .set_buckets_for_metric(Matcher::Full(metric::JOB_SECONDS.to_owned()), &job_seconds)?
        .install_recorder()?;
    for &(kind, name, help) in metric::ALL {
        match kind {
            metric::Kind::Counter => metrics::describe_counter!(name, help),
            metric::Kind::Gauge => metrics::describe_gauge!(name, help),
            metric::Kind::Histogram => metrics::describe_histogram!(name, help),
        }
    }
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::metric::{ALL, Kind};

    #[test]
    fn names_are_unique_and_end_as_prometheus_wants_them() {
        for (place, (kind, name, help)) in ALL.iter().enumerate() {
            assert!(name.starts_with("gleaner_") && help.ends_with('.'), "{name}: {help}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(
                ALL.iter().position(|(_, other, _)| other == name),
                Some(place),
                "{name} stands twice"
            );
        }
    }
}
