//! A project's name, classes and life cycle.
//!
//! `ProjectState::after` is the one table of what may follow what (API.md, "Meanings"); the store writes only what it allows.
//! `failed` isn't a state: it is derived from a failed job, so that `retry` finds the stored state unchanged. Paused is a flag.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::field_error::FieldError;

/// A project's name: 1 to 100 of letters, digits, `.`, `_` and `-`, begins with a letter or digit, and is no UUID (which would be an id).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(transparent)]
pub struct ProjectName(String);

impl ProjectName {
    /// Parses a name; the error says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_right = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if !starts_right || text.len() > 100 || !text.chars().all(plain) {
            return Err(FieldError::new(
                "name",
                "must be 1 to 100 letters, digits, '.', '_' or '-', and begin with a letter or digit",
            ));
        }
        if Uuid::parse_str(text).is_ok() {
            return Err(FieldError::new("name", "must not be a UUID, since an id could not be told from it"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The index of a class within its project, 0 to C − 1; it never changes, so it is the model's output index too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ClassIndex(pub u16);

/// Largest number of classes in a project.
pub const CLASS_COUNT_MAX: usize = 10_000;

/// Checks a list of class names: 2 to 10000, each 1 to 200 characters without control characters, no two alike.
#[must_use]
pub fn validate_class_names(names: &[String]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !(2..=CLASS_COUNT_MAX).contains(&names.len()) {
        errors.push(FieldError::new("classes", format!("must be 2 to {CLASS_COUNT_MAX} names")));
    }
    let mut seen = std::collections::HashSet::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("classes.{index}");
        if name.trim().is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
            errors.push(FieldError::new(field, "must be 1 to 200 characters without control characters"));
        } else if !seen.insert(name) {
            errors.push(FieldError::new(field, format!("'{name}' stands twice")));
        }
    }
    errors
}

/// Where a project stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectState {
    /// No items yet.
    Empty,
    /// A first import runs.
    Importing,
    /// Has items, isn't started.
    Ready,
    /// Learns the pretext task, then opens the first batch.
    Pretraining,
    /// A batch is open for labels.
    Labeling,
    /// The batch is complete; a model trains on it.
    Training,
    /// The pool is scored and the next batch chosen.
    Scoring,
    /// Budget or pool is used up, or the operator ended it.
    Finished,
}

/// Why a project ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The budget buys no further task.
    Budget,
    /// Every item is labelled, excluded or resting.
    Pool,
    /// The target accuracy is reached with confidence.
    Target,
    /// The last rounds brought no gain.
    Plateau,
    /// The operator ended it.
    Operator,
}

impl FinishReason {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Pool => "pool",
            Self::Target => "target",
            Self::Plateau => "plateau",
            Self::Operator => "operator",
        }
    }
}

/// What moves a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProjectEvent {
    /// An import began.
    ImportStarted,
    /// The last running import ended and left at least one pool item.
    ImportEndedWithItems,
    /// The last running import ended and the pool is still empty.
    ImportEndedEmpty,
    /// The operator started the project, or reopened it after raising the budget.
    Started,
    /// A batch was opened.
    BatchOpened,
    /// Every slot of the batch is closed, or imported labels cover every class before the first batch.
    BatchCompleted,
    /// A model was trained, evaluated and published, and another batch may follow.
    ModelPublished,
    /// A finished project was reopened with its model still valid.
    Reopened,
    /// Nothing more can be asked, or the operator ended the project.
    Ended,
}

impl ProjectState {
    /// Every state, in the order of a project's life.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Importing,
        Self::Ready,
        Self::Pretraining,
        Self::Labeling,
        Self::Training,
        Self::Scoring,
        Self::Finished,
    ];

    /// The state after `event`, or `None` when the event can't happen here.
    #[must_use]
    pub fn after(self, event: ProjectEvent) -> Option<Self> {
        use ProjectEvent as E;
        use ProjectState as S;
        match (self, event) {
            (S::Empty | S::Importing | S::Ready, E::ImportStarted) => Some(S::Importing),
            (S::Importing, E::ImportEndedWithItems) => Some(S::Ready),
            (S::Importing, E::ImportEndedEmpty) => Some(S::Empty),
            // After the start, imports add to the pool without changing the state.
            (
                S::Pretraining | S::Labeling | S::Training | S::Scoring | S::Finished,
                E::ImportStarted | E::ImportEndedWithItems | E::ImportEndedEmpty,
            ) => Some(self),
            (S::Ready, E::Started) => Some(S::Pretraining),
            (S::Pretraining | S::Scoring, E::BatchOpened) => Some(S::Labeling),
            (S::Pretraining | S::Labeling, E::BatchCompleted) => Some(S::Training),
            (S::Training, E::ModelPublished) => Some(S::Scoring),
            (S::Finished, E::Reopened) => Some(S::Scoring),
            (S::Pretraining | S::Labeling | S::Training | S::Scoring, E::Ended) => Some(S::Finished),
            _ => None,
        }
    }

    /// Whether the project has been started and so froze seed, image, backbone and pretext.
    #[must_use]
    pub fn is_started(self) -> bool {
        !matches!(self, Self::Empty | Self::Importing | Self::Ready)
    }

    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Importing => "importing",
            Self::Ready => "ready",
            Self::Pretraining => "pretraining",
            Self::Labeling => "labeling",
            Self::Training => "training",
            Self::Scoring => "scoring",
            Self::Finished => "finished",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [ProjectEvent; 9] = [
        ProjectEvent::ImportStarted,
        ProjectEvent::ImportEndedWithItems,
        ProjectEvent::ImportEndedEmpty,
        ProjectEvent::Started,
        ProjectEvent::BatchOpened,
        ProjectEvent::BatchCompleted,
        ProjectEvent::ModelPublished,
        ProjectEvent::Reopened,
        ProjectEvent::Ended,
    ];

    #[test]
    fn the_table_of_states_and_events_is_as_reviewed() {
        let mut table = String::new();
        for state in ProjectState::ALL {
            for event in EVENTS {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{} + {event:?} -> {}\n", state.as_str(), next.as_str()));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_name_that_could_be_an_id_or_break_a_path_is_refused() {
        for bad in ["", "-x", "a/b", "a b", "ä", "0190163d-8694-739b-aea5-966c26f8ad90", &"x".repeat(101)] {
            assert!(ProjectName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ProjectName::parse("fashion-mnist").expect("a plain name").as_str(), "fashion-mnist");
    }

    #[test]
    fn two_classes_alike_are_named() {
        let names = ["bag".to_owned(), "shirt".to_owned(), "bag".to_owned()];
        let errors = validate_class_names(&names);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].detail.contains("bag"));
    }
}
