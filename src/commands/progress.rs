//! Progress for people: a bar on a terminal, a log line every few seconds otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a log line says how far the work is when there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The progress of one piece of work.
pub struct Progress {
    bar: Option<ProgressBar>,
    name: String,
    logged: Option<Instant>,
}

impl Progress {
    /// Begins to show work of this name; nothing is known of its length yet.
    #[must_use]
    pub fn begin(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(spinner_style());
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, name: name.to_owned(), logged: None }
    }

    /// Shows that `done` of `total` is done; a `total` of 0 is unknown.
    pub fn set(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if total > 0 && bar.length() != Some(total) {
                bar.set_style(bar_style());
                bar.set_length(total);
            }
            bar.set_position(done);
        } else if total > 0 && self.logged.is_none_or(|last| last.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::info!(work.name = %self.name, work.done = done, work.total = total, "work goes on");
        }
    }

    /// Ends the bar and leaves one line that says what came of it.
    pub fn end(self, outcome: &str) {
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{}: {outcome}", self.name);
            }
            None => tracing::info!(work.name = %self.name, outcome, "work ended"),
        }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:28} {wide_bar:.cyan/dim} {pos}/{len} {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {pos}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
