//! Items: the split they belong to and why one may not be asked.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which part of a project an item belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// May be asked.
    Pool,
    /// Labelled, kept aside to evaluate models.
    Test,
}

impl Split {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Test => "test",
        }
    }
}

/// Why an item left the pool for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// A labeler found the image broken.
    Broken,
    /// A labeler found that no class fits.
    NotInClasses,
}

impl Exclusion {
    /// The name that stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::NotInClasses => "not_in_classes",
        }
    }
}
