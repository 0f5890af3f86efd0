//! What `/metrics` says at a journey's end, and whether Prometheus' own checker likes it.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::server::Caller;

/// A scrape.
pub struct Measurements(String);

impl Measurements {
    /// Scrapes the server.
    pub async fn read(caller: &Caller) -> Self {
        Self(caller.metrics().await)
    }

    /// Holds the gauges of a project that is finished to what is known of it, and the whole text to `promtool check metrics`.
    pub fn check(&self, project: &str, pool_count: usize, label_count: usize) {
        let of_project = |name: &str| self.value(&format!("{name}{{project=\"{project}\"}}"));
        let state =
            |state| self.value(&format!("gleaner_project_state{{project=\"{project}\",state=\"{state}\"}}"));
        assert_eq!((state("finished"), state("labeling"), state("failed")), (1.0, 0.0, 0.0));
        assert_eq!(of_project("gleaner_project_pool_items"), pool_count as f64);
        for name in ["labeled_items", "spent", "budget"] {
            assert_eq!(of_project(&format!("gleaner_project_{name}")), label_count as f64, "{name}");
        }
        for name in ["open_slots", "leased_slots", "paused"] {
            assert_eq!(of_project(&format!("gleaner_project_{name}")), 0.0, "{name}");
        }
        assert!((0.1..1.0).contains(&of_project("gleaner_project_test_accuracy")));
        assert!(of_project("gleaner_project_training_loss") > 0.0);
        assert_eq!(self.value("gleaner_job_queue_depth{kind=\"train\"}"), 0.0);
        assert!(self.value("gleaner_database_connections{state=\"idle\"}") >= 1.0);
        self.check_form();
    }

    fn value(&self, series: &str) -> f64 {
        let found = self.0.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("/metrics has no {series}:\n{}", self.0))
    }

    fn check_form(&self) {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (Debian's package prometheus; `make test` installs it)");
        promtool.stdin.take().expect("it reads").write_all(self.0.as_bytes()).expect("it reads all");
        let said = promtool.wait_with_output().expect("it ends");
        let complaints = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{complaints}");
    }
}
