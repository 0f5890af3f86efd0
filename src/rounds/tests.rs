//! The course of projects against a real Postgres, driven by calling `tick`; the bodies of jobs are played by `Driver::run_job`.

mod batches;
mod blind;
mod commands;
mod concurrency;
mod jobs;
mod stopping;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use super::request::*;
use super::*;
use crate::domain::ids::{ItemId, LabelId, TaskId, TokenId};
use crate::domain::job::JobKind;
use crate::domain::project::{ClassIndex, ProjectState};
use crate::domain::settings::ProjectSettings;
use crate::domain::task::SkipReason;
use crate::labeling::testing::{CLASSES, House, submission};
use crate::labeling::{Actor, skip_task, undo_label};
use crate::store::job::{self, JobRow};
use crate::store::model::{self, NewModel};
use crate::store::task::Suggestion;
use crate::store::{Store, pool, round};

const ALL_KINDS: [JobKind; 8] = [
    JobKind::Import,
    JobKind::Pretrain,
    JobKind::Embed,
    JobKind::PretextLoss,
    JobKind::Train,
    JobKind::Score,
    JobKind::Select,
    JobKind::Audit,
];

struct Driver {
    house: House,
    ana: TokenId,
    /// Of the models to come, on 10,000 test items; without any they have no test split.
    accuracies: Mutex<VecDeque<f64>>,
}

impl Driver {
    /// A ready project of `item_count` items.
    async fn new(item_count: usize, settings: ProjectSettings) -> Self {
        let house = House::build(ProjectState::Ready, item_count, settings).await;
        let ana = house.labeler("ana").await;
        Self { house, ana, accuracies: Mutex::default() }
    }

    fn store(&self) -> &Store {
        self.house.store()
    }

    async fn state(&self) -> ProjectState {
        self.house.row().await.state
    }

    async fn start(&self) -> Result<(), control::ControlError> {
        let row = self.house.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        control::start(&mut transaction, &row).await?;
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn control(&self, what: &str) -> Result<(), control::ControlError> {
        let row = self.house.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        match what {
            "pause" => control::pause(&mut transaction, &row).await?,
            "resume" => control::resume(&mut transaction, &row).await?,
            "finish" => control::finish(&mut transaction, &row).await?,
            "retry" => control::retry(&mut transaction, &row).await?,
            other => panic!("no command {other}"),
        }
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn settle(&self) {
        for _ in 0..50 {
            if tick(self.store(), self.house.project).await.unwrap() == TickOutcome::Idle {
                return;
            }
        }
        panic!("the project moves for ever");
    }

    async fn claim(&self) -> Option<JobRow> {
        let mut connection = self.store().acquire().await.unwrap();
        job::claim(&mut connection, &ALL_KINDS, "test", Duration::from_secs(60)).await.unwrap()
    }

    /// Takes one job and plays its body; false when none is handed out.
    async fn run_job(&self) -> bool {
        let Some(job) = self.claim().await else {
            return false;
        };
        self.play(&job).await;
        true
    }

    async fn play(&self, job: &JobRow) {
        let project = self.house.project;
        let mut transaction = self.store().begin().await.unwrap();
        let outcome = match job.kind {
            JobKind::Pretrain => {
                let manifest = serde_json::json!({});
                model::publish_pretext(&mut transaction, project, "pretext", &manifest, job.id)
                    .await
                    .unwrap();
                manifest
            }
            JobKind::Embed | JobKind::PretextLoss | JobKind::Score => {
                to_json(&ShardOutcome { key: Some(job.subject.clone()), item_count: 1 })
            }
            JobKind::Train => {
                let request: TrainRequest = from_json("request", &job.request).unwrap();
                let test_accuracy = self.accuracies.lock().unwrap().pop_front();
                let version = model::next_version(&mut transaction, project).await.unwrap();
                let model = NewModel {
                    version,
                    round: request.round,
                    checkpoint: "model".to_owned(),
                    manifest: serde_json::json!({}),
                    test_accuracy,
                    test_count: if test_accuracy.is_some() { 10_000 } else { 0 },
                    label_count: request.labeled.len() as i32,
                    vote_count: request.vote_count,
                    job: job.id,
                };
                model::publish(&mut transaction, project, &model).await.unwrap();
                to_json(&TrainOutcome { version, test_accuracy })
            }
            JobKind::Select => {
                let request: SelectRequest = from_json("request", &job.request).unwrap();
                let candidates =
                    pool::list_candidates(&mut transaction, project, request.round).await.unwrap();
                // Every model guesses the same.
                let guess = Suggestion { class: ClassIndex(1), probability: 0.9 };
                let suggestions: Vec<_> = request.model_version.map(|_| guess).into_iter().collect();
                let mut choices = candidates.into_iter().map(|item| ChosenItem {
                    item: item.id,
                    score: Some(0.5),
                    uncertainty: None,
                    pretext_loss: None,
                    suggestions: suggestions.clone(),
                });
                let random = choices.by_ref().rev().take(request.random_count as usize).collect();
                let ranking = choices.take((request.query_count + request.spare_count) as usize).collect();
                to_json(&Selection { random, ranking })
            }
            JobKind::Audit => {
                let request: AuditRequest = from_json("request", &job.request).unwrap();
                to_json(&self.audit(&request))
            }
            JobKind::Import => panic!("no import is queued"),
        };
        assert!(job::finish(&mut transaction, job.id, job.attempt, &outcome).await.unwrap());
        transaction.commit().await.unwrap();
    }

    /// Suspects every labelled item of class 0, and guesses class 1 for every gold item.
    fn audit(&self, request: &AuditRequest) -> AuditOutcome {
        let suggestions = vec![Suggestion { class: ClassIndex(1), probability: 0.9 }];
        let suspect = |(item, class): &(ItemId, ClassIndex)| Suspect {
            item: *item,
            class: *class,
            suggested: ClassIndex(1),
            given_probability: 0.1,
            suggested_probability: 0.9,
            suggestions: suggestions.clone(),
        };
        let suspects = request.labeled.iter().filter(|(_, class)| class.0 == 0).map(suspect).collect();
        let guess = |item: &ItemId| GuessedItem { item: *item, suggestions: suggestions.clone() };
        AuditOutcome {
            round: request.round,
            item_count: request.labeled.len() as u64,
            out_of_fold_accuracy: 0.5,
            suspects,
            gold: request.gold.iter().map(guess).collect(),
            comparison: None,
        }
    }

    /// Ticks and plays jobs until only labels could move the project.
    async fn learn(&self) {
        loop {
            self.settle().await;
            if !self.run_job().await {
                return;
            }
        }
    }

    /// Starts the project and brings it to its first batch.
    async fn open_first(&self) {
        self.start().await.unwrap();
        self.learn().await;
        assert_eq!(self.state().await, ProjectState::Labeling);
    }

    async fn text(&self, sql: &'static str) -> String {
        let mut connection = self.store().acquire().await.unwrap();
        let text: Option<String> = sqlx::query_scalar(sql).fetch_one(&mut *connection).await.unwrap();
        text.unwrap_or_default()
    }
}

fn settings(batch_size: u32, budget: f64) -> ProjectSettings {
    ProjectSettings { batch_size, budget, ..Default::default() }
}
