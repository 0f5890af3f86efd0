//! Opening the house: Postgres (given or private), the schema, the object store.
//!
//! Every command that needs the database goes through here, so that a private cluster is started, joined and left in one way. Whoever
//! opens the house closes it (`House::close`), which stops the private cluster when nobody else uses it.

use anyhow::Context;

use crate::blob::Blob;
use crate::config::Config;
use crate::store::Store;
use crate::store::cluster::Cluster;

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
    let store = Store::connect_with(cluster.connect_options()).await.context("the private Postgres cluster")?;
    Ok((store, Some(cluster)))
}
