//! How a batch is cut into the pieces that threads work on.
//!
//! A span is what one thread takes through several kernels while it is in its cache; it never crosses a batch-norm
//! group. The cut depends on the batch and the layer alone, not on the number of threads, and sums are combined in its
//! order: the same batch gives the same bits on any number of threads.

use std::ops::Range;

use crate::nn::ops::geometry::split_evenly;

/// Pieces of a batch with their own partial sum of a weight's gradient.
const PART_COUNT: usize = 8;

/// Consecutive images of one batch-norm group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub images: Range<usize>,
    pub group: usize,
}

/// A batch and its batch-norm groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub image_count: usize,
    pub group_count: usize,
}

impl Batch {
    /// Images of one group.
    pub(super) fn group_len(self) -> usize {
        self.image_count / self.group_count
    }

    /// Spans of at most `longest` images, and at least as many as there are parts.
    pub(super) fn spans(self, longest: usize) -> Vec<Span> {
        self.cut(longest.min(self.part_len()))
    }

    /// The few larger pieces that have their own partial sums; each is worked through span by span.
    pub(super) fn parts(self) -> Vec<Span> {
        self.cut(self.part_len())
    }

    fn part_len(self) -> usize {
        self.group_len().div_ceil(PART_COUNT.div_ceil(self.group_count))
    }

    fn cut(self, longest: usize) -> Vec<Span> {
        let len = self.group_len();
        (0..self.group_count)
            .flat_map(|group| {
                let shift = move |part: Range<usize>| group * len + part.start..group * len + part.end;
                split_evenly(len, longest).into_iter().map(move |part| Span { images: shift(part), group })
            })
            .collect()
    }
}

/// The images of each span as a slice of its own.
pub(super) fn split<'a, T>(spans: &[Span], images: &'a [T], image_len: usize) -> Vec<&'a [T]> {
    spans.iter().map(|span| &images[span.images.start * image_len..span.images.end * image_len]).collect()
}

/// The images of each span as a mutable slice of its own; the spans follow each other without a gap from image 0.
pub(super) fn split_mut<'a, T>(spans: &[Span], images: &'a mut [T], image_len: usize) -> Vec<&'a mut [T]> {
    let mut rest = images;
    let mut parts = Vec::with_capacity(spans.len());
    for span in spans {
        let (part, tail) = rest.split_at_mut(span.images.len() * image_len);
        parts.push(part);
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_the_batch_and_stay_inside_their_group() {
        let batch = Batch { image_count: 24, group_count: 2 };
        for spans in [batch.spans(1), batch.spans(2), batch.parts()] {
            let mut next = 0;
            for span in &spans {
                assert_eq!(span.images.start, next);
                assert!(span.images.start / 12 == span.group && (span.images.end - 1) / 12 == span.group);
                next = span.images.end;
            }
            assert_eq!(next, 24);
        }
        assert_eq!(batch.spans(1).len(), 24);
        assert_eq!(batch.spans(100).len(), 8);
        assert_eq!(batch.parts().len(), 8);
    }

    #[test]
    fn slices_follow_the_spans() {
        let batch = Batch { image_count: 3, group_count: 1 };
        let mut images: Vec<f32> = (0..6).map(|value| value as f32).collect();
        let spans = batch.spans(1);
        assert_eq!(split(&spans, &images, 2)[2], [4.0, 5.0]);
        split_mut(&spans, &mut images, 2)[1].fill(9.0);
        assert_eq!(images, [0.0, 1.0, 9.0, 9.0, 4.0, 5.0]);
    }
}
