//! `gleaner export`: labels or a model to a file or standard output, without HTTP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, pin_mut};
use tokio::io::AsyncWriteExt;

use super::house::{Entry, House};
use super::token::find_project;
use crate::config::Config;
use crate::domain::ids::ProjectId;
use crate::http::v1::exports::{ExportFormat, label_pages};
use crate::store::{model, project};

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Content {
    /// Accepted labels that weren't undone
    Labels,
    /// Weights of the published model, safetensors with torchvision's key names
    Model,
}

/// The form of exported labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name or id of the project
    project: String,
    /// What to write
    #[arg(long, value_enum, default_value = "labels")]
    what: Content,
    /// Form of the labels
    #[arg(long, value_enum, default_value = "csv")]
    format: Form,
    /// File to write; standard output when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Writes the export.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let house = House::open(config, Entry::Start).await?;
    let done = export(&house, &arguments).await;
    house.close().await?;
    done?;
    Ok(ExitCode::SUCCESS)
}

async fn export(house: &House, arguments: &Arguments) -> anyhow::Result<()> {
    let project = {
        let mut connection = house.store.acquire().await?;
        find_project(&mut connection, &arguments.project).await?
    };
    let mut target = Target::open(arguments.out.as_deref()).await?;
    match arguments.what {
        Content::Labels => write_labels(house, project, arguments.format, &mut target).await?,
        Content::Model => write_model(house, project, &mut target).await?,
    }
    target.close().await
}

/// Where the export goes.
enum Target {
    File(tokio::fs::File),
    Stdout,
}

impl Target {
    async fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let file = tokio::fs::File::create(path).await;
        Ok(Self::File(file.with_context(|| format!("{} can't be written", path.display()))?))
    }

    async fn write(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.write_all(&bytes).await?,
            // A pipe may block for as long as its reader likes.
            Self::Stdout => {
                tokio::task::spawn_blocking(move || std::io::stdout().write_all(&bytes)).await??;
            }
        }
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.sync_all().await?,
            Self::Stdout => std::io::stdout().flush()?,
        }
        Ok(())
    }
}

async fn write_labels(
    house: &House,
    project: ProjectId,
    form: Form,
    target: &mut Target,
) -> anyhow::Result<()> {
    let format = match form {
        Form::Csv => ExportFormat::Csv,
        Form::Jsonl => ExportFormat::Jsonl,
    };
    let pages = label_pages(house.store.clone(), project, format, false);
    pin_mut!(pages);
    while let Some(page) = pages.next().await {
        target.write(page?.to_vec()).await?;
    }
    Ok(())
}

async fn write_model(house: &House, id: ProjectId, target: &mut Target) -> anyhow::Result<()> {
    let found = {
        let mut connection = house.store.acquire().await?;
        let row =
            project::find(&mut connection, id).await?.context("the project was deleted a moment ago")?;
        match row.model_version {
            Some(version) => model::find(&mut connection, id, version).await?,
            None => None,
        }
    };
    let Some(found) = found else {
        bail!("the project has trained no model yet; its first one comes after the first batch")
    };
    target.write(house.blob.get(&found.checkpoint).await?).await
}
