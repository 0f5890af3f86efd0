//! The body of an audit job: suspected labels, guesses for gold tasks, and random against queried labels, all on cached embeddings.
//!
//! Runs while people label, behind everything that they wait for.

use std::collections::{HashMap, HashSet};

use crate::domain::ids::ItemId;
use crate::domain::label_errors::{Suspicion, suspect};
use crate::domain::project::ClassIndex;
use crate::engine::{Audit, Outcome, Work};
use crate::learner::{AuditFindings, Comparison, LabeledItem, ScoreRow};
use crate::rounds::request::{
    AuditOutcome, AuditRequest, GuessedItem, SampleComparison, Suspect, from_json, to_json,
};
use crate::store::job::JobRow;
use crate::store::pool::{self, PoolItem};
use crate::store::project::ProjectRow;
use crate::store::task::Suggestion;

use super::attempt::Attempt;
use super::embed::load_pretext;
use super::finish::Finished;
use super::train::{embed_labeled, embed_test, label_rows, list_known_test, test_classes};
use super::{BodyError, Workshop, name_guesses};

/// Suspected items that are kept, the most suspicious.
const SUSPECT_COUNT_MAX: usize = 1000;

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let request: AuditRequest = from_json("request", &row.request)?;
    let ids: Vec<ItemId> = request.labeled.iter().map(|(item, _)| *item).collect();
    let (extents, items, test) = {
        let mut connection = workshop.store.acquire().await?;
        let extents = pool::list_segments(&mut connection, project.id).await?;
        let items = pool::list_by_ids(&mut connection, &ids).await?;
        (extents, items, list_known_test(&mut connection, project.id, request.class_count).await?)
    };
    if items.is_empty() {
        let outcome = AuditOutcome { round: request.round, ..AuditOutcome::default() };
        return Ok(Finished::Outcome(to_json(&outcome)));
    }
    let (pretext_key, pretext) = load_pretext(workshop, project).await?;
    let (table, rows) = embed_labeled(workshop, project, &extents, &items, &pretext, attempt).await?;
    let classes: HashMap<ItemId, ClassIndex> = request.labeled.iter().copied().collect();
    let labeled = label_rows(rows.iter(), &classes);
    let compares = !request.random.is_empty() && !request.queried.is_empty();
    let test = if test.is_empty() || !compares {
        None
    } else {
        let table = embed_test(workshop, project, &extents, &test, &pretext_key, &pretext, attempt).await?;
        Some((table, test_classes(&test)))
    };
    let on_test_split = test.is_some();
    let audit = Audit {
        table,
        random: among(&rows, &labeled, &request.random),
        queried: among(&rows, &labeled, &request.queried),
        labeled: labeled.clone(),
        test,
        class_count: request.class_count as usize,
        seed: project.settings.seed,
    };
    let work = Work::Audit(Box::new(audit));
    let Outcome::Findings(findings) = workshop.engine()?.run(project.id, work, attempt.hook()).await? else {
        return Err(BodyError::failed("the engine answered an audit with something else"));
    };
    let outcome = describe(&request, &rows, &labeled, &findings, on_test_split);
    Ok(Finished::Outcome(to_json(&outcome)))
}

/// The labelled rows of these items.
fn among(rows: &[PoolItem], labeled: &[LabeledItem], items: &[ItemId]) -> Vec<LabeledItem> {
    let wanted: HashSet<ItemId> = items.iter().copied().collect();
    labeled.iter().filter(|item| wanted.contains(&rows[item.index].id)).copied().collect()
}

fn describe(
    request: &AuditRequest,
    rows: &[PoolItem],
    labeled: &[LabeledItem],
    findings: &AuditFindings,
    on_test_split: bool,
) -> AuditOutcome {
    let class_count = (request.class_count as usize).max(1);
    let given: Vec<ClassIndex> = labeled.iter().map(|item| item.class).collect();
    let guess = |place: usize| -> (ClassIndex, Vec<Suggestion>) {
        let row = &findings.probabilities[place * class_count..][..class_count];
        let score = ScoreRow::of(rows[labeled[place].index].hash, row);
        (score.predicted(), name_guesses(&score))
    };
    let describe_suspect = |found: Suspicion| Suspect {
        item: rows[labeled[found.item].index].id,
        class: given[found.item],
        suggested: found.suggested,
        given_probability: found.given_probability,
        suggested_probability: found.suggested_probability,
        suggestions: guess(found.item).1,
    };
    let places: HashMap<ItemId, usize> = labeled.iter().map(|item| rows[item.index].id).zip(0..).collect();
    let right_count = (0..labeled.len()).filter(|place| guess(*place).0 == given[*place]).count();
    let suspicions = suspect(&findings.probabilities, &given, class_count);
    AuditOutcome {
        round: request.round,
        item_count: labeled.len() as u64,
        out_of_fold_accuracy: right_count as f64 / labeled.len().max(1) as f64,
        suspects: suspicions.into_iter().take(SUSPECT_COUNT_MAX).map(describe_suspect).collect(),
        gold: request
            .gold
            .iter()
            .filter_map(|item| Some(GuessedItem { item: *item, suggestions: guess(*places.get(item)?).1 }))
            .collect(),
        comparison: findings.comparison.map(|comparison| describe_comparison(comparison, on_test_split)),
    }
}

fn describe_comparison(comparison: Comparison, on_test_split: bool) -> SampleComparison {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    SampleComparison {
        label_count: count(comparison.label_count),
        evaluated_count: count(comparison.evaluated_count),
        on_test_split,
        random_accuracy: comparison.random_accuracy,
        queried_accuracy: comparison.queried_accuracy,
        difference_deviation: comparison.difference_deviation,
    }
}
