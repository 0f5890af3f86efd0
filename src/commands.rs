//! What the binary does: one file a command.
//!
//! A command parses its arguments, opens the house (`house`) as far as it needs it, and calls the rooms below; it holds no rules of its
//! own. Results go to standard output, everything else to standard error. Exit code 0: done; 1: failed; 2: wrong usage.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, Settings};
use crate::telemetry;

mod answer;
mod check;
mod dataset;
mod demo;
mod export;
mod house;
mod import;
mod migrate;
mod openapi;
mod progress;
mod serve;
mod service;
mod simulate;
mod token;
mod worker;

/// Deep active annotation: learns a pile of images by itself and asks people only for the labels that teach it the most.
#[derive(Debug, Parser)]
#[command(name = "gleaner", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and the pages, and (role all) do the jobs
    Serve(serve::Arguments),
    /// Do jobs only, on any machine that reaches Postgres and the object store
    Worker(worker::Arguments),
    /// Start a server on a real data set, learn it, and open the first batch
    Demo(demo::Arguments),
    /// Import images from this machine's disk without HTTP
    Import(import::Arguments),
    /// Label open tasks from known answers through the REST API, as an external tool would
    Answer(answer::Arguments),
    /// Compare strategies on a data set whose answers are known, without a server
    Simulate(simulate::Arguments),
    /// Write labels, predictions, tasks or a model to a file or standard output
    Export(export::Arguments),
    /// Create, list and revoke tokens
    Token(token::Arguments),
    /// Bring the database schema to this version
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Check configuration, database, device and storage
    Check,
}

/// Runs the command that the arguments name, and says on standard error why it failed.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    telemetry::start_logging(&cli.settings.log, false);
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gleaner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Openapi = cli.command {
        return openapi::run();
    }
    let config = cli.settings.resolve()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("gleaner-async")
        .build()
        .context("the async runtime can't start")?;
    let code = runtime.block_on(perform(cli.command, config));
    // A blocking task that hangs (a slow disk) must not keep an ended command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    code
}

async fn perform(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(config, arguments).await,
        Command::Worker(arguments) => worker::run(config, arguments).await,
        Command::Demo(arguments) => demo::run(config, arguments).await,
        Command::Import(arguments) => import::run(config, arguments).await,
        Command::Answer(arguments) => answer::run(config, arguments).await,
        Command::Simulate(arguments) => simulate::run(config, arguments).await,
        Command::Export(arguments) => export::run(config, arguments).await,
        Command::Token(arguments) => token::run(config, arguments).await,
        Command::Migrate => migrate::run(config).await,
        Command::Openapi => openapi::run(),
        Command::Check => check::run(config).await,
    }
}

/// Completes when the process is asked to stop: Ctrl-C or SIGTERM.
async fn stop_asked() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
