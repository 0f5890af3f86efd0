//! From tables to candidates: lines up what is known of each unlabelled item for `acquisition`.
//!
//! Tables are keyed by content hash and may cover only part of the pool; an item that one of them lacks can't be asked yet. What is gathered is
//! one contiguous column each, in the order of the candidates. Called by `worker` and `simulate` between scoring and `acquisition::select`.

use std::collections::HashMap;

use crate::acquisition::{Candidates, Rows, reads_embeddings};
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::Strategy;

use super::tables::{Column, EmbeddingTable, PretextLossTable, ScoreRow, ScoreTable};

/// The tables of a selection, and where each item stands in them.
pub struct JoinedTables<'t> {
    embeddings: Option<&'t EmbeddingTable>,
    embedding_rows: HashMap<ContentHash, usize>,
    /// `v` under the frozen pretext model, if the rule reads it.
    losses: Option<HashMap<ContentHash, f32>>,
    /// Whether a model ranks, so that an item without a score can't be asked.
    is_scored: bool,
    scores: Option<&'t ScoreTable>,
    score_rows: HashMap<ContentHash, usize>,
}

impl<'t> JoinedTables<'t> {
    /// Joins the tables that there are; `is_scored` says that a downstream model ranks.
    #[must_use]
    pub fn new(
        embeddings: Option<&'t EmbeddingTable>,
        losses: Option<&PretextLossTable>,
        scores: Option<&'t ScoreTable>,
        is_scored: bool,
    ) -> Self {
        let scores = scores.filter(|_| is_scored);
        let hashes = embeddings.iter().flat_map(|table| &table.hashes);
        let embedding_rows = hashes.copied().zip(0..).collect();
        let score_rows = scores.iter().flat_map(|table| &table.rows).map(|row| row.hash).zip(0..).collect();
        let losses = losses.map(|table| table.rows.iter().copied().collect());
        Self { embeddings, embedding_rows, losses, is_scored, scores, score_rows }
    }

    /// Where an item stands; `None` while a table doesn't cover it.
    #[must_use]
    pub fn find(&self, hash: &ContentHash) -> Option<TableRows> {
        let embedding = match self.embeddings {
            None => None,
            Some(_) => Some(*self.embedding_rows.get(hash)?),
        };
        let loss = match &self.losses {
            None => None,
            Some(losses) => Some(*losses.get(hash)?),
        };
        let score = if self.is_scored { Some(*self.score_rows.get(hash)?) } else { None };
        Some(TableRows { embedding, loss, score })
    }

    /// What the model thinks of the item that stands at `rows`.
    #[must_use]
    pub fn score_row(&self, rows: TableRows) -> Option<&'t ScoreRow> {
        self.scores.zip(rows.score).map(|(table, row)| &table.rows[row])
    }
}

/// Rows of one item, and its `v`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableRows {
    embedding: Option<usize>,
    loss: Option<f32>,
    score: Option<usize>,
}

/// Numbers gathered row by row, `width` for each.
type Gathered = Option<(usize, Vec<f32>)>;

/// The columns that a strategy reads, lined up with its candidates.
pub struct CandidateColumns {
    hashes: Vec<ContentHash>,
    uncertainty: Option<Vec<f32>>,
    predicted: Option<Vec<ClassIndex>>,
    losses: Option<Vec<f32>>,
    probabilities: Gathered,
    features: Gathered,
    mutual_information: Gathered,
    embeddings: Gathered,
    labeled_hashes: Vec<ContentHash>,
    labeled_losses: Option<Vec<f32>>,
    labeled_features: Gathered,
    labeled_embeddings: Gathered,
    class_count: usize,
}

impl CandidateColumns {
    /// Gathers what `strategy` reads of `candidates`, and of `labeled` where it looks at labels.
    ///
    /// `rule` is the project's: `u` and `v` are taken by it whatever `strategy` acts, since they stand beside every query. Labelled items that
    /// a table lacks are left out.
    #[must_use]
    pub fn gather(
        tables: &JoinedTables<'_>,
        rule: &Strategy,
        strategy: &Strategy,
        candidates: impl ExactSizeIterator<Item = (ContentHash, TableRows)>,
        labeled: &[ContentHash],
        class_count: usize,
    ) -> Self {
        let scope = strategy.score_scope();
        let (hashes, rows): (Vec<ContentHash>, Vec<TableRows>) = candidates.unzip();
        let (labeled_hashes, labeled) = find_labeled(tables, labeled, scope.labeled);
        let judged = tables.scores.map(|table| rows.iter().filter_map(|row| Some(&table.rows[row.score?])));
        let columns = tables.scores.map(|table| &table.columns);
        let features = columns.and_then(|columns| columns.features.as_ref()).filter(|_| scope.features);
        let probabilities = columns.and_then(|columns| columns.probabilities.as_ref());
        let information = columns.and_then(|columns| columns.mutual_information.as_ref());
        let embeddings = tables.embeddings.filter(|_| reads_embeddings(strategy));
        Self {
            uncertainty: judged
                .clone()
                .map(|rows| rows.map(|row| row.uncertainty.by(rule.measure())).collect()),
            predicted: judged.map(|rows| rows.map(ScoreRow::predicted).collect()),
            losses: match columns.and_then(|columns| columns.losses.as_ref()) {
                Some(column) if rule.score_scope().losses => Some(gather_rows(column, &rows).1),
                _ => frozen_losses(&rows),
            },
            probabilities: probabilities
                .filter(|_| scope.probabilities)
                .map(|column| gather_rows(column, &rows)),
            features: features.map(|column| gather_rows(column, &rows)),
            mutual_information: information
                .filter(|_| scope.dropout.is_some())
                .map(|column| gather_rows(column, &rows)),
            embeddings: embeddings.map(|table| gather_embeddings(table, &rows)),
            labeled_losses: frozen_losses(&labeled),
            labeled_features: features.filter(|_| scope.labeled).map(|column| gather_rows(column, &labeled)),
            labeled_embeddings: embeddings.map(|table| gather_embeddings(table, &labeled)),
            labeled_hashes,
            hashes,
            class_count,
        }
    }

    /// The columns as `acquisition` takes them.
    #[must_use]
    pub fn view(&self) -> Candidates<'_> {
        fn rows(gathered: &Gathered) -> Option<Rows<'_>> {
            gathered.as_ref().map(|(width, values)| Rows { values, width: *width })
        }
        Candidates {
            hashes: &self.hashes,
            uncertainty: self.uncertainty.as_deref(),
            pretext_loss: self.losses.as_deref(),
            predicted: self.predicted.as_deref(),
            probabilities: rows(&self.probabilities),
            features: rows(&self.features),
            mutual_information: self.mutual_information.as_ref().map(|(_, values)| values.as_slice()),
            embeddings: rows(&self.embeddings),
            labeled_hashes: &self.labeled_hashes,
            labeled_pretext_loss: self.labeled_losses.as_deref(),
            labeled_features: rows(&self.labeled_features),
            labeled_embeddings: rows(&self.labeled_embeddings),
            class_count: self.class_count,
        }
    }
}

/// The labelled items that the tables cover; `must_be_scored` when their scores are read too.
fn find_labeled(
    tables: &JoinedTables<'_>,
    labeled: &[ContentHash],
    must_be_scored: bool,
) -> (Vec<ContentHash>, Vec<TableRows>) {
    let find = |hash: &ContentHash| {
        let embedding = tables.embedding_rows.get(hash).copied();
        if tables.embeddings.is_some() && embedding.is_none() {
            return None;
        }
        let loss = tables.losses.as_ref().and_then(|losses| losses.get(hash)).copied();
        let score = tables.score_rows.get(hash).copied();
        (score.is_some() || !must_be_scored).then_some((*hash, TableRows { embedding, loss, score }))
    };
    labeled.iter().filter_map(find).unzip()
}

fn frozen_losses(rows: &[TableRows]) -> Option<Vec<f32>> {
    rows.iter().map(|row| row.loss).collect()
}

fn gather_embeddings(table: &EmbeddingTable, rows: &[TableRows]) -> (usize, Vec<f32>) {
    let rows: Vec<usize> = rows.iter().filter_map(|row| row.embedding).collect();
    join(rows.iter().map(|&row| table.embedding(row)), table.feature_count)
}

/// The rows' numbers in a column of the score table; each row stands in it.
fn gather_rows(column: &Column, rows: &[TableRows]) -> (usize, Vec<f32>) {
    let rows: Vec<usize> = rows.iter().filter_map(|row| row.score).collect();
    join(rows.iter().map(|&row| column.row(row)), column.width)
}

fn join<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> (usize, Vec<f32>) {
    // These are the largest things here: room for them is taken once.
    let mut values = Vec::with_capacity(rows.len() * width);
    rows.for_each(|row| values.extend_from_slice(row));
    (width, values)
}
