//! Where an export goes: a file that is durable before the command ends, or standard output.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use tokio::io::AsyncWriteExt;

/// Where the export goes.
pub(super) enum Target {
    File(tokio::fs::File),
    Stdout,
}

impl Target {
    pub(super) async fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = tokio::fs::File::create(path).await;
        Ok(Self::File(file.with_context(|| format!("{} can't be written", path.display()))?))
    }

    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.write_all(&bytes).await?,
            // A pipe may block for as long as its reader likes.
            Self::Stdout => {
                tokio::task::spawn_blocking(move || std::io::stdout().write_all(&bytes)).await??;
            }
        }
        Ok(())
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            // Nothing is lost in a buffer: a file of tokio's holds the last write until it is flushed.
            Self::File(mut file) => {
                file.flush().await?;
                file.sync_all().await?;
            }
            Self::Stdout => std::io::stdout().flush()?,
        }
        Ok(())
    }
}
