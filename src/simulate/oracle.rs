//! The oracle: a data set in memory whose pool has its answers beside it.
//!
//! Images come through `import` as they do into a project: decoded, fitted, duplicates counted once. Items are sorted by content, so that the
//! order of files changes nothing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::domain::content_hash::ContentHash;
use crate::domain::import::{ImportFormat, LabelRule, SplitRule};
use crate::domain::item::Split;
use crate::domain::project::ClassIndex;
use crate::domain::seed::StreamKey;
use crate::domain::settings::ImageShape;
use crate::import::{self, Committed, Options, PreparedSegment, Sink, SinkError, StopFlag};
use crate::learner::LabeledItem;
use crate::vision::{Pool, PoolRow, SegmentTensor};

use super::Result;

/// A data set with all its answers.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// D_l ∪ D_u, by rising content hash.
    pub pool: Pool,
    /// The class of each pool item.
    pub classes: Vec<ClassIndex>,
    /// The test split, by rising content hash.
    pub test: Pool,
    /// The class of each test item.
    pub test_classes: Vec<ClassIndex>,
    /// Names of the classes.
    pub class_names: Vec<String>,
}

impl Oracle {
    /// Reads the data set at `source`, packing it in `scratch`, a folder of its own that may be removed afterwards.
    ///
    /// Images that can't be read or have no class are left out, and the log says how many. `pool_limit` keeps a random part of the pool, the same one for the same limit.
    ///
    /// # Errors
    /// A source or folder that can't be read or written.
    pub fn read(
        source: &Path,
        class_names: Vec<String>,
        shape: ImageShape,
        pool_limit: Option<usize>,
        scratch: &Path,
        stop: &StopFlag,
    ) -> Result<Self> {
        let options = Options {
            shape,
            split: SplitRule::Auto,
            labels: LabelRule::Keep,
            classes: class_names.clone(),
            skip_count: 0,
            scratch_dir: scratch.to_owned(),
        };
        let mut gathered = Gathered {
            shape,
            segments: Vec::new(),
            rows: Vec::new(),
            left_out_count: 0,
            reason: String::new(),
        };
        import::run(import::open(source, ImportFormat::Auto)?, &options, &mut gathered, stop)?;
        let Gathered { segments, mut rows, left_out_count, reason, .. } = gathered;
        if left_out_count > 0 {
            tracing::warn!(image.count = left_out_count, first.reason = reason, "images were left out");
        }
        rows.sort_unstable_by_key(|row| row.place.hash);
        let (mut pool, test): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.split == Split::Pool);
        if let Some(limit) = pool_limit {
            keep_some(&mut pool, limit);
        }
        let place =
            |rows: &[Row]| Pool::new(shape, segments.clone(), rows.iter().map(|row| row.place).collect());
        let classes = |rows: &[Row]| rows.iter().map(|row| row.class).collect();
        Ok(Self {
            pool: place(&pool)?,
            classes: classes(&pool),
            test: place(&test)?,
            test_classes: classes(&test),
            class_names,
        })
    }

    /// All pool items with their answers.
    #[must_use]
    pub fn known(&self) -> Vec<LabeledItem> {
        (0..).zip(&self.classes).map(|(index, &class)| LabeledItem { index, class }).collect()
    }

    /// Items of each class among `items` of the pool.
    #[must_use]
    pub fn count_classes(&self, items: &[usize]) -> Vec<u32> {
        let mut counts = vec![0; self.class_names.len()];
        for &item in items {
            counts[usize::from(self.classes[item].0)] += 1;
        }
        counts
    }
}

/// Keeps the `limit` rows whose hashes draw the smallest numbers; they stay in order.
fn keep_some(rows: &mut Vec<Row>, limit: usize) {
    let number = |hash: &ContentHash| StreamKey::new(0, "simulate.pool").with_content(hash).number();
    let mut drawn: Vec<_> = rows.iter().map(|row| (number(&row.place.hash), row.place.hash)).collect();
    drawn.sort_unstable();
    drawn.truncate(limit);
    let kept: HashSet<ContentHash> = drawn.into_iter().map(|(_, hash)| hash).collect();
    rows.retain(|row| kept.contains(&row.place.hash));
}

struct Row {
    place: PoolRow,
    split: Split,
    class: ClassIndex,
}

/// Segments as they come; their files go with the scratch folder, their mapped contents stay.
struct Gathered {
    shape: ImageShape,
    segments: Vec<Arc<SegmentTensor>>,
    rows: Vec<Row>,
    left_out_count: u64,
    /// Which image was left out first, and why.
    reason: String,
}

impl Gathered {
    fn leave_out(&mut self, name: &str, reason: &str) {
        if self.left_out_count == 0 {
            self.reason = format!("{name}: {reason}");
        }
        self.left_out_count += 1;
    }
}

impl Sink for Gathered {
    fn commit(&mut self, segment: PreparedSegment) -> std::result::Result<Committed, SinkError> {
        for rejection in &segment.rejected {
            self.leave_out(&rejection.name, &rejection.reason);
        }
        let Some(files) = segment.files else { return Ok(Committed::default()) };
        let number = u32::try_from(self.segments.len())?;
        self.segments.push(Arc::new(SegmentTensor::open(
            &files.tensor_path,
            self.shape,
            segment.rows.len(),
        )?));
        let added_count = segment.rows.len() as u64;
        for (row, prepared) in (0..).zip(segment.rows) {
            let place = PoolRow { segment: number, row, hash: prepared.hash };
            match prepared.class {
                Some(class) => self.rows.push(Row { place, split: prepared.split, class }),
                None => self.leave_out(&prepared.name, "the source gives it no class"),
            }
        }
        Ok(Committed { added_count, ..Committed::default() })
    }

    fn progress(&mut self, _read_count: u64, _entry_count: Option<u64>) {}
}
