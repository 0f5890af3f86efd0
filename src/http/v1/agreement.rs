//! How far labelers agree, how they do on gold, which labels are suspected, and setting a labeler's votes aside.
//!
//! For operators alone: it names gold answers and suspected items, which labelers and tools must not know.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::ids::{ItemId, LabelId, TokenId};
use crate::domain::interval::Interval;
use crate::domain::job::JobKind;
use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::{Path, Query, page_limit};
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem};
use crate::labeling::{self, AgreementReport, LabelerAgreement};
use crate::rounds::request::{AuditOutcome, Suspect, from_json};
use crate::store;
use crate::store::agreement::SuspectStanding;
use crate::store::class::ClassNames;

/// How far the labelers of a project agree, and what is suspected.
#[derive(Debug, Serialize, ToSchema)]
pub struct Agreement {
    /// Items that several people judged, gold left out.
    item_count: u64,
    /// Votes on them.
    vote_count: u64,
    /// Fleiss' κ; null while it isn't defined.
    fleiss_kappa: Option<f64>,
    /// Krippendorff's α; null while it isn't defined.
    krippendorff_alpha: Option<f64>,
    classes: Vec<ClassAnswer>,
    /// Most votes first.
    labelers: Vec<LabelerAnswer>,
    /// Pairs who judged the same items; empty with more than 30 labelers.
    pairs: Vec<PairAnswer>,
    /// What models that hadn't seen a label think of it; null before the first audit.
    audit: Option<AuditAnswer>,
    /// Items whose class is suspected and stands, the most suspicious first.
    suspected_errors: Vec<SuspectAnswer>,
}

/// How far labelers agree about a class.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClassAgreement)]
pub struct ClassAnswer {
    class: String,
    /// Votes for it on shared items.
    vote_count: u64,
    /// Krippendorff's α of this class against all others.
    krippendorff_alpha: Option<f64>,
}

/// How a labeler does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LabelerAgreement)]
pub struct LabelerAnswer {
    /// The token's id.
    labeler: TokenId,
    /// The person, when a tool labels for several.
    person: Option<String>,
    /// The token's name.
    name: String,
    /// Votes that count.
    vote_count: i64,
    /// Votes that were set aside.
    set_aside_count: i64,
    /// Items that others judged too.
    shared_count: u64,
    /// Cohen's κ against all others together.
    cohen_kappa: Option<f64>,
    /// How often it is right by the weighed votes (Dawid and Skene 1979); null while labelers don't repeat enough.
    estimated_accuracy: Option<f64>,
    /// Gold answers, those on items that it labelled itself left out.
    gold_count: i64,
    /// Of these, right ones per answer.
    gold_accuracy: Option<f64>,
    gold_interval: Option<Interval>,
}

/// How far two labelers agree.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PairAgreement)]
pub struct PairAnswer {
    first: VoterAnswer,
    second: VoterAnswer,
    /// Items that both judged.
    item_count: u64,
    cohen_kappa: Option<f64>,
}

/// A labeler of a pair.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Voter)]
pub struct VoterAnswer {
    /// The token's id.
    labeler: TokenId,
    /// The person, when a tool labels for several.
    person: Option<String>,
}

/// The last audit of labels.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditAnswer {
    /// The last round whose labels took part.
    round: i32,
    /// Labelled items that were judged.
    item_count: u64,
    /// How often a model that hadn't seen an item agreed with its class (linear on embeddings, five folds).
    out_of_fold_accuracy: f64,
}

/// An item whose class is suspected (confident learning, Northcutt et al. 2021).
#[derive(Debug, Serialize, ToSchema)]
pub struct SuspectAnswer {
    item: ItemId,
    /// Its path inside its source.
    name: String,
    /// The class it has.
    class: String,
    suggested_class: String,
    /// Probability of the class it has, by models that hadn't seen it.
    given_probability: f64,
    suggested_probability: f64,
    /// Whether a blind task asks or has asked for it again.
    asked_again: bool,
    /// The votes behind its class; with a single one, correcting it changes the class. Empty for an imported class.
    labels: Vec<LabelId>,
}

/// How much is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AgreementQuery {
    /// At most so many suspected items, 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Shows agreement by labeler and class, accuracy on gold, and suspected errors.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/agreement",
    operation_id = "get_agreement",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), AgreementQuery),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The agreement", body = Agreement),
    ),
)]
pub async fn get_agreement(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    Query(query): Query<AgreementQuery>,
) -> Result<axum::Json<Agreement>, ApiError> {
    let limit = page_limit(query.limit)?;
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    let report = labeling::report_agreement(&mut connection, &row).await?;
    let audit = store::job::find_newest_outcome(&mut connection, row.id, JobKind::Audit).await?;
    let audit = audit.map(|(_, outcome)| from_json::<AuditOutcome>("outcome", &outcome));
    let audit = audit.transpose().map_err(ApiError::internal)?;
    let suspects = audit.as_ref().map(|audit| audit.suspects.as_slice()).unwrap_or_default();
    let items: Vec<ItemId> = suspects.iter().map(|suspect| suspect.item).collect();
    let standings = store::agreement::list_suspects(&mut connection, &items).await?;
    let suspected = suspects.iter().filter_map(|suspect| {
        let standing = standings.iter().find(|standing| standing.item == suspect.item)?;
        // A class that changed since isn't the one that was suspected.
        (standing.class == Some(suspect.class)).then(|| SuspectAnswer::new(suspect, standing, &class_names))
    });
    let suspected_errors = suspected.take(limit as usize).collect();
    Ok(axum::Json(Agreement::new(report, audit.as_ref(), suspected_errors, &class_names)))
}

impl Agreement {
    fn new(
        report: AgreementReport,
        audit: Option<&AuditOutcome>,
        suspected_errors: Vec<SuspectAnswer>,
        class_names: &ClassNames,
    ) -> Self {
        let voter = |(labeler, person)| VoterAnswer { labeler, person };
        Self {
            item_count: report.item_count,
            vote_count: report.vote_count,
            fleiss_kappa: report.fleiss_kappa,
            krippendorff_alpha: report.krippendorff_alpha,
            classes: report
                .classes
                .into_iter()
                .map(|class| ClassAnswer {
                    class: class_names.name(class.class),
                    vote_count: class.vote_count,
                    krippendorff_alpha: class.krippendorff_alpha,
                })
                .collect(),
            labelers: report.labelers.into_iter().map(LabelerAnswer::from).collect(),
            pairs: report
                .pairs
                .into_iter()
                .map(|pair| PairAnswer {
                    first: voter(pair.first),
                    second: voter(pair.second),
                    item_count: pair.item_count,
                    cohen_kappa: pair.cohen_kappa,
                })
                .collect(),
            audit: audit.map(|audit| AuditAnswer {
                round: audit.round,
                item_count: audit.item_count,
                out_of_fold_accuracy: audit.out_of_fold_accuracy,
            }),
            suspected_errors,
        }
    }
}

impl From<LabelerAgreement> for LabelerAnswer {
    fn from(labeler: LabelerAgreement) -> Self {
        let LabelerAgreement { counts, shared_count, cohen_kappa, estimated_accuracy, gold_interval } =
            labeler;
        let gold_accuracy =
            (counts.gold_count > 0).then(|| counts.gold_correct_count as f64 / counts.gold_count as f64);
        Self {
            labeler: counts.labeler,
            person: counts.person,
            name: counts.name,
            vote_count: counts.vote_count,
            set_aside_count: counts.set_aside_count,
            shared_count,
            cohen_kappa,
            estimated_accuracy,
            gold_count: counts.gold_count,
            gold_accuracy,
            gold_interval,
        }
    }
}

impl SuspectAnswer {
    fn new(suspect: &Suspect, standing: &SuspectStanding, class_names: &ClassNames) -> Self {
        Self {
            item: suspect.item,
            name: standing.name.clone(),
            class: class_names.name(suspect.class),
            suggested_class: class_names.name(suspect.suggested),
            given_probability: suspect.given_probability,
            suggested_probability: suspect.suggested_probability,
            asked_again: standing.asked_again,
            labels: standing.labels.clone(),
        }
    }
}

/// Whose votes are set aside.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"person": null}))]
pub struct SetAsideLabeler {
    /// Only this person's, when a tool labels for several; all of the token's when absent.
    #[serde(default)]
    person: Option<String>,
}

/// What was set aside.
#[derive(Debug, Serialize, ToSchema)]
pub struct SetAsideAnswer {
    /// Votes that count no more; they stay kept and paid.
    label_count: u64,
    /// Votes that are asked again.
    asked_again_count: u64,
    /// Items that lost their class and return to the pool, since the budget has no free vote for them.
    returned_count: u64,
}

/// Sets aside all votes of a labeler in the project and asks for them again, as far as the budget goes.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/labelers/{labeler}/set-aside",
    operation_id = "set_aside_labeler",
    tag = "control",
    params(("project" = String, Path, description = "Name or id"), ("labeler" = Uuid, Path, description = "The labeler's token id")),
    request_body = SetAsideLabeler,
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "What was set aside", body = SetAsideAnswer),
    ),
)]
pub async fn set_aside_labeler(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, labeler)): Path<(String, TokenId)>,
    post: Post<SetAsideLabeler>,
) -> Result<Response, ApiError> {
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let row = find_project(work.connection(), &caller, &project).await?;
    if !store::agreement::has_voted(work.connection(), row.id, labeler).await? {
        return Err(ApiError::not_found("labeler", labeler));
    }
    let person = post.body.person.as_deref();
    let done = labeling::set_labeler_aside(work.connection(), &row, labeler, person).await?;
    let answer = SetAsideAnswer {
        label_count: done.label_count,
        asked_again_count: done.asked_again_count,
        returned_count: done.returned_count,
    };
    let response = work.finish(StatusCode::OK, &answer).await?;
    app.round_counts.wake().wake();
    Ok(response)
}
