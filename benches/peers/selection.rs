//! Gleaner's side of `make bench-selection`: reads one task a line (`strategy folder items features classes count repeats`), selects, and
//! answers `seconds pick pick …` a line, the fastest of the repeats.
//!
//! The folder holds `features.f32` `[N, D]` and `probabilities.f32` `[N, C]`, little-endian. Hashes ascend with the rows. `core_set` has one
//! labelled item whose features are 0.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use gleaner::acquisition::{Candidates, Rows, select};
use gleaner::domain::content_hash::ContentHash;
use gleaner::domain::strategy::Strategy;

fn read(path: &Path) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

fn hash(item: u64) -> ContentHash {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&item.to_be_bytes());
    ContentHash(hash)
}

fn answer(line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [strategy, folder, numbers @ ..] = words.as_slice() else {
        anyhow::bail!("a task is a strategy, a folder and five numbers");
    };
    let numbers: Vec<usize> = numbers.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [item_count, feature_count, class_count, count, repeat_count] = numbers[..] else {
        anyhow::bail!("a task ends with five numbers");
    };
    let strategy: Strategy = serde_json::from_value(serde_json::json!({ "kind": strategy }))?;
    let folder = Path::new(folder);
    let features = read(&folder.join("features.f32"))?;
    let probabilities = read(&folder.join("probabilities.f32"))?;
    let hashes: Vec<_> = (0..item_count as u64).map(hash).collect();
    let labeled_hashes = [hash(u64::MAX)];
    let labeled_features = vec![0.0; feature_count];
    let candidates = Candidates {
        hashes: &hashes,
        probabilities: Some(Rows { values: &probabilities, width: class_count }),
        features: Some(Rows { values: &features, width: feature_count }),
        labeled_hashes: &labeled_hashes,
        labeled_features: Some(Rows { values: &labeled_features, width: feature_count }),
        ..Candidates::default()
    };
    let mut best = f64::INFINITY;
    let mut picks = Vec::new();
    for _ in 0..repeat_count.max(1) {
        let start = Instant::now();
        picks = select(&strategy, &candidates, count, 7, 1)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rows: Vec<_> = picks.iter().map(|pick| pick.index.to_string()).collect();
    Ok(format!("{best} {}", rows.join(" ")))
}

fn main() -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        writeln!(output, "{}", answer(&line?)?)?;
        output.flush()?;
    }
    Ok(())
}
