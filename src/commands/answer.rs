//! `gleaner answer`: labels open tasks from known answers through the REST API, as an external tool would.
//!
//! Several labelers, each with a token of its own, lease batches, look up the names of their items and submit the classes that a CSV file
//! (`item name,class`) knows. With an error rate some answers are wrong on purpose; which ones depends on seed and name alone.

mod answers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::progress::Progress;
use crate::config::Config;
use crate::outbound::ApiClient;
use answers::{Answer, Answers, shorten};

/// Tasks that a labeler leases at once.
const BATCH_COUNT: u32 = 10;

/// Flags of the command.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Name or id of the project
    project: String,
    /// CSV file of `item name,class`, with or without a header
    #[arg(long, value_name = "FILE.csv")]
    answers: PathBuf,
    /// Rounds to answer, the one under way included [default: until the project is finished]
    #[arg(long)]
    rounds: Option<u32>,
    /// Fraction of answers that are wrong on purpose, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    error_rate: f64,
    /// Seed that decides which answers are wrong
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Labelers that work side by side, 1 to 64
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    labelers: u32,
    /// Address of the server [default: the public URL]
    #[arg(long)]
    url: Option<String>,
    /// Token to call with [default: the admin token of this home]
    #[arg(long, env = "GLEANER_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Answers until the rounds are done or the project is finished, and prints what was done.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if !(0.0..=1.0).contains(&arguments.error_rate) {
        bail!("--error-rate {} must be 0 to 1", arguments.error_rate);
    }
    let token = find_token(&config, arguments.token.as_deref())?;
    let api = ApiClient::new(arguments.url.as_deref().unwrap_or(&config.public_url), &token)?;
    let path = format!("/projects/{}", arguments.project);
    let project: Project = api.get(&path).await?;
    let classes = project.classes.iter().map(|class| class.name.clone()).collect();
    let answers = Answers::read(&arguments.answers, classes, arguments.error_rate, arguments.seed)?;
    if let Some(warning) = answers.check_classes(&arguments.answers)? {
        eprintln!("{warning}");
    }
    let answers = Arc::new(answers);
    let last_round = arguments.rounds.map(|count| project.first_open_round() + i64::from(count) - 1);
    let tally = Arc::new(Tally::default());

    // Listens from before there is anything to hand back.
    let stop = tokio::spawn(super::stop_asked());
    let tokens = labeler_tokens(&api, &project, arguments.labelers).await?;
    let mut labelers = JoinSet::new();
    for index in 0..arguments.labelers as usize {
        let labeler = Labeler {
            api: tokens.get(index).map_or_else(|| api.clone(), |minted| api.with_token(&minted.token)),
            path: path.clone(),
            answers: Arc::clone(&answers),
            tally: Arc::clone(&tally),
            last_round,
        };
        labelers.spawn(labeler.work());
    }
    let outcome = tokio::select! {
        outcome = show_progress(&api, &path, &mut labelers, &tally) => outcome,
        asked = stop => match asked? {
            Ok(()) => Err(anyhow::anyhow!("stopped before the end, {} labels were accepted", tally.accepted())),
            Err(error) => Err(error.into()),
        },
    };
    labelers.shutdown().await;
    hand_back(&api, &path, &tokens).await?;
    outcome?;
    let project: Project = api.get(&path).await?;
    println!("{}", tally.summary(&project));
    Ok(ExitCode::SUCCESS)
}

/// The token of the flag, of the environment, or of this home.
fn find_token(config: &Config, given: Option<&str>) -> anyhow::Result<String> {
    if let Some(token) = given {
        return Ok(token.to_owned());
    }
    if let Some(secret) = &config.admin_token {
        return Ok(secret.expose().to_owned());
    }
    let path = config.home.join("admin.token");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("no token: give --token, or run as the user of the server ({} can't be read)", path.display())
    })?;
    Ok(text.trim().to_owned())
}

/// What is needed of a project's answer.
#[derive(Deserialize)]
struct Project {
    id: String,
    state: String,
    error: Option<String>,
    round: Option<Round>,
    classes: Vec<Class>,
    labeled_count: u64,
    spent: f64,
    test_accuracy: Option<f64>,
}

#[derive(Deserialize)]
struct Round {
    number: i64,
    state: String,
    answered_count: u64,
    task_count: u64,
}

#[derive(Deserialize)]
struct Class {
    name: String,
}

impl Project {
    /// The round under way if it takes labels, else the next.
    fn first_open_round(&self) -> i64 {
        match &self.round {
            Some(round) if round.state == "labeling" => round.number,
            Some(round) => round.number + 1,
            None => 1,
        }
    }
}

/// A token made for one labeler of this run.
#[derive(Deserialize)]
struct MintedToken {
    id: String,
    token: String,
}

/// A token for each labeler when the caller may make some; none when it may not, and then all share the caller's.
async fn labeler_tokens(api: &ApiClient, project: &Project, count: u32) -> anyhow::Result<Vec<MintedToken>> {
    let me: Value = api.get("/me").await?;
    if me["role"] != "admin" {
        return Ok(Vec::new());
    }
    let mut tokens = Vec::new();
    for number in 1..=count {
        let request =
            json!({"role": "labeler", "name": format!("answer-{number}"), "projects": [project.id]});
        tokens.push(api.post("/tokens", &request).await?);
    }
    Ok(tokens)
}

/// Gives back what the labelers still hold, and revokes their tokens: whatever happened, neither stays behind.
async fn hand_back(api: &ApiClient, path: &str, tokens: &[MintedToken]) -> anyhow::Result<()> {
    let release = format!("{path}/leases/release");
    if tokens.is_empty() {
        let _: Value = api.post(&release, &json!({})).await?;
    }
    for minted in tokens {
        let _: Value = api.with_token(&minted.token).post(&release, &json!({})).await?;
        api.delete(&format!("/tokens/{}", minted.id)).await?;
    }
    Ok(())
}

/// What all labelers have done so far.
#[derive(Default)]
struct Tally {
    accepted_count: AtomicU64,
    refused_count: AtomicU64,
    unknown_names: Mutex<Vec<String>>,
    unknown_class_count: AtomicU64,
}

impl Tally {
    fn accepted(&self) -> u64 {
        self.accepted_count.load(Ordering::Relaxed)
    }

    fn summary(&self, project: &Project) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let unknown_names = self.unknown_names.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown: Vec<&str> = unknown_names.iter().map(String::as_str).collect();
        let listed = if unknown.is_empty() { String::new() } else { format!(": {}", shorten(&unknown)) };
        let accuracy =
            project.test_accuracy.map_or_else(|| "unknown".to_owned(), |accuracy| format!("{accuracy:.4}"));
        format!(
            "{} labels accepted, {} not taken, {} skipped (name unknown{listed}), {} skipped (class unknown)\n\
             project {}: {} items labelled, {} spent, test accuracy {accuracy}",
            self.accepted(),
            read(&self.refused_count),
            unknown.len(),
            read(&self.unknown_class_count),
            project.state,
            project.labeled_count,
            project.spent,
        )
    }
}

#[derive(Deserialize)]
struct Leases {
    tasks: Vec<Task>,
    wait: Option<Wait>,
}

#[derive(Deserialize)]
struct Task {
    task: String,
    item: String,
    round: i64,
    attempt: i64,
}

#[derive(Deserialize)]
struct Wait {
    reason: String,
    retry_after_seconds: u64,
}

/// One labeler at work.
struct Labeler {
    api: ApiClient,
    path: String,
    answers: Arc<Answers>,
    tally: Arc<Tally>,
    last_round: Option<i64>,
}

impl Labeler {
    /// Leases and answers until nothing more is wanted.
    async fn work(self) -> anyhow::Result<()> {
        loop {
            let leases: Leases = self
                .api
                .post(&format!("{}/leases", self.path), &json!({"count": BATCH_COUNT, "resume": true}))
                .await?;
            let (wanted, later): (Vec<_>, Vec<_>) = leases
                .tasks
                .into_iter()
                .partition(|task| self.last_round.is_none_or(|last| task.round <= last));
            let is_past_last_round = !later.is_empty();
            if is_past_last_round {
                self.release(&later).await?;
            }
            if !wanted.is_empty() {
                self.answer(&wanted).await?;
            } else if is_past_last_round || self.is_done().await? {
                return Ok(());
            } else if let Some(wait) = leases.wait {
                if wait.reason == "finished" {
                    return Ok(());
                }
                // The service says when asking again may help; there is nothing to be told of meanwhile.
                tokio::time::sleep(Duration::from_secs(wait.retry_after_seconds.max(1))).await;
            }
        }
    }

    /// Whether the last wanted round is answered, or the project can't go on by itself.
    async fn is_done(&self) -> anyhow::Result<bool> {
        let project: Project = self.api.get(&self.path).await?;
        if project.state == "failed" {
            bail!("a job of the project failed: {}", project.error.as_deref().unwrap_or("no reason given"));
        }
        let Some(last) = self.last_round else {
            return Ok(project.state == "finished");
        };
        let is_past = project.round.is_some_and(|round| {
            let is_answered = round.state != "labeling" || round.answered_count >= round.task_count;
            round.number > last || (round.number == last && is_answered)
        });
        Ok(is_past || project.state == "finished")
    }

    async fn release(&self, tasks: &[Task]) -> anyhow::Result<()> {
        let ids: Vec<_> = tasks.iter().map(|task| &task.task).collect();
        let _: Value =
            self.api.post(&format!("{}/leases/release", self.path), &json!({"tasks": ids})).await?;
        Ok(())
    }

    async fn answer(&self, tasks: &[Task]) -> anyhow::Result<()> {
        let mut labels = Vec::new();
        for task in tasks {
            let item: Value = self.api.get(&format!("/items/{}", task.item)).await?;
            let name = item["name"].as_str().unwrap_or_default();
            match self.answers.of(name) {
                Answer::Class(class) => {
                    labels.push(json!({"task": task.task, "class": class, "attempt": task.attempt}));
                }
                Answer::Skip(reason) => self.skip(task, name, reason).await?,
            }
        }
        if labels.is_empty() {
            return Ok(());
        }
        let submitted: Value =
            self.api.post(&format!("{}/labels", self.path), &json!({"labels": labels})).await?;
        for result in submitted["results"].as_array().into_iter().flatten() {
            let count = match result["outcome"].as_str() {
                Some("accepted" | "duplicate") => &self.tally.accepted_count,
                _ => &self.tally.refused_count,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn skip(&self, task: &Task, name: &str, reason: &str) -> anyhow::Result<()> {
        let path = format!("{}/tasks/{}/skip", self.path, task.task);
        let _: Value = self.api.post(&path, &json!({"reason": reason})).await?;
        if reason == "unsure" {
            self.tally.unknown_names.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        } else {
            self.tally.unknown_class_count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Shows the round's progress until every labeler has ended; the first error ends all.
async fn show_progress(
    api: &ApiClient,
    path: &str,
    labelers: &mut JoinSet<anyhow::Result<()>>,
    tally: &Tally,
) -> anyhow::Result<()> {
    let mut progress = Progress::begin("answering");
    let mut look = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            ended = labelers.join_next() => match ended {
                None => break,
                Some(result) => result.context("a labeler stopped")??,
            },
            _ = look.tick() => {
                let project: Project = api.get(path).await?;
                if let Some(round) = project.round {
                    progress.set(round.answered_count, round.task_count);
                }
            }
        }
    }
    progress.end(&format!("{} labels accepted", tally.accepted()));
    Ok(())
}
