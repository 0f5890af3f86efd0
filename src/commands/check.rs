//! `gleaner check`: configuration, database, device and storage, each with what to do when it is not well.

use std::process::ExitCode;

use anyhow::{Context, bail};

use super::house::{Entry, open_store};
use crate::blob::Blob;
use crate::config::Config;
use crate::engine::device;
use crate::nn::device::kernel_name;
use crate::store::migrate::program_version;

/// Checks everything, prints a line each, and fails when one is not well.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    println!("home      {}", config.home.display());
    println!("listen    {} (public: {})", config.listen, config.public_url);
    println!(
        "imports   {}",
        if config.import_roots.is_empty() {
            "no folder allowed (GLEANER_IMPORT_ROOTS)".to_owned()
        } else {
            config.import_roots.join(":")
        }
    );
    let mut well = true;
    let mut say = |name: &str, outcome: anyhow::Result<String>| match outcome {
        Ok(text) => println!("{name:9} ok: {text}"),
        Err(error) => {
            well = false;
            println!("{name:9} NOT WELL: {error:#}");
        }
    };
    say("database", check_database(&config).await);
    say("storage", check_storage(&config).await);
    say("device", check_device(&config));
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn check_database(config: &Config) -> anyhow::Result<String> {
    let (store, cluster) = open_store(config, Entry::Start).await?;
    store.ping().await?;
    let version = store.schema_version().await?;
    let place = if cluster.is_some() { "private cluster" } else { "DATABASE_URL" };
    store.close().await;
    if let Some(cluster) = cluster {
        cluster.release().await?;
    }
    match version {
        Some(version) if version == program_version() => Ok(format!("{place}, schema version {version}")),
        Some(version) if version > program_version() => {
            bail!(
                "{place} has schema version {version}, newer than {}; run a newer gleaner",
                program_version()
            )
        }
        older => Ok(format!(
            "{place}, schema version {}; the next start brings it to {}",
            older.unwrap_or_default(),
            program_version()
        )),
    }
}

async fn check_storage(config: &Config) -> anyhow::Result<String> {
    let blob = Blob::open(&config.blob_url, &config.home.join("cache")).await?;
    let key = format!("check/{}", uuid::Uuid::now_v7());
    let sent = b"gleaner".to_vec();
    blob.put(&key, sent.clone()).await.context("writing an object")?;
    let back = blob.get(&key).await.context("reading it back")?;
    blob.delete(&key).await.context("deleting it")?;
    if back != sent {
        bail!("{} gives back other bytes than it was given", config.blob_url);
    }
    Ok(format!("{} written, read and deleted", config.blob_url))
}

fn check_device(config: &Config) -> anyhow::Result<String> {
    let opened = device::open(config.device)?;
    Ok(format!(
        "{} ({}), kernels {}, {} threads",
        device::name(&opened),
        config.device,
        kernel_name(&opened),
        config.threads
    ))
}
