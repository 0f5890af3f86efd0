//! What an import is asked to do and how it stands.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::item::Split;

/// The shape of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ImportFormat {
    /// Recognised from names and first bytes.
    #[default]
    Auto,
    /// A folder: images, or one folder a class, or train and test folders of those.
    Folder,
    /// A zip archive of such a folder.
    Zip,
    /// A tar archive of such a folder, plain or gzipped.
    Tar,
    /// IDX image and label files (MNIST, Fashion-MNIST), plain or gzipped.
    Idx,
    /// CIFAR-10 binary batches.
    Cifar,
    /// Label Studio's task JSON, whose images lie elsewhere.
    #[value(name = "label_studio", alias = "label-studio")]
    LabelStudio,
}

impl ImportFormat {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Folder => "folder",
            Self::Zip => "zip",
            Self::Tar => "tar",
            Self::Idx => "idx",
            Self::Cifar => "cifar",
            Self::LabelStudio => "label_studio",
        }
    }
}

/// Which part of a source is taken, and where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// Train and test names are honoured; a source without them is a pool.
    #[default]
    Auto,
    /// Only what belongs to the pool, or all if the source isn't split.
    Pool,
    /// Only what belongs to the test split, or all if the source isn't split.
    Test,
}

impl SplitRule {
    /// The split of an entry whose source says `named` (`None`: the source isn't split); `None` when it isn't taken.
    #[must_use]
    pub fn admit(self, named: Option<Split>) -> Option<Split> {
        match (self, named) {
            (Self::Auto, split) => Some(split.unwrap_or(Split::Pool)),
            (Self::Pool, None | Some(Split::Pool)) => Some(Split::Pool),
            (Self::Test, None | Some(Split::Test)) => Some(Split::Test),
            (Self::Pool, Some(Split::Test)) | (Self::Test, Some(Split::Pool)) => None,
        }
    }

    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pool => "pool",
            Self::Test => "test",
        }
    }
}

/// What happens to the classes that a source knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LabelRule {
    /// They become labels of the items.
    Keep,
    /// They are not stored at all; test items keep theirs, since an unlabelled test split evaluates nothing.
    #[default]
    Hide,
}

impl LabelRule {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Hide => "hide",
        }
    }
}

/// Where an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    /// Waits for a worker.
    Queued,
    /// A worker reads it.
    Running,
    /// All of it was read.
    Done,
    /// It ended with an error.
    Failed,
}

impl ImportState {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// One entry of a source that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    /// Path inside the source.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}
