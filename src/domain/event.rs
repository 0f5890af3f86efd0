//! Events: what happened, as clients and webhooks read it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened; the payload is a JSON object whose fields each variant names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum EventKind {
    /// `{name}`
    #[serde(rename = "project.created")]
    ProjectCreated,
    /// `{fields}`: names of the settings that changed.
    #[serde(rename = "project.changed")]
    ProjectChanged,
    /// `{from, to}`, and `reason` where `to` is `finished`
    #[serde(rename = "project.state_changed")]
    ProjectStateChanged,
    /// `{}`
    #[serde(rename = "project.paused")]
    ProjectPaused,
    /// `{}`
    #[serde(rename = "project.resumed")]
    ProjectResumed,
    /// `{}`
    #[serde(rename = "project.deleted")]
    ProjectDeleted,
    /// `{import, state, read_count, added_count}`
    #[serde(rename = "import.ended")]
    ImportEnded,
    /// `{round, task_count, strategy, model_version}`
    #[serde(rename = "round.opened")]
    RoundOpened,
    /// `{round, from, to}`
    #[serde(rename = "round.state_changed")]
    RoundStateChanged,
    /// `{label, task, item, round, class, labeler}`
    #[serde(rename = "label.accepted")]
    LabelAccepted,
    /// `{label, task, item, round, class, labeler}`
    #[serde(rename = "label.corrected")]
    LabelCorrected,
    /// `{label, task, item, round, labeler}`
    #[serde(rename = "label.undone")]
    LabelUndone,
    /// `{labeler, person, label_count, asked_again_count}`
    #[serde(rename = "labels.set_aside")]
    LabelsSetAside,
    /// `{task, item, round, reason, labeler}`
    #[serde(rename = "task.skipped")]
    TaskSkipped,
    /// `{version, round, test_accuracy}`
    #[serde(rename = "model.published")]
    ModelPublished,
    /// `{job, kind, error}`
    #[serde(rename = "job.failed")]
    JobFailed,
    /// `{webhook, reason}`: it sends no events until somebody enables it.
    #[serde(rename = "webhook.disabled")]
    WebhookDisabled,
}

impl EventKind {
    /// The dotted name that stands in the database, in SSE's `event:` and in webhooks.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProjectCreated => "project.created",
            Self::ProjectChanged => "project.changed",
            Self::ProjectStateChanged => "project.state_changed",
            Self::ProjectPaused => "project.paused",
            Self::ProjectResumed => "project.resumed",
            Self::ProjectDeleted => "project.deleted",
            Self::ImportEnded => "import.ended",
            Self::RoundOpened => "round.opened",
            Self::RoundStateChanged => "round.state_changed",
            Self::LabelAccepted => "label.accepted",
            Self::LabelCorrected => "label.corrected",
            Self::LabelUndone => "label.undone",
            Self::LabelsSetAside => "labels.set_aside",
            Self::TaskSkipped => "task.skipped",
            Self::ModelPublished => "model.published",
            Self::JobFailed => "job.failed",
            Self::WebhookDisabled => "webhook.disabled",
        }
    }
}
