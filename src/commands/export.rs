//! `gleaner export`: labels, tasks, predictions or a model to a file, a folder or standard output, without HTTP.

mod folder;
mod label_studio;
mod rows;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt, pin_mut};

use super::house::{Entry, House};
use super::token::find_project;
use crate::config::Config;
use crate::domain::ids::ProjectId;
use crate::export::Form;
use crate::http::v1::exports::{LabelForm, label_pages};
use crate::store::class::ClassNames;
use crate::store::project::ProjectRow;
use crate::store::{model, project};
use target::Target;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Content {
    /// Accepted labels that weren't undone
    Labels,
    /// What the published model thinks of every image that has no label yet
    Predictions,
    /// Every image that was asked, with all that led to its being asked
    Tasks,
    /// Weights of the published model, safetensors with torchvision's key names
    Model,
}

/// The form of what is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
    /// Apache Parquet
    Parquet,
    /// The pool as tasks for Label Studio to import, with labels and the guesses of the last ranking; of predictions, the published model's
    LabelStudio,
    /// The labelled images themselves, a folder for each class (labels only; --out names the folder)
    Folder,
}

impl Format {
    fn form(self) -> anyhow::Result<Form> {
        match self {
            Self::Csv => Ok(Form::Csv),
            Self::Jsonl => Ok(Form::Jsonl),
            Self::Parquet => Ok(Form::Parquet),
            Self::LabelStudio => bail!("a model can't be written as tasks"),
            Self::Folder => {
                bail!("only labels can be written as a folder of images; choose csv, jsonl or parquet")
            }
        }
    }
}

#[derive(Args, Debug)]
pub struct Arguments {
    /// Name or id of the project
    project: String,
    /// What to write
    #[arg(long, value_enum, default_value = "labels")]
    what: Content,
    /// Form of labels, predictions and tasks
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// File to write, standard output when absent; the folder of `--format folder`
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
    if (arguments.what, arguments.format) == (Content::Labels, Format::Folder) {
        let folder = arguments.out.as_deref().context("--format folder needs --out, the folder to write")?;
        return folder::write(house, project, folder).await;
    }
    if arguments.format == Format::LabelStudio && arguments.what != Content::Model {
        let mut target = Target::open(arguments.out.as_deref()).await?;
        label_studio::write(house, project, arguments.what == Content::Predictions, &mut target).await?;
        return target.close().await;
    }
    // Asked before a file is made, so that a refusal leaves none.
    let form = arguments.format.form();
    let form = if arguments.what == Content::Model { Form::Csv } else { form? };
    let mut target = Target::open(arguments.out.as_deref()).await?;
    match arguments.what {
        Content::Labels => write_labels(house, project, form, &mut target).await?,
        Content::Predictions => rows::write_predictions(house, project, form, &mut target).await?,
        Content::Tasks => rows::write_tasks(house, project, form, &mut target).await?,
        Content::Model => write_model(house, project, &mut target).await?,
    }
    target.close().await
}

async fn write_labels(
    house: &House,
    project: ProjectId,
    form: Form,
    target: &mut Target,
) -> anyhow::Result<()> {
    let pages = label_pages(house.store.clone(), project, LabelForm::Table(form), false)?;
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

/// The project and the names of its classes.
async fn read_project(house: &House, id: ProjectId) -> anyhow::Result<(ProjectRow, ClassNames)> {
    let mut connection = house.store.acquire().await?;
    let row = project::find(&mut connection, id).await?.context("the project was deleted a moment ago")?;
    Ok((row, ClassNames::read(&mut connection, id).await?))
}
