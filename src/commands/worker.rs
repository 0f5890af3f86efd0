//! `gleaner worker`: jobs only, on any machine that reaches Postgres and the object store.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::house::{Entry, House};
use super::service::start_engine;
use super::stop_asked;
use crate::config::Config;
use crate::events::Events;
use crate::outbound::GuardedClient;
use crate::rounds::{JobWake, SupervisorWake};
use crate::worker::Worker;

#[derive(Args, Debug)]
pub struct Arguments {}

/// Takes jobs until the process is asked to stop.
pub async fn run(config: Config, _: Arguments) -> anyhow::Result<ExitCode> {
    let house = House::open(config, Entry::Join).await?;
    let stop = CancellationToken::new();
    let events = Events::start(house.store.clone(), stop.clone()).await?;
    let (engine, guard) = start_engine(&house.config).await?;
    let worker = Worker::new(
        house.store.clone(),
        house.blob.clone(),
        engine,
        events,
        SupervisorWake::new(),
        JobWake::new(),
        &house.config.home,
    )
    .reaching(GuardedClient::new(house.config.outbound_allow_private)?, &house.config.import_roots);
    let running = tokio::spawn(worker.run(stop.clone()));
    tracing::info!("waiting for jobs");
    stop_asked().await?;
    tracing::info!("stopping: the job at hand reaches a checkpoint");
    stop.cancel();
    running.await.context("the worker ended with a panic")?;
    drop(guard);
    house.close().await?;
    Ok(ExitCode::SUCCESS)
}
