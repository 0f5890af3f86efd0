//! The ranking: each item's place in the order of asking, and the model's guess, as the last scoring stored them.
//!
//! Label Studio asks the lowest score first. A score here is an item's place divided by how many wait: the open tasks of the batch by their rank,
//! then the next-best of the selection, then the rest of the pool by uncertainty. That is 1 − the acquisition score, normalised by rank.
//! Items that aren't asked any more have 1. Nothing is computed by a model here; before the first one there are places and no guesses.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::blob::{Blob, BlobError};
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ItemId, JobId, ProjectId};
use crate::domain::job::JobKind;
use crate::domain::project::ClassIndex;
use crate::domain::task::TaskState;
use crate::learner::ScoreTable;
use crate::rounds::request::{SelectRequest, Selection};
use crate::rounds::subject_of_round;
use crate::store::label_studio::FoundItem;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, Store, StoreError, job, round, task};

/// Tasks that are read at once.
const PAGE: i64 = 1000;

/// Projects whose pool's order is kept in memory.
const KEPT_COUNT_MAX: usize = 8;

/// A model's opinion of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// The likeliest class with its probability; none before the first model, or where the project hides guesses.
    pub class: Option<(ClassIndex, f32)>,
    /// Place in the order of asking, 0 (next) to 1 (not asked).
    pub score: f64,
}

/// Why a ranking can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RankingError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A table or a job that this version doesn't understand.
    #[error("the stored scores can't be read: {0}")]
    Stored(String),
}

/// What the scoring before the batch under way said of the pool; immutable, so it is kept.
#[derive(Debug, Default)]
struct PoolOrder {
    /// Next-best items that the selection ranked behind its batch.
    next_best: Vec<ItemId>,
    /// Place by uncertainty, and the guess.
    items: HashMap<ContentHash, (usize, ClassIndex, f32)>,
}

/// The order that a selection read, by the job that selected.
type KeptOrder = (JobId, Arc<PoolOrder>);

/// Orders that were read before; a handle to clone.
#[derive(Clone, Debug, Default)]
pub struct RankingCache(Arc<Mutex<HashMap<ProjectId, KeptOrder>>>);

/// Places and guesses of what is asked, by item.
type AskedItems = HashMap<ItemId, (usize, Option<(ClassIndex, f32)>)>;

/// The order of asking in a project at this moment.
#[derive(Clone, Debug)]
pub struct Ranking {
    version: String,
    shows_guesses: bool,
    /// Place and guess of what is asked or next.
    asked: AskedItems,
    pool: Arc<PoolOrder>,
}

impl Ranking {
    /// Reads the order of asking in a project.
    ///
    /// # Errors
    /// The database, the object store, or tables of another version.
    pub async fn read(
        store: &Store,
        blob: &Blob,
        cache: &RankingCache,
        project: &ProjectRow,
    ) -> Result<Self, RankingError> {
        let mut connection = store.acquire().await?;
        let under_way = round::find_under_way(&mut connection, project.id).await?;
        let (number, asked_by) = match &under_way {
            Some(row) => (row.number, row.asked_by),
            None => {
                (round::last_number(&mut connection, project.id).await?.unwrap_or(0), project.model_version)
            }
        };
        let mut asked = AskedItems::new();
        if under_way.is_some() {
            // Those asked ahead of the next round come after those of this one.
            for number in [number, number + 1] {
                add_open_tasks(&mut connection, project.id, number, &mut asked).await?;
            }
        }
        let subject = subject_of_round(number);
        let select = job::find_by_subject(&mut connection, project.id, JobKind::Select, &subject).await?;
        drop(connection);
        let pool = match select {
            Some(job) => cache.order_of(blob, project.id, &job).await?,
            None => Arc::default(),
        };
        for item in &pool.next_best {
            let place = asked.len();
            asked.entry(*item).or_insert((place, None));
        }
        Ok(Self {
            version: format!("v{}.{number}", asked_by.unwrap_or(0)),
            shows_guesses: project.settings.show_suggestions,
            asked,
            pool,
        })
    }

    /// What Label Studio is told as the model's version: the model that ranked, and the round. It changes when a batch opens, which is what makes
    /// Label Studio ask for predictions again.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The opinion of an item.
    #[must_use]
    pub fn guess(&self, item: &FoundItem) -> Guess {
        let (asked, scored) = (self.asked.get(&item.id), self.pool.items.get(&item.hash));
        let waiting_count = (self.asked.len() + self.pool.items.len()).max(1) as f64;
        let is_waiting = item.class.is_none() && item.excluded.is_none();
        let place = match (asked, scored) {
            (Some((place, _)), _) => Some(*place),
            (None, Some((place, _, _))) if is_waiting => Some(self.asked.len() + place),
            _ => None,
        };
        let class = asked
            .and_then(|(_, guess)| *guess)
            .or(scored.map(|(_, class, probability)| (*class, *probability)));
        Guess {
            class: class.filter(|_| self.shows_guesses),
            score: place.map_or(1.0, |place| (place as f64 / waiting_count).min(1.0)),
        }
    }
}

/// Adds the tasks of a round that wait for an answer, in the order of their ranks.
async fn add_open_tasks(
    connection: &mut PgConnection,
    project: ProjectId,
    number: i32,
    asked: &mut AskedItems,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = task::list_of_round(connection, project, number, after, PAGE).await?;
        for row in &page {
            if matches!(row.state, TaskState::Open | TaskState::Leased | TaskState::Adjudication) {
                let guess = row.suggestions.0.first().map(|best| (best.class, best.probability));
                let place = asked.len();
                asked.entry(row.item).or_insert((place, guess));
            }
        }
        match page.last() {
            Some(last) if page.len() as i64 == PAGE => after = Some((last.rank, last.id)),
            _ => return Ok(()),
        }
    }
}

impl RankingCache {
    async fn order_of(
        &self,
        blob: &Blob,
        project: ProjectId,
        select: &job::JobRow,
    ) -> Result<Arc<PoolOrder>, RankingError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&project).cloned();
        if let Some((_, order)) = kept.filter(|(job, _)| *job == select.id) {
            return Ok(order);
        }
        let order = Arc::new(read_order(blob, select).await?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_COUNT_MAX && !kept.contains_key(&project) {
            kept.clear();
        }
        kept.insert(project, (select.id, Arc::clone(&order)));
        Ok(order)
    }
}

async fn read_order(blob: &Blob, select: &job::JobRow) -> Result<PoolOrder, RankingError> {
    let stored = |error: &dyn std::fmt::Display| RankingError::Stored(error.to_string());
    let request: SelectRequest =
        serde_json::from_value(select.request.clone()).map_err(|error| stored(&error))?;
    let selection: Selection = match &select.outcome {
        Some(outcome) => serde_json::from_value(outcome.clone()).map_err(|error| stored(&error))?,
        None => Selection::default(),
    };
    let mut rows = Vec::new();
    for key in &request.scores {
        let table = ScoreTable::from_bytes(&blob.get(key).await?).map_err(|error| stored(&error))?;
        rows.extend(table.rows);
    }
    // The content breaks ties, so that the order is the same for everybody who asks.
    rows.sort_by(|one, other| {
        other.uncertainty.entropy.total_cmp(&one.uncertainty.entropy).then(one.hash.0.cmp(&other.hash.0))
    });
    let items = rows.iter().enumerate().map(|(place, row)| (row.hash, (place, row.top[0].0, row.top[0].1)));
    let mut seen = HashSet::new();
    let next_best = selection.ranking.iter().map(|choice| choice.item).filter(|item| seen.insert(*item));
    Ok(PoolOrder { next_best: next_best.collect(), items: items.collect() })
}
