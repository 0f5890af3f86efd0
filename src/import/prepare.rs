//! One entry on its way into a segment: split, class, hash, decoding, fitting.
//!
//! Private to `import`; called by many threads at once. Whatever is wrong with an entry becomes a rejection with a reason, never an error of the
//! import. Images of more than 8 megapixels are decoded one at a time, so that memory stays bounded whatever the number of threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use unicode_normalization::UnicodeNormalization;

use crate::domain::content_hash::ContentHash;
use crate::domain::import::{LabelRule, Rejection};
use crate::domain::item::Split;
use crate::domain::project::ClassIndex;
use crate::vision::{self, DecodeLimits, DecodedImage};

use super::run::Options;
use super::{Entry, EntryPayload, SourceClass, layout};

const LARGE_PIXEL_COUNT: u64 = 8_000_000;

/// What became of an entry.
pub(super) enum Prepared {
    /// The split rule leaves it out.
    LeftOut,
    /// It can't be taken.
    Rejected(Rejection),
    /// It can be packed.
    Image(Box<PreparedImage>),
}

/// An image that is ready to be packed.
pub(super) struct PreparedImage {
    pub(super) name: String,
    pub(super) split: Split,
    pub(super) class: Option<ClassIndex>,
    pub(super) hash: ContentHash,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) channels: u32,
    pub(super) media_type: &'static str,
    pub(super) converted: Option<String>,
    /// The encoded file that is kept and served.
    pub(super) original: Vec<u8>,
    /// The packed row.
    pub(super) row: Vec<u8>,
}

/// Class, file to keep with the hash of what was supplied, and pixels.
type Taken = (Option<ClassIndex>, (Vec<u8>, ContentHash), DecodedImage);

/// Prepares entries by one import's rules.
pub(super) struct Preparer<'a> {
    options: &'a Options,
    /// By names in composed form: a Mac writes `é` into folders and archives as `e` and an accent.
    classes: HashMap<String, ClassIndex>,
    /// Names that the source gives its classes by number, if it does; then they count, and not the numbers.
    source_names: Option<&'a [String]>,
    large_image: Mutex<()>,
}

impl<'a> Preparer<'a> {
    /// Rules of `options`; `source_names` are the names that the source gives its classes by number, if it does.
    pub(super) fn new(options: &'a Options, source_names: Option<&'a [String]>) -> Self {
        let classes: HashMap<_, _> = (0..=u16::MAX)
            .zip(&options.classes)
            .map(|(index, name)| (name.nfc().collect(), ClassIndex(index)))
            .collect();
        Self { options, classes, source_names, large_image: Mutex::new(()) }
    }

    /// Does everything to `entry` that needs no other entry.
    pub(super) fn prepare(&self, entry: Entry) -> Prepared {
        let Some(split) = self.options.split.admit(entry.split) else {
            return Prepared::LeftOut;
        };
        let name = entry.name.clone();
        let (class, (original, hash), image) = match self.take(split, entry) {
            Ok(taken) => taken,
            Err(reason) => {
                return Prepared::Rejected(Rejection { name, reason });
            }
        };
        Prepared::Image(Box::new(PreparedImage {
            name,
            split,
            class,
            hash,
            width: image.width,
            height: image.height,
            channels: image.channels,
            media_type: image.media_type,
            converted: vision::conversion(image.channels, self.options.shape.channels),
            row: vision::fit(&image, self.options.shape),
            original,
        }))
    }

    /// Class, kept file and pixels of an entry that goes to `split`.
    fn take(&self, split: Split, entry: Entry) -> Result<Taken, String> {
        let payload = entry.payload?;
        let hidden = split == Split::Pool && self.options.labels == LabelRule::Hide;
        let class = match entry.class {
            _ if hidden => None,
            Some(SourceClass::Name(name)) => Some(self.find_name(&name)?),
            Some(SourceClass::Number(number)) => Some(self.find_number(number)?),
            None if entry.split.is_none() => self.enclosing_class(&entry.name),
            None => None,
        };
        if class.is_none() && split == Split::Test {
            return Err("an image of the test split needs a class, and the source gives none".to_owned());
        }
        let (kept, image) = self.decode(payload)?;
        Ok((class, kept, image))
    }

    /// The class after which the folder of an unsplit entry is called: a source of one class looks like a plain folder to its layout.
    fn enclosing_class(&self, name: &str) -> Option<ClassIndex> {
        self.class_of(&layout::enclosing_folder(name)?)
    }

    fn class_of(&self, name: &str) -> Option<ClassIndex> {
        self.classes.get(&name.nfc().collect::<String>()).copied()
    }

    fn find_name(&self, name: &str) -> Result<ClassIndex, String> {
        self.class_of(name)
            .ok_or_else(|| format!("'{name}' is no class of the project; add it, or import without labels"))
    }

    fn find_number(&self, number: u32) -> Result<ClassIndex, String> {
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(names) = self.source_names {
            let name = names.get(position);
            return self.find_name(name.ok_or_else(|| {
                format!("class number {number} has no name: the source names {} classes", names.len())
            })?);
        }
        let count = self.options.classes.len();
        let index = u16::try_from(number).ok().filter(|_| position < count);
        index
            .map(ClassIndex)
            .ok_or_else(|| format!("class number {number} has no name: the project has {count} classes"))
    }

    /// The file to keep with the hash of what was supplied, and the pixels.
    fn decode(&self, payload: EntryPayload) -> Result<((Vec<u8>, ContentHash), DecodedImage), String> {
        match payload {
            EntryPayload::File(bytes) => {
                let hash = ContentHash::of_file(&bytes);
                let image = self.decode_file(&bytes)?;
                Ok(((bytes, hash), image))
            }
            EntryPayload::Pixels { width, height, channels, pixels } => {
                let hash = ContentHash::of_pixels(width, height, channels, &pixels);
                let image = DecodedImage { width, height, channels, media_type: "image/png", pixels };
                Ok(((encode_png(&image)?, hash), image))
            }
        }
    }

    fn decode_file(&self, bytes: &[u8]) -> Result<DecodedImage, String> {
        // A decoder's bug must cost one image, not the import.
        let decode = || catch_unwind(AssertUnwindSafe(|| vision::decode(bytes, &DecodeLimits::default())));
        if is_archive(bytes) {
            return Err(
                "an archive inside the source isn't opened; unpack it or import it by itself".to_owned()
            );
        }
        let (width, height) = vision::measure(bytes).map_err(|error| error.to_string())?;
        let outcome = if u64::from(width) * u64::from(height) > LARGE_PIXEL_COUNT {
            let _turn = self.large_image.lock().unwrap_or_else(PoisonError::into_inner);
            decode()
        } else {
            decode()
        };
        match outcome {
            Ok(decoded) => decoded.map_err(|error| error.to_string()),
            Err(_) => Err("the decoder failed on this file".to_owned()),
        }
    }
}

/// Whether a file is a zip, a gzip or a tar by its first bytes.
fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
        || bytes.starts_with(&[0x1f, 0x8b])
        || bytes.get(257..262) == Some(b"ustar")
}

fn encode_png(image: &DecodedImage) -> Result<Vec<u8>, String> {
    let colour = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut bytes = Vec::with_capacity(image.pixels.len() / 2 + 128);
    // Tiny images: the filter choice costs more time than it saves bytes.
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Up);
    let outcome = encoder.write_image(&image.pixels, image.width, image.height, colour);
    outcome.map_err(|error| format!("the pixels can't be encoded: {error}"))?;
    Ok(bytes)
}
