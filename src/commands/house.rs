//! Opening the house: Postgres (given or private), the schema, the object store.
//!
//! Every command that needs the database goes through here, so that a private cluster is started, joined and left in one way. Whoever
//! opens the house closes it (`House::close`), which stops the private cluster when nobody else uses it.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::blob::Blob;
use crate::config::Config;
use crate::store::Store;
use crate::store::cluster::Cluster;

/// How often a private cluster is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The open house: the configuration, the database, the object store.
pub struct House {
    /// As the command was given it.
    pub config: Config,
    /// The database, with the schema of this version.
    pub store: Store,
    /// Images, checkpoints, tables.
    pub blob: Blob,
    cluster: Option<Cluster>,
}

/// Whether a private cluster may be started or must run already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Start the private cluster if it doesn't run.
    Start,
    /// Only join one that a server on the same home started.
    Join,
}

impl House {
    /// Opens Postgres, brings the schema up to date and opens the object store.
    pub async fn open(config: Config, entry: Entry) -> anyhow::Result<Self> {
        let (store, cluster) = open_store(&config, entry).await?;
        store.migrate().await.context("the database schema")?;
        let blob = Blob::open(&config.blob_url, &config.home.join("cache"))
            .await
            .with_context(|| format!("the object store {}", config.blob_url))?;
        Ok(Self { config, store, blob, cluster })
    }

    /// Brings a private cluster back when it died under its users; returns once `stop` is cancelled. A given database is its owner's affair.
    pub async fn keep_cluster_alive(&self, stop: &CancellationToken) {
        let Some(cluster) = &self.cluster else { return stop.cancelled().await };
        let mut clock = tokio::time::interval(PING_INTERVAL);
        while stop.run_until_cancelled(clock.tick()).await.is_some() {
            let Err(error) = self.store.ping().await else { continue };
            if !error.is_unavailable() {
                continue;
            }
            tracing::warn!(error = %error, "the private cluster doesn't answer, it is started again");
            if let Err(error) = cluster.revive().await {
                tracing::error!(error = %error, "the private cluster can't be started, it is tried again");
            }
        }
    }

    /// Closes the connections and leaves the private cluster; the last one out stops it.
    pub async fn close(self) -> anyhow::Result<()> {
        self.store.close().await;
        if let Some(cluster) = self.cluster {
            cluster.release().await.context("leaving the private Postgres cluster")?;
        }
        Ok(())
    }
}

/// Connects to the given Postgres or to the private cluster.
pub async fn open_store(config: &Config, entry: Entry) -> anyhow::Result<(Store, Option<Cluster>)> {
    if let Some(url) = &config.database_url {
        let store = Store::connect(url.expose()).await.context("the database of DATABASE_URL")?;
        return Ok((store, None));
    }
    let cluster = match entry {
        Entry::Start => Cluster::start(&config.home).await,
        Entry::Join => Cluster::join(&config.home).await,
    }
    .context("the private Postgres cluster")?;
    let store =
        Store::connect_with(cluster.connect_options()).await.context("the private Postgres cluster")?;
    Ok((store, Some(cluster)))
}
