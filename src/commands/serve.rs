//! `gleaner serve`: the service until Ctrl-C or SIGTERM.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::house::{Entry, House};
use super::service::{ServeRole, Service};
use super::stop_asked;
use crate::config::Config;

#[derive(Args, Debug)]
pub struct Arguments {
    /// Answer and do jobs, or answer only
    #[arg(long, value_enum, default_value = "all")]
    role: ServeRole,
}

/// Serves until the process is asked to stop.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let house = House::open(config, Entry::Start).await?;
    let service = Service::start(&house, arguments.role).await?;
    // A token in a log file would outlive its purpose; on a terminal a person waits for it.
    if std::io::stdout().is_terminal() {
        println!("gleaner: {}", service.login_link(&house.config.public_url, "/")?);
    }
    service.run_until(&house, stop_asked()).await?;
    tracing::info!("stopping: requests end, jobs reach a checkpoint");
    service.stop().await;
    house.close().await?;
    Ok(ExitCode::SUCCESS)
}
