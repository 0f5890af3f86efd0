//! `gleaner demo`: a server on a real data set, from nothing to the first open batch.
//!
//! It starts the service as `serve` does and then is a client of its own API: it makes the project, imports pool and test split, starts it,
//! shows the progress and prints a link that signs the labelling page in. Run again it goes on where it was. The answers that the data set knows are
//! written beside the data for `gleaner answer`; the service itself never sees them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dataset::Dataset;
use super::house::{Entry, House};
use super::progress::Progress;
use super::service::{ServeRole, Service};
use super::stop_asked;
use crate::config::Config;
use crate::outbound::ApiClient;

/// How often the project is asked how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct Arguments {
    /// fashion-mnist, cifar10, or a folder or archive with a folder for each class
    #[arg(long, default_value = "fashion-mnist")]
    dataset: String,
    /// Where the data set lies [default for fashion-mnist: Debian's package]
    #[arg(long)]
    source: Option<std::path::PathBuf>,
    /// Open the first batch within two minutes on two cores: one random rotation of each image, and rounds that train the head alone
    #[arg(long)]
    fast: bool,
    /// What may be spent in all, one a label
    #[arg(long, default_value_t = 500)]
    budget: u32,
    /// Images asked in a round
    #[arg(long, default_value_t = 100)]
    batch_size: u32,
}

/// What is needed of a project's answer.
#[derive(Debug, Deserialize)]
struct ProjectAnswer {
    state: String,
    error: Option<String>,
    progress: Option<ProgressAnswer>,
}

#[derive(Debug, Deserialize)]
struct ProgressAnswer {
    job: String,
    done: u64,
    total: u64,
}

/// Serves the data set until the process is asked to stop.
pub async fn run(mut config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let dataset = Dataset::find(&arguments.dataset, arguments.source.as_deref())?;
    // The service imports from its own machine; only what the person named is opened to it.
    config.import_roots.push(dataset.source.display().to_string());
    let house = House::open(config, Entry::Start).await?;
    let service = Service::start(&house, ServeRole::All).await?;
    let outcome = tokio::select! {
        prepared = prepare(&house, &service, &dataset, &arguments) => prepared,
        stopped = stop_asked() => Err(stopped.err().map_or_else(|| anyhow::anyhow!("stopped before the first batch was open; run the same command to go on"), Into::into)),
    };
    if outcome.is_ok() {
        service.run_until(&house, stop_asked()).await?;
    }
    tracing::info!("stopping: requests end, jobs reach a checkpoint");
    service.stop().await;
    house.close().await?;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

async fn prepare(
    house: &House,
    service: &Service,
    dataset: &Dataset,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let answers = house.config.home.join(format!("{}.answers.csv", dataset.project));
    let known = dataset.clone();
    let target = answers.clone();
    let count = tokio::task::spawn_blocking(move || known.write_answers(&target))
        .await
        .context("writing the answers")??;
    let token = admin_token(house)?;
    let api = ApiClient::new(&format!("http://{}", service.address), &token)?;
    let path = format!("/projects/{}", dataset.project);
    let known = api.get::<Value>("/projects?limit=200").await?;
    let exists = known["items"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["name"] == dataset.project.as_str()));
    if !exists {
        api.post::<Value>("/projects", &settings(dataset, arguments)).await?;
    }
    let project: ProjectAnswer = api.get(&path).await?;
    if matches!(project.state.as_str(), "empty" | "importing" | "ready") {
        import(&api, &path, dataset).await?;
        start(&api, &path).await?;
    }
    await_first_batch(&api, &path).await?;
    let link = service.login_link(&house.config.public_url, &format!("/label/{}", dataset.project))?;
    println!("\nThe first batch is open. Label it here (the link signs in once):\n\n  {link}\n");
    println!("Watch the rounds: {}/projects/{}", house.config.public_url, dataset.project);
    println!("Token for tools:  {}", house.config.home.join("admin.token").display());
    if count > 0 {
        println!("Let {count} known answers label instead, from another terminal:\n");
        println!("  gleaner answer {} --answers {}\n", dataset.project, answers.display());
    }
    println!("Ctrl-C stops; the same command goes on where it was.");
    Ok(())
}

fn admin_token(house: &House) -> anyhow::Result<String> {
    if let Some(secret) = &house.config.admin_token {
        return Ok(secret.expose().to_owned());
    }
    let path = house.config.home.join("admin.token");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
    Ok(text.trim().to_owned())
}

fn settings(dataset: &Dataset, arguments: &Arguments) -> Value {
    let (rotations, epochs, mode) =
        if arguments.fast { (1, 1, "head") } else { (4, dataset.pretext_epochs, "full") };
    json!({
        "name": dataset.project, "classes": dataset.classes, "image": dataset.image,
        "pretext": {"kind": "rotation", "epochs": epochs, "rotations_per_image": rotations},
        "fine_tune": {"mode": mode},
        // Over the whole pool `v` tells classes apart (a bag looks alike upside down), so its ranks are taken within the predicted class.
        "strategy": {"kind": "deep_active", "lambda": 1.0, "normalization": "class_rank", "uncertainty": "margin"},
        "budget": arguments.budget, "batch_size": arguments.batch_size,
    })
}

async fn import(api: &ApiClient, path: &str, dataset: &Dataset) -> anyhow::Result<()> {
    let mut parts = vec![("pool", "hide")];
    if dataset.has_test_split {
        parts.push(("test", "keep"));
    }
    for (split, labels) in parts {
        let mut progress = Progress::begin(&format!("importing the {split} split"));
        let body = json!({"source": dataset.source, "format": "auto", "split": split, "labels": labels});
        let import: Value = api.post(&format!("{path}/imports"), &body).await?;
        let id = import["id"].as_str().context("the import's id")?.to_owned();
        let mut clock = tokio::time::interval(LOOK_INTERVAL);
        loop {
            clock.tick().await;
            let row: Value = api.get(&format!("{path}/imports/{id}")).await?;
            progress.set(row["read_count"].as_u64().unwrap_or_default(), 0);
            match row["state"].as_str() {
                Some("done") => {
                    let count = |name: &str| row[name].as_u64().unwrap_or_default();
                    progress.end(&format!(
                        "{} added ({} of them converted to the project's channels), {} duplicates",
                        count("added_count"),
                        count("converted_count"),
                        count("duplicate_count")
                    ));
                    break;
                }
                Some("failed") => {
                    bail!("the import failed: {}", row["error"].as_str().unwrap_or("no reason was kept"))
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Starts the project once the supervisor has seen that no import runs any more.
async fn start(api: &ApiClient, path: &str) -> anyhow::Result<()> {
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    loop {
        clock.tick().await;
        let project: ProjectAnswer = api.get(path).await?;
        match project.state.as_str() {
            "importing" => {}
            "ready" => {
                api.post::<Value>(&format!("{path}/start"), &json!({})).await?;
                return Ok(());
            }
            "empty" => bail!(
                "the source holds no image that could be read; the import's report names each with its reason"
            ),
            _ => return Ok(()),
        }
    }
}

async fn await_first_batch(api: &ApiClient, path: &str) -> anyhow::Result<()> {
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    let mut shown: Option<(String, Progress)> = None;
    loop {
        clock.tick().await;
        let project: ProjectAnswer = api.get(path).await?;
        if project.state == "failed" {
            bail!("the project failed: {}", project.error.unwrap_or_else(|| "see the log".to_owned()));
        }
        if project.state != "pretraining" {
            if let Some((_, progress)) = shown {
                progress.end("done");
            }
            return Ok(());
        }
        let Some(now) = project.progress else { continue };
        if shown.as_ref().is_none_or(|(job, _)| *job != now.job) {
            if let Some((_, progress)) = shown.take() {
                progress.end("done");
            }
            let progress = Progress::begin(match now.job.as_str() {
                "pretrain" => "learning the pile by itself",
                "embed" => "measuring every image",
                _ => "choosing the first batch",
            });
            shown = Some((now.job.clone(), progress));
        }
        if let Some((_, progress)) = &mut shown {
            progress.set(now.done, now.total);
        }
    }
}
