//! The first images of the real Fashion-MNIST as smaller IDX files, and their classes by item name.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

const FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// The classes of Fashion-MNIST in the order of their indices.
pub const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

fn gunzip(name: &str) -> Vec<u8> {
    let path = Path::new(FOLDER).join(name);
    let file = File::open(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; apt-get install dataset-fashion-mnist", path.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("a whole gzip file");
    bytes
}

/// Cuts an IDX file to its first `count` rows of `row_bytes`, after a header of `header_bytes` whose second word is the count.
fn cut(bytes: &[u8], header_bytes: usize, row_bytes: usize, count: usize) -> Vec<u8> {
    let mut cut = bytes[..header_bytes + count * row_bytes].to_vec();
    cut[4..8].copy_from_slice(&u32::try_from(count).expect("small").to_be_bytes());
    cut
}

/// Writes the first `pool` training and `test` test images into `folder` as IDX files, and returns item name → class of the pool.
pub fn write_subset(folder: &Path, pool: usize, test: usize) -> HashMap<String, String> {
    fs::create_dir_all(folder).expect("a folder for the subset");
    let mut answers = HashMap::new();
    for (prefix, split, count) in [("train", "train", pool), ("t10k", "test", test)] {
        let images = gunzip(&format!("{prefix}-images-idx3-ubyte.gz"));
        let labels = gunzip(&format!("{prefix}-labels-idx1-ubyte.gz"));
        let write = |kind: &str, bytes: Vec<u8>| {
            fs::write(folder.join(format!("{prefix}-{kind}-ubyte")), bytes).expect("the subset is written");
        };
        write("images-idx3", cut(&images, 16, 28 * 28, count));
        write("labels-idx1", cut(&labels, 8, 1, count));
        if split == "train" {
            for (index, label) in labels[8..8 + count].iter().enumerate() {
                answers.insert(format!("{split}/{index:05}"), CLASSES[usize::from(*label)].to_owned());
            }
        }
    }
    answers
}
