//! One run: a strategy on one seed, from the first batch to the last budget (Algorithm 1, lines 3 to 10).

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::acquisition::{reads_scores, select};
use crate::domain::content_hash::ContentHash;
use crate::domain::settings::ProjectSettings;
use crate::domain::strategy::Strategy;
use crate::learner::{
    CandidateColumns, DropCheckpoints, JoinedTables, LabeledItem, RoundInput, ScoreTable, TrainedRound,
    score_round, train_round,
};
use crate::nn::checkpoint::Checkpoint;

use super::pretext::{Bench, hook};
use super::{Arm, Observer, Oracle, Result, RoundRecord, RunRecord};

/// Carries out what is left of the run of `arm` on the seed of `bench`.
pub(super) fn run(bench: &mut Bench<'_>, arm: &Arm, observer: &mut dyn Observer) -> Result<RunRecord> {
    let mut record = RunRecord::find(bench, arm)?;
    let budgets = &bench.plan.budgets;
    if record.rounds.len() == budgets.len() {
        return Ok(record);
    }
    let first_strategy = arm.first_strategy(bench.plan.first_batch);
    bench.prepare(&[first_strategy, arm.strategy], observer)?;
    let settings = bench.plan.settings(bench.oracle, bench.task, arm.strategy, bench.seed);
    let mut course = Course { arm, first_strategy, settings, labeled: find_queries(bench.oracle, &record) };
    // The scores that the next query needs are those of the last finished round's model, which is trained again to the same bits.
    let mut model = match record.rounds.last() {
        Some(last) if reads_scores(&arm.strategy) => Some(course.train(bench, last.round, observer)?.model),
        _ => None,
    };
    for (round, &budget) in (1..).zip(budgets).skip(record.rounds.len()) {
        let started = Instant::now();
        let query =
            course.ask(bench, round, budget as usize - course.labeled.len(), model.as_ref(), observer)?;
        course.labeled.extend(&query);
        let trained = course.train(bench, round, observer)?;
        let evaluation = trained.evaluation.as_ref().expect("the plan was checked for a test split");
        let ended = RoundRecord {
            round,
            labels: budget,
            test_accuracy: evaluation.accuracy,
            class_counts: bench.oracle.count_classes(&query),
            seconds: started.elapsed().as_secs_f64(),
            query: query.iter().map(|&item| *bench.oracle.pool.hash(item)).collect(),
        };
        let manifest = &trained.model.manifest;
        let passes = &bench.model().manifest.epochs;
        record.knn_accuracy = passes.last().and_then(|pass| pass.knn_accuracy);
        record.machine = format!("{}, {} threads", manifest.kernel, manifest.thread_count);
        observer.round(&record.name(), &ended);
        record.rounds.push(ended);
        record.save(&bench.plan.folder)?;
        model = Some(trained.model);
    }
    Ok(record)
}

/// The pool items that the finished rounds asked for, in their order.
fn find_queries(oracle: &Oracle, record: &RunRecord) -> Vec<usize> {
    let places: HashMap<ContentHash, usize> =
        (0..oracle.pool.len()).map(|item| (*oracle.pool.hash(item), item)).collect();
    let asked = record.rounds.iter().flat_map(|round| &round.query);
    asked.filter_map(|hash| places.get(hash).copied()).collect()
}

struct Course<'a> {
    arm: &'a Arm,
    first_strategy: Strategy,
    settings: ProjectSettings,
    /// D_l, in the order of asking.
    labeled: Vec<usize>,
}

impl Course<'_> {
    fn train(&self, bench: &mut Bench<'_>, round: u32, observer: &mut dyn Observer) -> Result<TrainedRound> {
        let mut items = self.labeled.clone();
        items.sort_unstable();
        if round == 1
            && let Some(trained) = bench.first_round(&items)
        {
            return Ok(trained);
        }
        let name = format!("{} {}: {} labels", bench.name(), self.arm.name, items.len());
        let labeled = with_classes(bench.oracle, &items);
        let input = self.input(bench, &labeled, round);
        let mut hook = hook(observer, name);
        let trained = train_round(bench.device, input, None, &mut DropCheckpoints, &mut hook)?;
        if round == 1 {
            bench.keep_first_round(items, trained.clone());
        }
        Ok(trained)
    }

    fn input<'i>(&'i self, bench: &'i Bench<'_>, labeled: &'i [LabeledItem], round: u32) -> RoundInput<'i> {
        let oracle = bench.oracle;
        RoundInput {
            pretext: bench.model(),
            pool: &oracle.pool,
            pool_embeddings: bench.embeddings(),
            labeled,
            class_count: oracle.class_names.len(),
            test: Some((&oracle.test, &oracle.test_classes)),
            test_embeddings: bench.test_embeddings(),
            settings: &self.settings,
            round,
        }
    }

    /// The items of the next query, best first.
    fn ask(
        &self,
        bench: &Bench<'_>,
        round: u32,
        count: usize,
        model: Option<&Checkpoint>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<usize>> {
        let strategy = if round == 1 { self.first_strategy } else { self.arm.strategy };
        let scores = match model {
            Some(model) if reads_scores(&strategy) => Some(self.score(bench, round, model, observer)?),
            _ => None,
        };
        let oracle = bench.oracle;
        let tables = JoinedTables::new(bench.embeddings(), bench.losses(), scores.as_ref(), scores.is_some());
        let labeled: HashSet<usize> = self.labeled.iter().copied().collect();
        let unlabeled: Vec<usize> = (0..oracle.pool.len()).filter(|item| !labeled.contains(item)).collect();
        let rows = unlabeled.iter().map(|&item| {
            let hash = *oracle.pool.hash(item);
            (hash, tables.find(&hash).expect("every table covers the pool"))
        });
        let hashes: Vec<_> = self.labeled.iter().map(|&item| *oracle.pool.hash(item)).collect();
        let columns = CandidateColumns::gather(
            &tables,
            &self.arm.strategy,
            &strategy,
            rows,
            &hashes,
            oracle.class_names.len(),
        );
        let picks = select(&strategy, &columns.view(), count, bench.seed, round)?;
        Ok(picks.into_iter().map(|pick| unlabeled[pick.index]).collect())
    }

    fn score(
        &self,
        bench: &Bench<'_>,
        round: u32,
        model: &Checkpoint,
        observer: &mut dyn Observer,
    ) -> Result<ScoreTable> {
        let mut hook = hook(observer, format!("{} {}: scoring", bench.name(), self.arm.name));
        let labeled = with_classes(bench.oracle, &self.labeled);
        Ok(score_round(bench.device, self.input(bench, &labeled, round), model, &mut hook)?)
    }
}

fn with_classes(oracle: &Oracle, items: &[usize]) -> Vec<LabeledItem> {
    items.iter().map(|&index| LabeledItem { index, class: oracle.classes[index] }).collect()
}
