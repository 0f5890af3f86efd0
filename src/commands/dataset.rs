//! Data sets whose answers are known, for `demo` and `simulate`: where they lie, what their classes are called, and the answers.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::domain::import::ImportFormat;
use crate::domain::item::Split;
use crate::domain::settings::ImageShape;
use crate::import::{self, SourceClass};

/// Where Debian's package `dataset-fashion-mnist` puts its files.
const FASHION_MNIST: &str = "/usr/share/datasets/fashion-mnist";

const FASHION_MNIST_CLASSES: [&str; 10] = [
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

const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// A data set whose answers are known.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Name of the project that the demo makes from it, and of the data set in reports.
    pub project: String,
    /// Folder or archive.
    pub source: PathBuf,
    /// Class names by number.
    pub classes: Vec<String>,
    /// Size of the packed images.
    pub image: ImageShape,
    /// Passes of the demo's pretext task, so that the first batch opens within ten minutes on two cores.
    pub pretext_epochs: u32,
    /// Whether the source has a test split.
    pub has_test_split: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    name: &'a str,
    class: &'a str,
}

impl Dataset {
    /// The data set of this name, or a folder or archive with a folder for each class.
    pub fn find(name: &str, source: Option<&Path>) -> anyhow::Result<Self> {
        let owned = |classes: [&str; 10]| classes.map(str::to_owned).to_vec();
        match name {
            "fashion-mnist" => Ok(Self {
                project: name.to_owned(),
                source: existing(
                    source.unwrap_or(Path::new(FASHION_MNIST)),
                    "apt-get install dataset-fashion-mnist brings it",
                )?,
                classes: owned(FASHION_MNIST_CLASSES),
                image: ImageShape { size: 28, channels: 1 },
                pretext_epochs: 2,
                has_test_split: true,
            }),
            "cifar10" => {
                let Some(source) = source else {
                    bail!(
                        "cifar10 isn't packaged by Debian; say where it lies: --source cifar-10-binary.tar.gz, or a tar or folder of train/<class> and test/<class>"
                    );
                };
                Ok(Self {
                    project: name.to_owned(),
                    source: existing(source, "give the path of the archive or folder")?,
                    classes: owned(CIFAR10_CLASSES),
                    image: ImageShape { size: 32, channels: 3 },
                    pretext_epochs: 2,
                    has_test_split: true,
                })
            }
            path => {
                Self::from_path(&existing(Path::new(path), "use fashion-mnist, cifar10 or an existing path")?)
            }
        }
    }

    fn from_path(source: &Path) -> anyhow::Result<Self> {
        let stem = source.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
        let plain: String =
            stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
        let (mut classes, mut has_test_split) = (std::collections::BTreeSet::new(), false);
        for entry in import::open(source, ImportFormat::Auto)? {
            let entry = entry?;
            has_test_split |= entry.split == Some(Split::Test);
            if let Some(SourceClass::Name(class)) = entry.class {
                classes.insert(class);
            }
        }
        if classes.len() < 2 {
            bail!(
                "{} needs a folder for each of at least two classes, since there is no other way to their names",
                source.display()
            );
        }
        Ok(Self {
            project: format!("demo-{}", plain.trim_matches('-')),
            source: source.to_owned(),
            classes: classes.into_iter().collect(),
            image: ImageShape { size: 32, channels: 3 },
            pretext_epochs: 2,
            has_test_split,
        })
    }

    /// Writes `item name,class` for every pool image whose class the source knows; returns their number. Blocks on the disk.
    pub fn write_answers(&self, target: &Path) -> anyhow::Result<u64> {
        let mut writer = csv::Writer::from_path(target)
            .with_context(|| format!("{} can't be written", target.display()))?;
        let mut count = 0;
        for entry in import::open(&self.source, ImportFormat::Auto)? {
            let entry = entry?;
            if entry.split == Some(Split::Test) {
                continue;
            }
            let class = match &entry.class {
                Some(SourceClass::Name(name)) => Some(name.as_str()),
                Some(SourceClass::Number(number)) => self.classes.get(*number as usize).map(String::as_str),
                None => None,
            };
            if let Some(class) = class {
                writer.serialize(Answer { name: &entry.name, class })?;
                count += 1;
            }
        }
        writer.flush()?;
        Ok(count)
    }
}

fn existing(path: &Path, remedy: &str) -> anyhow::Result<PathBuf> {
    std::fs::canonicalize(path).with_context(|| format!("{} can't be read; {remedy}", path.display()))
}
