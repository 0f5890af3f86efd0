//! What a select job keeps for people to look at, beside its choice: a map of the pool, and how u and v spread.
//!
//! Pure, on the blocking thread of the selection. Samples are the items of the smallest content hashes: random, and the same ones each round,
//! so that a map of one round can be laid over that of the next.

use std::collections::{HashMap, HashSet};

use crate::domain::content_hash::ContentHash;
use crate::domain::ids::ItemId;
use crate::learner::histogram::{count_bins, linear_edges, logarithmic_edges};
use crate::learner::{EmbeddingTable, Plane, PretextLossTable, ScoreTable};
use crate::rounds::overview::{MapPoint, PoolOverview, ScoreHistogram};
use crate::rounds::request::{ChosenItem, SelectRequest, Selection};
use crate::store::pool::PoolItem;

/// Unlabelled items on a map, and as many labelled ones.
const SAMPLE_COUNT: usize = 4000;

/// Items of a batch on a map.
const BATCH_COUNT: usize = 10_000;

/// Surveys the pool of a selection: `items` could be asked and `labeled` couldn't, both in the order of content hashes.
pub(super) fn survey(
    request: &SelectRequest,
    items: &[PoolItem],
    labeled: &[PoolItem],
    embeddings: &EmbeddingTable,
    losses: Option<&PretextLossTable>,
    scores: Option<&ScoreTable>,
    selection: &Selection,
) -> PoolOverview {
    let batch: Vec<&ChosenItem> =
        selection.random.iter().chain(selection.ranking.iter().take(request.query_count as usize)).collect();
    let plane = Plane::fit(embeddings);
    PoolOverview {
        explained: plane.as_ref().map_or([0.0, 0.0], |plane| plane.explained),
        points: plane.map(|plane| place(&plane, items, labeled, embeddings, &batch)).unwrap_or_default(),
        uncertainty: scores.map(|table| spread_of_uncertainty(request, items, table, &batch)),
        pretext_loss: losses.and_then(|table| spread_of_losses(items, table, &batch)),
    }
}

fn place(
    plane: &Plane,
    items: &[PoolItem],
    labeled: &[PoolItem],
    embeddings: &EmbeddingTable,
    batch: &[&ChosenItem],
) -> Vec<MapPoint> {
    let rows: HashMap<&ContentHash, usize> = embeddings.hashes.iter().zip(0..).collect();
    let wanted: HashSet<ItemId> = batch.iter().take(BATCH_COUNT).map(|chosen| chosen.item).collect();
    let point = |item: &PoolItem| {
        let row = *rows.get(&item.hash)?;
        // A map is drawn over a few hundred pixels.
        let [x, y] = plane.place(embeddings.embedding(row)).map(|at| (f64::from(at) * 1e3).round() / 1e3);
        Some(MapPoint { item: item.id, x, y })
    };
    let mut points: Vec<MapPoint> = labeled.iter().filter_map(point).take(SAMPLE_COUNT).collect();
    let (chosen, rest): (Vec<_>, Vec<_>) = items.iter().partition(|item| wanted.contains(&item.id));
    points.extend(rest.into_iter().filter_map(point).take(SAMPLE_COUNT));
    points.extend(chosen.into_iter().filter_map(point));
    points
}

fn spread_of_uncertainty(
    request: &SelectRequest,
    items: &[PoolItem],
    table: &ScoreTable,
    batch: &[&ChosenItem],
) -> ScoreHistogram {
    let measure = request.strategy.measure();
    let asked: HashSet<&ContentHash> = items.iter().map(|item| &item.hash).collect();
    let pool =
        table.rows.iter().filter(|row| asked.contains(&row.hash)).map(|row| row.uncertainty.by(measure));
    histogram(
        linear_edges(0.0, 1.0),
        pool.map(f64::from),
        batch.iter().filter_map(|chosen| chosen.uncertainty),
    )
}

fn spread_of_losses(
    items: &[PoolItem],
    table: &PretextLossTable,
    batch: &[&ChosenItem],
) -> Option<ScoreHistogram> {
    let asked: HashSet<&ContentHash> = items.iter().map(|item| &item.hash).collect();
    let pool: Vec<f32> =
        table.rows.iter().filter(|(hash, _)| asked.contains(hash)).map(|(_, loss)| *loss).collect();
    let edges = logarithmic_edges(&pool)?;
    let batch = batch.iter().filter_map(|chosen| chosen.pretext_loss);
    Some(histogram(edges, pool.iter().copied().map(f64::from), batch))
}

fn histogram(
    edges: Vec<f64>,
    pool: impl Iterator<Item = f64>,
    batch: impl Iterator<Item = f64>,
) -> ScoreHistogram {
    let (pool_counts, batch_counts) = (count_bins(&edges, pool), count_bins(&edges, batch));
    ScoreHistogram { edges, pool_counts, batch_counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::SegmentId;
    use crate::domain::project::ClassIndex;
    use crate::domain::strategy::Strategy;
    use crate::learner::{ScoreColumns, ScoreRow};

    fn items(count: u8, class: Option<ClassIndex>) -> Vec<PoolItem> {
        let item = |place: u8| PoolItem {
            id: ItemId::generate(),
            hash: ContentHash([place + if class.is_some() { 100 } else { 0 }; 32]),
            segment: SegmentId::generate(),
            segment_row: 0,
            class,
        };
        (0..count).map(item).collect()
    }

    fn chosen(item: &PoolItem, measured: f64) -> ChosenItem {
        ChosenItem {
            item: item.id,
            score: None,
            uncertainty: Some(measured),
            pretext_loss: Some(measured),
            suggestions: Vec::new(),
        }
    }

    fn request(query_count: u32) -> SelectRequest {
        SelectRequest {
            round: 2,
            strategy: Strategy::default(),
            class_count: 2,
            model_version: Some(1),
            random_count: 1,
            query_count,
            spare_count: 1,
            embeddings: Vec::new(),
            pretext_losses: Vec::new(),
            scores: Vec::new(),
        }
    }

    #[test]
    fn the_batch_the_labelled_and_a_sample_are_on_the_map_once_and_the_spare_ones_are_no_batch() {
        let (open, labeled) = (items(20, None), items(5, Some(ClassIndex(1))));
        let mut embeddings = EmbeddingTable::new("a".repeat(64), 2);
        let mut rows = Vec::new();
        let mut losses = PretextLossTable { run: "a".repeat(64), rows: Vec::new() };
        for (place, item) in (0u8..).zip(open.iter().chain(&labeled)) {
            embeddings.push(item.hash, &[f32::from(place), f32::from(place % 3)]);
            let certain = 0.5 + f32::from(place) / 100.0;
            rows.push(ScoreRow::of(item.hash, &[certain, 1.0 - certain]));
            losses.rows.push((item.hash, f32::from(place)));
        }
        let scores = ScoreTable { run: "b".repeat(64), rows, columns: ScoreColumns::default() };
        let selection = Selection {
            random: vec![chosen(&open[3], 0.1)],
            ranking: vec![chosen(&open[4], 0.9), chosen(&open[5], 0.95), chosen(&open[6], 0.3)],
        };
        let overview =
            survey(&request(2), &open, &labeled, &embeddings, Some(&losses), Some(&scores), &selection);
        assert_eq!(overview.points.len(), 25);
        let ids: HashSet<ItemId> = overview.points.iter().map(|point| point.item).collect();
        assert_eq!(ids.len(), 25);
        assert!(overview.explained[0] > 0.9, "{:?}", overview.explained);
        let uncertainty = overview.uncertainty.expect("a model has scored");
        assert_eq!(uncertainty.pool_counts.iter().sum::<u64>(), 20);
        assert_eq!(uncertainty.batch_counts.iter().sum::<u64>(), 3);
        let losses = overview.pretext_loss.expect("losses were measured");
        assert_eq!((losses.pool_counts.iter().sum::<u64>(), losses.pool_counts[39]), (20, 2));
    }

    #[test]
    fn a_seed_batch_has_a_map_and_no_histograms() {
        let open = items(5, None);
        let mut embeddings = EmbeddingTable::new("a".repeat(64), 1);
        open.iter().zip(0u8..).for_each(|(item, place)| embeddings.push(item.hash, &[f32::from(place)]));
        let overview = survey(&request(1), &open, &[], &embeddings, None, None, &Selection::default());
        assert_eq!((overview.points.len(), overview.uncertainty, overview.pretext_loss), (5, None, None));
    }
}
