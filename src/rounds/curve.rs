//! The honest curve of a project, put together from counted guesses, and what the stopping rules make of it.
//!
//! Read by the supervisor after each training and by `http` for the page of the curve. Needs no lock: it reads what is settled.

use crate::domain::interval::Z_95;
use crate::domain::project::FinishReason;
use crate::domain::random_slice::{Hits, PoolAccuracy, RandomSlice};
use crate::domain::stopping::Measurement;
use crate::store::model::{self, GuessCounts, ModelRow};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError};

/// Random items that a measurement is made of, where one round draws fewer.
const POOLED_ITEM_COUNT: u64 = 50;

/// The most models that are read; a project of more rounds than that doesn't occur.
pub const MODEL_COUNT_MAX: i64 = 10_000;

/// What a round's random items say about the model that asked them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSlice {
    /// The model that guessed before the labels came.
    pub model_version: i32,
    /// Labelled items it learned from.
    pub label_count: i32,
    /// Its guesses, and those on what was asked before.
    pub slice: RandomSlice,
}

/// The random slices of a project, oldest first.
pub async fn read_slices(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Vec<ModelSlice>, StoreError> {
    Ok(compose(&model::list_guess_counts(connection, project.id).await?))
}

/// Why the project should stop now, by its stopping rules.
pub(super) async fn judge(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Option<FinishReason>, StoreError> {
    let rules = &project.settings.stopping;
    if rules.target_accuracy.is_none() && rules.plateau_rounds.is_none() {
        return Ok(None);
    }
    let models = model::list(connection, project.id, 0, MODEL_COUNT_MAX).await?;
    let measurements = match on_test_split(&models) {
        Some(measurements) => measurements,
        None => pool_slices(&read_slices(connection, project).await?),
    };
    Ok(rules.judge(&measurements))
}

fn hits(row: &GuessCounts) -> Hits {
    Hits { correct_count: row.correct_count.unsigned_abs(), item_count: row.item_count.unsigned_abs() }
}

/// Rows come in the order of rounds.
fn compose(rows: &[GuessCounts]) -> Vec<ModelSlice> {
    let mut asked_before = Hits::default();
    let mut slices = Vec::new();
    for of_round in rows.chunk_by(|a, b| a.round == b.round) {
        for drawn in of_round.iter().filter(|row| row.drawn) {
            // What was asked ahead of the round was taken from the pool before the round chose.
            let ahead = of_round.iter().filter(|row| row.model_version < drawn.model_version);
            let count = |count: Option<i64>| count.map_or(0, i64::unsigned_abs);
            slices.push(ModelSlice {
                model_version: drawn.model_version,
                label_count: drawn.label_count,
                slice: RandomSlice {
                    random: hits(drawn),
                    asked_before: ahead.map(hits).fold(asked_before, Hits::plus),
                    unlabeled_count: count(drawn.askable_count),
                    pool_count: count(drawn.pool_count),
                },
            });
        }
        asked_before = of_round.iter().map(hits).fold(asked_before, Hits::plus);
    }
    slices
}

/// The newest models on the test split; none without one.
fn on_test_split(models: &[ModelRow]) -> Option<Vec<Measurement>> {
    let measured = |model: &ModelRow| {
        let item_count = u64::try_from(model.test_count).ok()?;
        Some(Measurement { accuracy: model.test_accuracy?, item_count })
    };
    models.iter().map(measured).collect()
}

/// Each slice with as many before it as make enough items. Older models guessed those, so the accuracy is rather low than high.
fn pool_slices(slices: &[ModelSlice]) -> Vec<Measurement> {
    let measure = |end: usize| {
        let last = &slices[end].slice;
        let mut random = Hits::default();
        for earlier in slices[..=end].iter().rev() {
            if random.item_count >= POOLED_ITEM_COUNT {
                break;
            }
            random = random.plus(earlier.slice.random);
        }
        let accuracy = PoolAccuracy::of(&RandomSlice { random, ..*last }, Z_95)?.accuracy;
        Some(Measurement { accuracy, item_count: random.item_count })
    };
    (0..slices.len()).filter_map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: i32, drawn: bool, model_version: i32, correct_count: i64, item_count: i64) -> GuessCounts {
        GuessCounts {
            round,
            drawn,
            model_version,
            label_count: 100 * model_version,
            item_count,
            correct_count,
            askable_count: Some(1000 - 100 * i64::from(round)),
            pool_count: Some(1000),
        }
    }

    #[test]
    fn what_was_asked_before_a_slice_is_every_earlier_round_and_what_was_asked_ahead() {
        let rows = [
            row(2, true, 1, 4, 5),
            row(2, false, 1, 50, 95),
            row(3, false, 1, 10, 20),
            row(3, true, 2, 5, 5),
            row(3, false, 2, 40, 75),
        ];
        let slices = compose(&rows);
        assert_eq!(slices.len(), 2);
        assert_eq!(slices[0].slice.asked_before, Hits::default());
        assert_eq!(slices[1].slice.asked_before, Hits { correct_count: 64, item_count: 120 });
        assert_eq!(slices[1].slice.random, Hits { correct_count: 5, item_count: 5 });
        assert_eq!((slices[1].slice.unlabeled_count, slices[1].slice.pool_count), (700, 1000));
        assert_eq!((slices[1].model_version, slices[1].label_count), (2, 200));
    }

    #[test]
    fn small_slices_are_pooled_until_they_say_something() {
        let rows: Vec<GuessCounts> = (2..30).map(|round| row(round, true, round - 1, 4, 5)).collect();
        let measurements = pool_slices(&compose(&rows));
        assert_eq!(measurements.len(), 28);
        assert_eq!((measurements[0].item_count, measurements[27].item_count), (5, 50));
        assert!((measurements[27].accuracy - 0.8).abs() < 1e-12);
    }
}
