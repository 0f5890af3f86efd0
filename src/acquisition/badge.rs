//! BADGE: items whose gradients would be large and point different ways, drawn by k-means++ over gradient embeddings.
//!
//! Paper: J. Ash, C. Zhang, A. Krishnamurthy, J. Langford, A. Agarwal, "Deep batch active learning by diverse, uncertain gradient lower
//! bounds", ICLR 2020, Algorithm 1. The embedding is the loss gradient of the head's weights for the likeliest class ŷ as if it were the label,
//! `g = (p − onehot(ŷ)) ⊗ h`. It has C·D numbers and is never formed: `g·g′ = (a·a′)(h·h′)` with `a = p − onehot(ŷ)`, so memory stays at
//! C + D numbers an item. As in the authors' code the first pick is the longest gradient. Duplicates of picks come last, by length.

use crate::domain::seed::StreamKey;

use super::order::{largest, tie_numbers};
use super::points::{Metric, dot};
use super::{AcquisitionError, Candidates, Ranked, Rows, plus_plus};

/// Keeps a bound of rounded numbers below the number that it bounds.
const BOUND_FACTOR: f32 = 0.999;

/// `count` candidates; their score is the distance of the gradient to the nearest picked one, for the first its length.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let missing = |column| AcquisitionError::Missing { strategy: "badge", column };
    let probabilities = candidates.probabilities.ok_or(missing("class probabilities"))?;
    let features = candidates.features.ok_or(missing("features"))?;
    if candidates.hashes.is_empty() || count == 0 {
        return Ok(vec![]);
    }
    let gradients = Gradients::new(candidates, probabilities, features);
    let ties = tie_numbers(candidates.hashes, seed, round);
    let tie = |place: usize| (ties[gradients.order[place]], candidates.hashes[gradients.order[place]]);
    let longer = |&a: &usize, &b: &usize| {
        gradients.lengths[a].total_cmp(&gradients.lengths[b]).then_with(|| tie(b).cmp(&tie(a)))
    };
    let Some(first) = (0..gradients.len()).max_by(longer) else {
        return Ok(vec![]);
    };
    let mut stream = StreamKey::new(seed, "badge").with_number(u64::from(round)).stream();
    let draws = plus_plus::draw(&gradients, first, count, &mut stream);
    let mut picked = vec![false; gradients.len()];
    let mut ranked = Vec::with_capacity(count);
    for (place, squared_distance) in draws {
        let index = gradients.order[place];
        picked[index] = true;
        let score = squared_distance.map_or(gradients.lengths[place], f32::sqrt);
        ranked.push(Ranked { index, score: Some(f64::from(score)) });
    }
    if ranked.len() < count {
        let mut lengths = vec![0.0; gradients.len()];
        for (&index, &length) in gradients.order.iter().zip(&gradients.lengths) {
            lengths[index] = f64::from(length);
        }
        let rest = largest(&lengths, candidates.hashes, lengths.len(), seed, round);
        let rest = rest.into_iter().filter(|ranked| !picked[ranked.index]);
        ranked.extend(rest.map(|rest| Ranked { score: Some(0.0), ..rest }));
        ranked.truncate(count);
    }
    Ok(ranked)
}

/// The two factors of each gradient embedding, in the order of content hashes.
struct Gradients<'a> {
    features: Rows<'a>,
    // Candidate of each place.
    order: Vec<usize>,
    // a = p − onehot(ŷ), [N, C].
    errors: Vec<f32>,
    class_count: usize,
    // |g| = |a|·|h|.
    lengths: Vec<f32>,
}

impl<'a> Gradients<'a> {
    fn new(candidates: &Candidates<'_>, probabilities: Rows<'_>, features: Rows<'a>) -> Self {
        let mut order: Vec<usize> = (0..candidates.hashes.len()).collect();
        order.sort_unstable_by_key(|&index| candidates.hashes[index]);
        let class_count = probabilities.width;
        let mut errors = Vec::with_capacity(order.len() * class_count);
        let mut lengths = Vec::with_capacity(order.len());
        for &index in &order {
            push_error(probabilities.row(index), &mut errors);
            let error = &errors[errors.len() - class_count..];
            let feature = features.row(index);
            lengths.push((dot(error, error) * dot(feature, feature)).sqrt());
        }
        Self { features, order, errors, class_count, lengths }
    }

    fn error(&self, place: usize) -> &[f32] {
        &self.errors[place * self.class_count..][..self.class_count]
    }
}

/// Appends `p − onehot(ŷ)`; the entry of ŷ is minus the sum of the others, which keeps its digits where p is nearly 1.
fn push_error(probabilities: &[f32], errors: &mut Vec<f32>) {
    let mut likeliest = 0;
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[likeliest] {
            likeliest = class;
        }
    }
    let others = probabilities.iter().enumerate().filter(|(class, _)| *class != likeliest);
    let sum: f32 = others.map(|(_, probability)| probability).sum();
    let start = errors.len();
    errors.extend_from_slice(probabilities);
    if let Some(error) = errors.get_mut(start + likeliest) {
        *error = -sum;
    }
}

impl Metric for Gradients<'_> {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn squared_distance(&self, a: usize, b: usize) -> f32 {
        let of_errors = dot(self.error(a), self.error(b));
        let of_features = dot(self.features.row(self.order[a]), self.features.row(self.order[b]));
        let (a, b) = (f64::from(self.lengths[a]), f64::from(self.lengths[b]));
        // In f64, since the terms nearly cancel when two gradients are alike.
        let squared = a * a + b * b - 2.0 * f64::from(of_errors) * f64::from(of_features);
        // What f32 products leave of equal gradients is no distance.
        if squared > 1e-6 * (a * a + b * b) { squared as f32 } else { 0.0 }
    }

    fn squared_distance_at_least(&self, a: usize, b: usize) -> f32 {
        let difference = self.lengths[a] - self.lengths[b];
        difference * difference * BOUND_FACTOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;

    const PROBABILITIES: [f32; 12] = [0.5, 0.25, 0.25, 0.0, 1.0, 0.0, 0.2, 0.2, 0.6, 0.5, 0.25, 0.25];
    const FEATURES: [f32; 8] = [2.0, 0.0, 1.0, 5.0, 0.0, 3.0, 2.0, 0.0];

    fn candidates(hashes: &[ContentHash]) -> Candidates<'_> {
        Candidates {
            hashes,
            probabilities: Some(Rows { values: &PROBABILITIES, width: 3 }),
            features: Some(Rows { values: &FEATURES, width: 2 }),
            ..Candidates::default()
        }
    }

    fn hashes() -> Vec<ContentHash> {
        (0..4u8).map(|item| ContentHash([9 - item; 32])).collect()
    }

    #[test]
    fn factored_distances_are_those_of_the_whole_gradients() {
        let hashes = hashes();
        let candidates = candidates(&hashes);
        let gradients =
            Gradients::new(&candidates, candidates.probabilities.unwrap(), candidates.features.unwrap());
        let whole = |index: usize| {
            let likeliest = [0, 1, 2, 0][index];
            let mut errors = PROBABILITIES[index * 3..][..3].to_vec();
            errors[likeliest] -= 1.0;
            let features = &FEATURES[index * 2..][..2];
            errors.iter().flat_map(|error| features.iter().map(move |value| error * value)).collect()
        };
        for (a, &a_index) in gradients.order.iter().enumerate() {
            for (b, &b_index) in gradients.order.iter().enumerate() {
                let (left, right): (Vec<f32>, Vec<f32>) = (whole(a_index), whole(b_index));
                let expected: f32 = left.iter().zip(&right).map(|(x, y)| (x - y) * (x - y)).sum();
                let found = gradients.squared_distance(a, b);
                assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
                assert!(gradients.squared_distance_at_least(a, b) <= found + 1e-6);
            }
        }
    }

    #[test]
    fn the_longest_gradient_is_first_and_a_duplicate_of_a_pick_last() {
        // |g|: item 0 and its twin 3 √.375·2 = 1.2247; item 1 is certain: 0; item 2 √.24·3 = 1.4697.
        let hashes = hashes();
        let picks = pick(&candidates(&hashes), 4, 7, 1).unwrap();
        assert_eq!(picks[0].index, 2);
        assert!((picks[0].score.unwrap() - 1.469_694).abs() < 1e-5, "{picks:?}");
        let twins: Vec<_> =
            picks.iter().map(|pick| pick.index).filter(|index| [0, 3].contains(index)).collect();
        assert_eq!(twins.len(), 2);
        assert_eq!((picks[3].index, picks[3].score), (twins[1], Some(0.0)));
    }
}
