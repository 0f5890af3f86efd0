//! `gleaner migrate`: brings the database schema to this version.

use std::process::ExitCode;

use anyhow::Context;

use super::house::{Entry, open_store};
use crate::config::Config;

/// Applies what is missing and says from where to where.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let (store, cluster) = open_store(&config, Entry::Start).await?;
    let before = store.schema_version().await?;
    store.migrate().await.context("the database schema")?;
    let after = store.schema_version().await?;
    match (before, after) {
        (before, after) if before == after => {
            println!("the schema is at version {} already", after.unwrap_or_default());
        }
        (before, after) => {
            println!(
                "the schema went from version {} to {}",
                before.unwrap_or_default(),
                after.unwrap_or_default()
            );
        }
    }
    store.close().await;
    if let Some(cluster) = cluster {
        cluster.release().await?;
    }
    Ok(ExitCode::SUCCESS)
}
