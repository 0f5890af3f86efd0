//! InfoNCE: the loss of telling a query's own key from the keys of a queue (van den Oord et al. 2018, arXiv:1807.03748, in MoCo's form).
//!
//! `training_loss` has history and trains; `item_losses` is its plain form for scoring, which leaves an item's own keys in the queue out. Both take
//! projections of length 1, so products are cosines.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::head::layer;
use super::loss::cross_entropy;
use super::momentum::{KeyQueue, key_tensor};
use super::ops::contrast::info_nce;
use super::ops::install;
use crate::domain::content_hash::ContentHash;

/// Mean loss of `queries` [N, W] whose own keys are `keys` [N, W], a scalar with history, and how many queries are closest to their own key.
///
/// # Errors
/// Shapes that don't fit, or the device's.
pub fn training_loss(
    queries: &Tensor,
    keys: &Tensor,
    queue: &KeyQueue,
    temperature: f64,
) -> Result<(Tensor, usize)> {
    if queries.device().is_cpu() {
        info_nce(queries, keys, &key_tensor(queue, queries.device())?, temperature as f32)
    } else {
        composed_loss(queries, keys, queue, temperature)
    }
}

/// The same in candle's operations: what runs on CUDA, and the reference of the kernel.
fn composed_loss(
    queries: &Tensor,
    keys: &Tensor,
    queue: &KeyQueue,
    temperature: f64,
) -> Result<(Tensor, usize)> {
    let own = (queries * keys)?.sum_keepdim(1)?; // [N, 1]
    let logits = (Tensor::cat(&[own, cosines(queries, queue)?], 1)? / temperature)?; // [N, 1 + K]
    let nearest = logits.argmax(1)?.to_vec1::<u32>()?;
    let loss = cross_entropy(&logits, &vec![0; nearest.len()])?;
    Ok((loss, nearest.iter().filter(|&&place| place == 0).count()))
}

/// Cosines of queries [N, W] with the keys of the queue, [N, K].
fn cosines(queries: &Tensor, queue: &KeyQueue) -> Result<Tensor> {
    let zeros = Tensor::zeros(queue.len(), queries.dtype(), queries.device())?;
    layer(queries, &key_tensor(queue, queries.device())?, &zeros)
}

/// Mean loss of each item in nats over its pairs of views: `queries` and `keys` are [I × M, W], M rows an item, `items` are the I items.
///
/// Keys of the item itself and keys of no item don't count. A row doesn't depend on its neighbours.
///
/// # Errors
/// Shapes that don't fit, or the device's.
pub fn item_losses(
    queries: &Tensor,
    keys: &Tensor,
    queue: &KeyQueue,
    temperature: f32,
    items: &[ContentHash],
) -> Result<Vec<f32>> {
    let own = (queries * keys)?.sum(1)?.to_vec1::<f32>()?;
    let others = cosines(queries, queue)?.flatten_all()?.to_vec1::<f32>()?;
    let pair_count = own.len() / items.len().max(1);
    let pairs = own.par_chunks(pair_count.max(1)).zip(others.par_chunks((pair_count * queue.len()).max(1)));
    let mean = |((own, others), item): ((&[f32], &[f32]), &ContentHash)| {
        let rows = own.iter().zip(others.chunks_exact(queue.len().max(1)));
        let losses = rows.map(|(own, others)| pair_loss(*own, others, queue, temperature, item));
        losses.sum::<f32>() / pair_count as f32
    };
    Ok(install(|| pairs.zip(items.par_iter()).map(mean).collect()))
}

/// `−ln( e^{own/T} / (e^{own/T} + Σ e^{other/T}) )` over the keys of other items.
fn pair_loss(own: f32, others: &[f32], queue: &KeyQueue, temperature: f32, item: &ContentHash) -> f32 {
    // Relative to the own key: cosines differ by 2 at most, which f64 bears at any allowed temperature.
    let exponent = |cosine: f32| f64::from((cosine - own) / temperature).exp();
    let counted = others.iter().zip(queue.items());
    let counted = counted.filter(|(_, owner)| owner.is_some_and(|owner| owner != *item));
    counted.map(|(&cosine, _)| exponent(cosine)).sum::<f64>().ln_1p() as f32
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn queue() -> KeyQueue {
        let keys = vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        let items = [Some(1), Some(2), None].map(|owner| owner.map(|number| ContentHash([number; 32])));
        KeyQueue::from_parts(2, keys, items.to_vec(), 0).unwrap()
    }

    /// By hand: the query (1, 0) has cosine 0.6 with its key and 1, 0, −1 with the queue.
    #[test]
    fn the_training_loss_is_the_definition_and_its_gradient_pulls_towards_the_key() {
        let queries = Var::new(&[[1f32, 0.0]], &Device::Cpu).unwrap();
        let keys = Tensor::new(&[[0.6f32, 0.8]], &Device::Cpu).unwrap();
        let (loss, correct_count) = training_loss(&queries, &keys, &queue(), 0.5).unwrap();
        let exponents = [1.2f64, 2.0, 0.0, -2.0].map(f64::exp);
        let sum: f64 = exponents.iter().sum();
        let expected = -(exponents[0] / sum).ln();
        assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - expected).abs() < 1e-6);
        assert_eq!(correct_count, 0);
        let gradient = loss.backward().unwrap().get(&queries).unwrap().to_vec2::<f32>().unwrap();
        // (Σ p_j n_j + (p_0 − 1) k) / T
        let p = exponents.map(|exponent| exponent / sum);
        let expected = [(p[1] - p[3] + (p[0] - 1.0) * 0.6) / 0.5, (p[2] + (p[0] - 1.0) * 0.8) / 0.5];
        for (found, expected) in gradient[0].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{gradient:?} for {expected:?}");
        }
    }

    #[test]
    fn the_kernel_agrees_with_candles_operations() {
        let key = crate::domain::seed::StreamKey::new(7, "contrast");
        let rows = |count: usize, number: u64| {
            let drawn = KeyQueue::random(37, count, key.clone().with_number(number));
            Tensor::from_slice(drawn.keys(), (count, 37), &Device::Cpu).unwrap()
        };
        let queue = KeyQueue::random(37, 150, key.clone());
        let queries = Var::from_tensor(&rows(20, 1)).unwrap();
        // Half of the keys are the queries themselves, so that some are right.
        let keys = Tensor::cat(&[queries.narrow(0, 0, 10).unwrap(), rows(10, 2)], 0).unwrap().detach();
        let gradient = |(loss, correct_count): (Tensor, usize)| {
            let gradient = (&loss * 3.0).unwrap().backward().unwrap().get(&queries).unwrap().clone();
            (
                loss.to_scalar::<f32>().unwrap(),
                correct_count,
                gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            )
        };
        let ours = gradient(training_loss(&queries, &keys, &queue, 0.1).unwrap());
        let theirs = gradient(composed_loss(&queries, &keys, &queue, 0.1).unwrap());
        assert_eq!((ours.1, theirs.1 >= 10), (theirs.1, true));
        assert!((ours.0 - theirs.0).abs() < 1e-5, "{} for {}", ours.0, theirs.0);
        for (ours, theirs) in ours.2.iter().zip(&theirs.2) {
            assert!((ours - theirs).abs() < 1e-5, "{ours} for {theirs}");
        }
        let wide = rows(3, 3);
        assert!(training_loss(&wide, &keys, &queue, 0.1).is_err());
    }

    #[test]
    fn an_item_is_compared_with_the_keys_of_others_alone() {
        let queries = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let keys = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
        let losses =
            |item: u8| item_losses(&queries, &keys, &queue(), 0.5, &[ContentHash([item; 32])]).unwrap()[0];
        // The two views of item 1 see item 2's key (0, 1): cosines 0 and 1; item 9 sees both keys in both views.
        let near = |cosine: f32| ((cosine - 1.0) / 0.5f32).exp();
        let of_first = (near(0.0).ln_1p() + near(1.0).ln_1p()) / 2.0;
        let of_other = (near(1.0) + near(0.0)).ln_1p();
        assert!((losses(1) - of_first).abs() < 1e-6, "{}", losses(1));
        assert!((losses(9) - of_other).abs() < 1e-6, "{}", losses(9));
    }
}
