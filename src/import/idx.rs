//! Reads IDX files (MNIST, Fashion-MNIST), plain or gzipped: an image file and the label file beside it.
//!
//! Private to `import`. Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database": big-endian magic 0x00000803 and three extents for
//! images, 0x00000801 and one extent for labels. Items are named `train/00000`, `test/00000`; files called t10k or test are the test split.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::domain::item::Split;

use super::stream::Stream;
use super::{Entry, EntryPayload, ImportError, Source, SourceClass};

const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;
const EDGE_MAX: u32 = 4096;

/// Whether these first bytes are those of an IDX image or label file.
pub(super) fn is_header(start: &[u8]) -> bool {
    start.starts_with(&IMAGES_MAGIC.to_be_bytes()) || start.starts_with(&LABELS_MAGIC.to_be_bytes())
}

/// Whether a folder holds IDX image files.
pub(super) fn is_in(folder: &Path) -> bool {
    list_image_files(folder).is_ok_and(|files| !files.is_empty())
}

fn list_image_files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let unreadable = |source| ImportError::unreadable(folder, source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = file_name(&path).to_ascii_lowercase();
        if name.contains("images") && name.contains("idx3") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The label file that belongs to an image file, gzipped or not.
fn find_labels(images: &Path) -> Option<PathBuf> {
    let name = file_name(images).replace("images", "labels").replace("idx3", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let beside =
        [name.clone(), plain.to_owned(), format!("{plain}.gz")].map(|name| images.with_file_name(name));
    beside.into_iter().find(|labels| labels != images && labels.is_file())
}

/// One image file that is being read with its labels.
struct Part {
    images_path: PathBuf,
    images: Stream,
    labels: Option<Stream>,
    split: Option<Split>,
    width: u32,
    height: u32,
    count: u64,
    position: u64,
}

impl Part {
    fn open(images_path: &Path) -> Result<Self, ImportError> {
        let mut images = Stream::open(images_path)?;
        let [count, height, width] = read_header(&mut images, images_path, IMAGES_MAGIC)?;
        if !(1..=EDGE_MAX).contains(&width) || !(1..=EDGE_MAX).contains(&height) {
            let reason =
                format!("it holds images of {width} x {height} pixels; 1 to {EDGE_MAX} are possible");
            return Err(ImportError::malformed(images_path, reason));
        }
        let labels = match find_labels(images_path) {
            None => None,
            Some(path) => {
                let mut labels = Stream::open(&path)?;
                let [label_count] = read_header(&mut labels, &path, LABELS_MAGIC)?;
                if label_count != count {
                    let reason = format!("it holds {label_count} labels for {count} images");
                    return Err(ImportError::malformed(&path, reason));
                }
                Some(labels)
            }
        };
        let name = file_name(images_path).to_ascii_lowercase();
        let split = if name.contains("train") {
            Some(Split::Pool)
        } else if name.contains("t10k") || name.contains("test") {
            Some(Split::Test)
        } else {
            None
        };
        let images_path = images_path.to_owned();
        Ok(Self { images_path, images, labels, split, width, height, count: count.into(), position: 0 })
    }

    fn next_entry(&mut self) -> io::Result<Entry> {
        let byte_count = u64::from(self.width) * u64::from(self.height);
        let pixels = self.images.read_up_to(byte_count)?;
        if (pixels.len() as u64) < byte_count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let class = match &mut self.labels {
            None => None,
            Some(labels) => match labels.read_up_to(1)?.first() {
                Some(&label) => Some(SourceClass::Number(label.into())),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        };
        let name = match self.split {
            Some(Split::Pool) => format!("train/{:05}", self.position),
            Some(Split::Test) => format!("test/{:05}", self.position),
            None => format!("{:05}", self.position),
        };
        self.position += 1;
        let payload =
            Ok(EntryPayload::Pixels { width: self.width, height: self.height, channels: 1, pixels });
        Ok(Entry { name, split: self.split, class, payload })
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        self.images.skip(count * u64::from(self.width) * u64::from(self.height))?;
        if let Some(labels) = &mut self.labels {
            labels.skip(count)?;
        }
        self.position += count;
        Ok(())
    }
}

fn read_header<const N: usize>(
    stream: &mut Stream,
    path: &Path,
    magic: u32,
) -> Result<[u32; N], ImportError> {
    let bytes =
        stream.read_up_to(4 + 4 * N as u64).map_err(|source| ImportError::unreadable(path, source))?;
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
    match words.split_first() {
        Some((&found, extents)) if found == magic => {
            extents.try_into().map_err(|_| ImportError::malformed(path, "it ends within its IDX header"))
        }
        _ => {
            let wanted = if magic == IMAGES_MAGIC { "image" } else { "label" };
            Err(ImportError::malformed(
                path,
                format!("it is no IDX {wanted} file of bytes (magic {magic:#010x})"),
            ))
        }
    }
}

/// IDX files that are being read, train before test.
pub(super) struct IdxSource {
    parts: VecDeque<Part>,
    entry_count: u64,
    read_count: u64,
}

impl IdxSource {
    /// Opens the image files in the folder `path`, or the one image file `path`.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let files = if path.is_dir() { list_image_files(path)? } else { vec![path.to_owned()] };
        if files.is_empty() {
            let reason = "it holds no IDX image files; names such as train-images-idx3-ubyte.gz are expected";
            return Err(ImportError::malformed(path, reason));
        }
        let mut parts: Vec<_> = files.iter().map(|file| Part::open(file)).collect::<Result<_, _>>()?;
        parts.sort_by_key(|part| part.split == Some(Split::Test));
        if let Some(pair) = parts.windows(2).find(|pair| pair[0].split == pair[1].split) {
            let reason = format!(
                "it belongs to the same split as {}; import one of them",
                pair[0].images_path.display()
            );
            return Err(ImportError::malformed(&pair[1].images_path, reason));
        }
        let entry_count = parts.iter().map(|part| part.count).sum();
        Ok(Self { parts: parts.into(), entry_count, read_count: 0 })
    }

    /// The part that the next entry comes from.
    fn current(&mut self) -> Option<&mut Part> {
        while self.parts.front().is_some_and(|part| part.position == part.count) {
            self.parts.pop_front();
        }
        self.parts.front_mut()
    }

    fn broken(&mut self, error: &io::Error) -> ImportError {
        let reason = if error.kind() == io::ErrorKind::UnexpectedEof {
            "it ends before its last image".to_owned()
        } else {
            error.to_string()
        };
        let path = self.parts.front().map(|part| part.images_path.clone()).unwrap_or_default();
        self.parts.clear();
        ImportError::Broken { path, read_count: self.read_count, reason }
    }
}

impl Iterator for IdxSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.current()?.next_entry() {
            Ok(entry) => {
                self.read_count += 1;
                Some(Ok(entry))
            }
            Err(error) => Some(Err(self.broken(&error))),
        }
    }
}

impl Source for IdxSource {
    fn entry_count(&self) -> Option<u64> {
        Some(self.entry_count)
    }

    fn class_names(&self) -> Option<&[String]> {
        None
    }

    fn skip_entries(&mut self, mut count: u64) -> Result<(), ImportError> {
        while count > 0 {
            let Some(part) = self.current() else { break };
            let here = count.min(part.count - part.position);
            if let Err(error) = part.skip(here) {
                return Err(self.broken(&error));
            }
            count -= here;
            self.read_count += here;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(magic: u32, extents: &[u32], content: &[u8]) -> Vec<u8> {
        let words = [&[magic], extents].concat();
        words.iter().flat_map(|word| word.to_be_bytes()).chain(content.iter().copied()).collect()
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn two_parts() -> tempfile::TempDir {
        folder(&[
            ("t10k-images-idx3-ubyte", idx(IMAGES_MAGIC, &[1, 2, 2], &[9; 4])),
            ("t10k-labels-idx1-ubyte", idx(LABELS_MAGIC, &[1], &[3])),
            ("train-images-idx3-ubyte", idx(IMAGES_MAGIC, &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8])),
            ("train-labels-idx1-ubyte", idx(LABELS_MAGIC, &[2], &[0, 7])),
        ])
    }

    #[test]
    fn train_comes_before_test_with_names_splits_and_numbers() {
        let folder = two_parts();
        assert!(is_in(folder.path()));
        let entries: Vec<_> = IdxSource::open(folder.path()).unwrap().map(Result::unwrap).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["train/00000", "train/00001", "test/00000"]);
        let pixels = EntryPayload::Pixels { width: 2, height: 2, channels: 1, pixels: vec![5, 6, 7, 8] };
        assert_eq!((&entries[1].payload, &entries[1].class), (&Ok(pixels), &Some(SourceClass::Number(7))));
        assert_eq!((entries[2].split, &entries[2].class), (Some(Split::Test), &Some(SourceClass::Number(3))));
    }

    #[test]
    fn skipping_crosses_from_one_file_to_the_next() {
        let folder = two_parts();
        for (skipped, next) in
            [(0, Some("train/00000")), (1, Some("train/00001")), (2, Some("test/00000")), (3, None)]
        {
            let mut source = IdxSource::open(folder.path()).unwrap();
            source.skip_entries(skipped).unwrap();
            let entry = source.next().map(Result::unwrap);
            assert_eq!(entry.as_ref().map(|entry| entry.name.as_str()), next);
        }
    }

    #[test]
    fn a_file_that_ends_early_names_how_far_it_was_read() {
        let folder = folder(&[("train-images-idx3-ubyte", idx(IMAGES_MAGIC, &[3, 2, 2], &[1; 9]))]);
        let outcomes: Vec<_> = IdxSource::open(folder.path()).unwrap().collect();
        assert_eq!(outcomes.len(), 3);
        let error = outcomes[2].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("broken after 2 entries") && error.contains("before its last image"),
            "{error}"
        );
    }

    #[test]
    fn headers_that_do_not_fit_are_refused() {
        let reason =
            |files: &[(&str, Vec<u8>)]| IdxSource::open(folder(files).path()).err().unwrap().to_string();
        assert!(reason(&[]).contains("no IDX image files"));
        let images = idx(IMAGES_MAGIC, &[2, 2, 2], &[1; 8]);
        let labels = idx(LABELS_MAGIC, &[3], &[1; 3]);
        let both = [("train-images-idx3-ubyte", images.clone()), ("train-labels-idx1-ubyte", labels)];
        assert!(reason(&both).contains("3 labels for 2 images"));
        assert!(reason(&[("x-images-idx3", idx(0x0d03, &[2, 2, 2], &[]))]).contains("no IDX image file"));
        assert!(reason(&[("x-images-idx3", images[..9].to_vec())]).contains("within its IDX header"));
        assert!(reason(&[("x-images-idx3", idx(IMAGES_MAGIC, &[2, 0, 2], &[]))]).contains("2 x 0 pixels"));
        let twins = [("a-train-images-idx3", images.clone()), ("b-train-images-idx3", images)];
        assert!(reason(&twins).contains("same split"));
    }

    #[test]
    fn the_real_fashion_mnist_is_read_to_the_end() {
        let source = IdxSource::open(Path::new("/usr/share/datasets/fashion-mnist")).unwrap();
        assert_eq!(source.entry_count(), Some(70_000));
        let mut counts = [[0u32; 10]; 2];
        for entry in source {
            let entry = entry.unwrap();
            let Some(SourceClass::Number(class)) = entry.class else { panic!("{} has no class", entry.name) };
            counts[usize::from(entry.split == Some(Split::Test))][class as usize] += 1;
        }
        assert_eq!(counts, [[6000; 10], [1000; 10]]);
    }
}
