//! The items a learner works on, over any number of segments.
//!
//! A pool is read-only and cheap to share; its order is whatever the caller gives, so nothing that must repeat may depend on it: sort
//! by content hash first. All rows are checked against their segments when it is made, so reading can't fail afterwards.

use std::sync::Arc;

use crate::domain::content_hash::ContentHash;
use crate::domain::settings::ImageShape;

use super::segment::{SegmentError, SegmentTensor};

/// Where an item's pixels lie and which content they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRow {
    /// Index into the pool's list of segments.
    pub segment: u32,
    /// Row within that segment.
    pub row: u32,
    /// Hash of the item's content.
    pub hash: ContentHash,
}

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A segment was packed for another shape.
    #[error("segment {segment} holds images of {found:?} where the pool has {expected:?}")]
    Shape {
        /// Index of the segment.
        segment: usize,
        /// Shape of its rows.
        found: ImageShape,
        /// Shape of the pool.
        expected: ImageShape,
    },
    /// A row that no segment has.
    #[error("item {hash} lies in row {row} of segment {segment}, which doesn't exist")]
    Row {
        /// The item.
        hash: ContentHash,
        /// Index of the segment.
        segment: u32,
        /// Row within it.
        row: u32,
    },
    /// Packed rows don't fit together.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Hashes and rows are not equally many.
    #[error("{hash_count} content hashes for {row_count} images")]
    Count {
        /// Number of hashes.
        hash_count: usize,
        /// Number of rows.
        row_count: usize,
    },
}

/// Packed images and their content hashes.
#[derive(Clone, Debug)]
pub struct Pool {
    shape: ImageShape,
    segments: Vec<Arc<SegmentTensor>>,
    rows: Vec<PoolRow>,
}

impl Pool {
    /// A pool of `rows`, in this order, over `segments`; every segment must have `shape` and every row must exist.
    pub fn new(
        shape: ImageShape,
        segments: Vec<Arc<SegmentTensor>>,
        rows: Vec<PoolRow>,
    ) -> Result<Self, PoolError> {
        for (index, segment) in segments.iter().enumerate() {
            if segment.shape() != shape {
                return Err(PoolError::Shape { segment: index, found: segment.shape(), expected: shape });
            }
        }
        for row in &rows {
            let known =
                segments.get(row.segment as usize).is_some_and(|segment| (row.row as usize) < segment.len());
            if !known {
                return Err(PoolError::Row { hash: row.hash, segment: row.segment, row: row.row });
            }
        }
        Ok(Self { shape, segments, rows })
    }

    /// A pool held in memory: `pixels` are whole rows of `shape`, one for each of `hashes`.
    pub fn from_pixels(
        shape: ImageShape,
        hashes: &[ContentHash],
        pixels: Vec<u8>,
    ) -> Result<Self, PoolError> {
        let segment = SegmentTensor::from_rows(pixels, shape)?;
        if segment.len() != hashes.len() {
            return Err(PoolError::Count { hash_count: hashes.len(), row_count: segment.len() });
        }
        let rows = (0..).zip(hashes).map(|(row, &hash)| PoolRow { segment: 0, row, hash }).collect();
        Self::new(shape, vec![Arc::new(segment)], rows)
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Content hash of item `index`; panics when it isn't below `len`, as a slice does.
    #[must_use]
    pub fn hash(&self, index: usize) -> &ContentHash {
        &self.rows[index].hash
    }

    /// Pixels of item `index`, u8 `[size, size, channels]`; panics when it isn't below `len`, as a slice does.
    #[must_use]
    pub fn pixels(&self, index: usize) -> &[u8] {
        let row = &self.rows[index];
        self.segments[row.segment as usize].row(row.row as usize)
    }

    /// Size and channels of every image.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { size: 8, channels: 1 };

    fn segment(values: &[u8]) -> Arc<SegmentTensor> {
        let rows = values.iter().flat_map(|&value| [value; 64]).collect();
        Arc::new(SegmentTensor::from_rows(rows, SHAPE).unwrap())
    }

    #[test]
    fn items_are_found_across_segments_in_the_callers_order() {
        let row = |segment, row, hash| PoolRow { segment, row, hash: ContentHash([hash; 32]) };
        let rows = vec![row(1, 1, 9), row(0, 0, 4)];
        let pool = Pool::new(SHAPE, vec![segment(&[1, 2]), segment(&[3, 4])], rows).unwrap();
        assert_eq!((pool.len(), pool.pixels(0)[0], pool.pixels(1)[0]), (2, 4, 1));
        assert_eq!(pool.hash(1), &ContentHash([4; 32]));
    }

    #[test]
    fn rows_and_shapes_that_do_not_fit_are_refused_before_anything_reads_them() {
        let row = PoolRow { segment: 0, row: 2, hash: ContentHash([0; 32]) };
        assert!(matches!(
            Pool::new(SHAPE, vec![segment(&[1, 2])], vec![row]),
            Err(PoolError::Row { row: 2, .. })
        ));
        let wide = ImageShape { size: 8, channels: 3 };
        assert!(matches!(
            Pool::new(wide, vec![segment(&[1])], vec![]),
            Err(PoolError::Shape { segment: 0, .. })
        ));
        let hashes = [ContentHash([0; 32]); 3];
        assert!(matches!(Pool::from_pixels(SHAPE, &hashes, vec![0; 128]), Err(PoolError::Count { .. })));
    }
}
