//! `gleaner import`: reads a source on this machine's disk into a project, without HTTP.
//!
//! The import is a row and a job like any other; this process works it off itself unless a server's worker takes it first. Whoever can run
//! this command can read the database, so `GLEANER_IMPORT_ROOTS` doesn't bind it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::house::{Entry, House};
use super::progress::Progress;
use super::token::find_project;
use crate::config::Config;
use crate::domain::ids::{ImportId, ProjectId};
use crate::domain::import::{ImportFormat, ImportState, LabelRule, SplitRule};
use crate::events::Events;
use crate::outbound::GuardedClient;
use crate::rounds::{SupervisorWake, control};
use crate::store;
use crate::worker::Worker;

/// How often the import's row is read to show its progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name or id of the project
    project: String,
    /// Folder or archive to read
    source: PathBuf,
    /// Shape of the source
    #[arg(long, value_enum, default_value = "auto")]
    format: ImportFormat,
    /// Which part of the source is taken
    #[arg(long, value_enum, default_value = "auto")]
    split: SplitRule,
    /// What becomes of the classes that the source knows
    #[arg(long, value_enum, default_value = "hide")]
    labels: LabelRule,
}

/// Imports and prints the report; fails when the import fails.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.split == SplitRule::Test && arguments.labels == LabelRule::Hide {
        bail!("a test split without labels evaluates nothing; use --labels keep");
    }
    let source = std::fs::canonicalize(&arguments.source)
        .with_context(|| format!("{} can't be read", arguments.source.display()))?;
    let house = House::open(config, Entry::Start).await?;
    let done = import(&house, &arguments, source).await;
    house.close().await?;
    done
}

async fn import(house: &House, arguments: &Arguments, source: PathBuf) -> anyhow::Result<ExitCode> {
    let id = queue(house, arguments, &source).await?;
    let stop = CancellationToken::new();
    let events = Events::start(house.store.clone(), stop.clone()).await?;
    let worker = Worker::for_imports(
        house.store.clone(),
        house.blob.clone(),
        events,
        SupervisorWake::new(),
        &house.config.home,
    )
    .reaching(GuardedClient::new(house.config.outbound_allow_private)?, &house.config.import_roots);
    let working = tokio::spawn(worker.run(stop.clone()));
    let row = show_progress(house, id, &source).await;
    stop.cancel();
    working.await.context("the worker ended with a panic")?;
    report(&row?)
}

async fn queue(house: &House, arguments: &Arguments, source: &std::path::Path) -> anyhow::Result<ImportId> {
    let mut tx = house.store.begin().await?;
    let project: ProjectId = find_project(&mut tx, &arguments.project).await?;
    let row =
        store::project::find(&mut tx, project).await?.context("the project was deleted a moment ago")?;
    let import = store::import::NewImport {
        id: ImportId::generate(),
        source: source.display().to_string(),
        uploaded: false,
        format: arguments.format,
        split: arguments.split,
        labels: arguments.labels,
    };
    store::import::insert(&mut tx, project, &import).await?;
    control::queue_import(&mut tx, &row, import.id).await?;
    tx.commit().await?;
    Ok(import.id)
}

async fn show_progress(
    house: &House,
    id: ImportId,
    source: &std::path::Path,
) -> anyhow::Result<store::import::ImportRow> {
    let mut progress = Progress::begin(&format!("importing {}", source.display()));
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    loop {
        clock.tick().await;
        let mut connection = house.store.acquire().await?;
        let row = store::import::find(&mut connection, id).await?.context("the import's row vanished")?;
        progress.set(row.read_count.unsigned_abs(), 0);
        if matches!(row.state, ImportState::Done | ImportState::Failed) {
            progress.end(&format!("{} images read", row.read_count));
            return Ok(row);
        }
    }
}

fn report(row: &store::import::ImportRow) -> anyhow::Result<ExitCode> {
    for rejection in &row.rejected {
        println!("rejected {}: {}", rejection.name, rejection.reason);
    }
    println!(
        "{} read, {} added ({} of them converted to the project's channels), {} duplicates, {} rejected",
        row.read_count, row.added_count, row.converted_count, row.duplicate_count, row.rejected_count
    );
    match row.state {
        ImportState::Failed => {
            bail!("the import failed: {}", row.error.as_deref().unwrap_or("no reason was kept"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
