//! The momentum encoder and its queue of keys: what MoCo keeps beside the network that it trains (He et al. 2020, arXiv:1911.05722).
//!
//! The encoder is a second pair of stores that follows the first in one flat pass. The queue is a ring of normalised keys, each with the content
//! hash of its item, so that an item can be compared with the keys of all others. Both are plain numbers that a checkpoint holds.
//! Called by `pretext` on the thread that owns the work.

use candle_core::{Device, Tensor};

use super::head;
use super::initialize::draw_normal;
use super::ops::optimizer::follow;
use super::parameters::ParameterStore;
use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;

/// The slow copy of backbone and projection head, and the keys it made.
#[derive(Clone, Debug, PartialEq)]
pub struct MomentumEncoder {
    /// The key encoder's backbone; its running statistics are its own.
    pub backbone: ParameterStore,
    /// The key encoder's projection head.
    pub head: ParameterStore,
    /// Keys of earlier batches.
    pub queue: KeyQueue,
}

impl MomentumEncoder {
    /// Starts as a copy of the query encoder.
    #[must_use]
    pub fn new(backbone: &ParameterStore, head: &ParameterStore, queue: KeyQueue) -> Self {
        Self { backbone: backbone.clone(), head: head.clone(), queue }
    }

    /// Moves both stores towards the query encoder's, keeping `momentum` (0 to 1) of themselves.
    pub fn follow(&mut self, backbone: &ParameterStore, head: &ParameterStore, momentum: f32) {
        follow(&mut self.backbone.values, &backbone.values, momentum);
        follow(&mut self.head.values, &head.values, momentum);
    }
}

/// A ring of keys.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyQueue {
    width: usize,
    /// [K, W], each key of length 1.
    keys: Vec<f32>,
    /// Whose key each is; `None` for one that was drawn at the start.
    items: Vec<Option<ContentHash>>,
    next: usize,
}

impl KeyQueue {
    /// `count` random directions in `width` dimensions, which belong to no item; `key` names the stream they are drawn from.
    #[must_use]
    pub fn random(width: usize, count: usize, key: StreamKey) -> Self {
        let mut stream = key.stream();
        let mut keys: Vec<f32> = (0..width * count).map(|_| draw_normal(&mut stream)).collect();
        for key in keys.chunks_exact_mut(width.max(1)) {
            let length = key.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            key.iter_mut().for_each(|value| *value /= length);
        }
        Self { width, keys, items: vec![None; count], next: 0 }
    }

    /// A queue from its saved numbers; `None` when they don't fit each other.
    #[must_use]
    pub fn from_parts(
        width: usize,
        keys: Vec<f32>,
        items: Vec<Option<ContentHash>>,
        next: usize,
    ) -> Option<Self> {
        let fits = keys.len() == items.len() * width && (next < items.len() || items.is_empty());
        fits.then_some(Self { width, keys, items, next })
    }

    /// Numbers of a key, W.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Keys that are kept, K.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no key is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The keys as they lie in the ring, [K, W].
    #[must_use]
    pub fn keys(&self) -> &[f32] {
        &self.keys
    }

    /// Whose each key is; `None` for those that were drawn at the start.
    #[must_use]
    pub fn items(&self) -> &[Option<ContentHash>] {
        &self.items
    }

    /// The place of the oldest key, which the next one takes.
    #[must_use]
    pub fn next(&self) -> usize {
        self.next
    }

    /// Replaces the oldest keys by `keys` [N, W] of `items`; of more than there is room for, the last stay.
    pub fn push(&mut self, keys: &[f32], items: impl ExactSizeIterator<Item = ContentHash>) {
        let surplus = items.len().saturating_sub(self.items.len());
        for (key, item) in keys.chunks_exact(self.width.max(1)).zip(items).skip(surplus) {
            self.keys[self.next * self.width..][..self.width].copy_from_slice(key);
            self.items[self.next] = Some(item);
            self.next = (self.next + 1) % self.items.len();
        }
    }
}

/// The queue's keys on a device. [K, W]
pub(super) fn key_tensor(queue: &KeyQueue, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_slice(queue.keys(), (queue.len(), queue.width()), device)
}

/// What an encoder's head makes of its `features` [N, D]: projections [N, W] of length 1, without history.
///
/// # Errors
/// Features that don't fit the head, or the device's.
pub fn project_plain(features: &Tensor, head: &ParameterStore) -> candle_core::Result<Tensor> {
    head::project(features, &head::tensors(head, features.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> ContentHash {
        ContentHash([number; 32])
    }

    fn owners(queue: &KeyQueue) -> Vec<Option<u8>> {
        queue.items().iter().map(|item| item.map(|hash| hash.0[0])).collect()
    }

    #[test]
    fn the_oldest_keys_go_first_and_the_ring_wraps() {
        let mut queue = KeyQueue::random(2, 5, StreamKey::new(7, "queue"));
        assert!(queue.keys().chunks(2).all(|key| (key[0].hypot(key[1]) - 1.0).abs() < 1e-6));
        queue.push(&[1.0; 6], [1, 2, 3].map(hash).into_iter());
        assert_eq!(owners(&queue), [Some(1), Some(2), Some(3), None, None]);
        queue.push(&[2.0; 6], [4, 5, 6].map(hash).into_iter());
        assert_eq!((owners(&queue), queue.next()), (vec![Some(6), Some(2), Some(3), Some(4), Some(5)], 1));
        assert_eq!(queue.keys(), [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn of_more_keys_than_there_is_room_for_the_last_stay() {
        let mut queue = KeyQueue::random(1, 2, StreamKey::new(7, "queue"));
        queue.push(&[1.0, 2.0, 3.0], [1, 2, 3].map(hash).into_iter());
        assert_eq!((owners(&queue), queue.keys()), (vec![Some(2), Some(3)], &[2.0, 3.0][..]));
    }

    #[test]
    fn saved_parts_that_do_not_fit_each_other_are_no_queue() {
        let items = vec![Some(hash(1)), None];
        assert!(KeyQueue::from_parts(3, vec![0.0; 6], items.clone(), 1).is_some());
        assert!(KeyQueue::from_parts(3, vec![0.0; 5], items.clone(), 1).is_none());
        assert!(KeyQueue::from_parts(3, vec![0.0; 6], items, 2).is_none());
    }

    #[test]
    fn the_follower_keeps_its_share_of_itself() {
        let (mut slow, mut fast) = (head::linear(1, 1), head::linear(1, 1));
        slow.values.fill(1.0);
        fast.values.fill(2.0);
        let queue = KeyQueue::random(1, 1, StreamKey::new(7, "queue"));
        let mut encoder = MomentumEncoder::new(&slow, &slow, queue);
        encoder.follow(&fast, &fast, 0.75);
        assert_eq!((encoder.backbone.values, encoder.head.values), (vec![1.25; 2], vec![1.25; 2]));
    }
}
