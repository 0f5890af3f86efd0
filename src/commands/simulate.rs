//! `gleaner simulate`: strategies side by side on a data set whose answers are known; no server, no database.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::dataset::Dataset;
use super::progress::Progress;
use super::stop_asked;
use crate::config::Config;
use crate::domain::settings::{BackboneKind, FineTuneMode, FineTuneSettings, PretextKind};
use crate::engine::device;
use crate::import::StopFlag;
use crate::simulate::{self, Arm, FirstBatch, Observer, Oracle, Plan, RoundRecord, RunRecord, Stopped};

#[derive(Args, Debug)]
pub struct Arguments {
    /// fashion-mnist, cifar10, or a folder or archive with train/<class> and test/<class>
    #[arg(long, default_value = "fashion-mnist")]
    dataset: String,
    /// Where the data set lies [default for fashion-mnist: Debian's package]
    #[arg(long)]
    source: Option<PathBuf>,
    /// Pretext tasks, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rotation")]
    pretext: Vec<PretextKind>,
    /// Passes of the pretext task
    #[arg(long, default_value_t = 2)]
    pretext_epochs: u32,
    /// Strategies, separated by commas: entropy, margin or a kind of the API with its parameters, as deep_active:lambda=0.5
    #[arg(long, value_delimiter = ',', default_value = "deep_active,entropy,pretext,random")]
    strategies: Vec<Arm>,
    /// Paired seeds
    #[arg(long, default_value_t = 5)]
    seeds: u32,
    /// Labels asked in a round, the first included
    #[arg(long, default_value_t = 1000)]
    query: u32,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Labels in all after each round, separated by commas, in place of --query and --rounds
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["query", "rounds"])]
    budgets: Vec<u32>,
    /// Who chooses the first batch
    #[arg(long, value_enum, default_value = "random")]
    first: FirstBatch,
    /// Keep this many pool images, drawn at random
    #[arg(long)]
    pool: Option<usize>,
    /// Network
    #[arg(long, value_enum, default_value = "small")]
    backbone: BackboneKind,
    /// What fine-tuning moves
    #[arg(long, value_enum, default_value = "full")]
    mode: FineTuneMode,
    /// Passes over the labels at least
    #[arg(long, default_value_t = FineTuneSettings::default().epochs)]
    fine_tune_epochs: u32,
    /// Mini-batches of a fine-tuning at least
    #[arg(long, default_value_t = FineTuneSettings::default().min_steps)]
    min_steps: u32,
    /// Folder for results; a folder of an earlier run with the same arguments is gone on with
    #[arg(long)]
    out: PathBuf,
}

/// Simulates until all is done or the process is asked to stop.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let dataset = Dataset::find(&arguments.dataset, arguments.source.as_deref())?;
    let device = device::open(config.device)?;
    let plan = plan(&dataset, &arguments);
    let stop = StopFlag::default();
    let asked = stop.clone();
    let work = tokio::task::spawn_blocking(move || {
        let oracle = read(&dataset, &plan, arguments.pool, &asked)?;
        let mut observer = Terminal { stop: asked, progress: None };
        let records = simulate::run(&device, &plan, &oracle, &mut observer);
        observer.end("done");
        let records = records?;
        simulate::write_report(&plan, &oracle, &records, &command_line())?;
        Ok::<_, anyhow::Error>((plan, records))
    });
    tokio::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        stopped = stop_asked() => {
            stopped?;
            stop.stop();
            work.await
        }
    };
    let (plan, records) = done.context("the simulation ended by a panic")??;
    print_last_rounds(&records);
    println!("Read {}", plan.folder.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

fn plan(dataset: &Dataset, arguments: &Arguments) -> Plan {
    let steps = (1..=arguments.rounds).map(|round| round.saturating_mul(arguments.query));
    Plan {
        dataset: dataset.project.clone(),
        pretexts: arguments.pretext.clone(),
        pretext_epochs: arguments.pretext_epochs,
        arms: arguments.strategies.clone(),
        seed_count: arguments.seeds,
        budgets: if arguments.budgets.is_empty() { steps.collect() } else { arguments.budgets.clone() },
        first_batch: arguments.first,
        backbone: arguments.backbone,
        fine_tune: FineTuneSettings {
            mode: arguments.mode,
            epochs: arguments.fine_tune_epochs,
            min_steps: arguments.min_steps,
        },
        folder: arguments.out.clone(),
    }
}

fn read(dataset: &Dataset, plan: &Plan, pool: Option<usize>, stop: &StopFlag) -> anyhow::Result<Oracle> {
    std::fs::create_dir_all(&plan.folder)
        .with_context(|| format!("{} can't be made", plan.folder.display()))?;
    let scratch = tempfile::tempdir_in(&plan.folder)
        .with_context(|| format!("{} can't be written", plan.folder.display()))?;
    let (classes, source) = (dataset.classes.clone(), &dataset.source);
    let oracle = Oracle::read(source, classes, dataset.image, pool, scratch.path(), stop)?;
    if oracle.pool.is_empty() {
        bail!("{} has no images of known classes", source.display());
    }
    tracing::info!(pool.count = oracle.pool.len(), test.count = oracle.test.len(), "data set read");
    Ok(oracle)
}

/// The command as it was typed, for the report, without the options before it: a secret may stand there.
fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=:,./".contains(c);
    let quote = |word: String| {
        if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let words = std::env::args().skip_while(|word| word != "simulate").map(quote);
    ["gleaner".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

fn print_last_rounds(records: &[RunRecord]) {
    for record in records {
        if let Some(last) = record.rounds.last() {
            let (task, strategy, seed) = (record.pretext.name(), &record.strategy, record.seed);
            println!("{task} {strategy} seed {seed}: {:.4} at {} labels", last.test_accuracy, last.labels);
        }
    }
}

/// Shows one bar at a time, and passes Ctrl-C on.
struct Terminal {
    stop: StopFlag,
    progress: Option<(String, Progress)>,
}

impl Terminal {
    fn end(&mut self, outcome: &str) {
        if let Some((_, progress)) = self.progress.take() {
            progress.end(outcome);
        }
    }
}

impl Observer for Terminal {
    fn step(&mut self, work: &str, done: u64, total: u64) -> ControlFlow<Stopped> {
        if self.progress.as_ref().is_none_or(|(name, _)| name != work) {
            self.end("done");
            self.progress = Some((work.to_owned(), Progress::begin(work)));
        }
        if let Some((_, progress)) = &mut self.progress {
            progress.set(done, total);
        }
        if self.stop.is_stopped() { ControlFlow::Break(Stopped) } else { ControlFlow::Continue(()) }
    }

    fn round(&mut self, run: &str, round: &RoundRecord) {
        self.end("done");
        tracing::info!(
            run.name = run,
            round.labels = round.labels,
            test.accuracy = round.test_accuracy,
            duration_s = round.seconds,
            "round ended"
        );
    }
}
