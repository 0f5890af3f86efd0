//! Reads a source into segments: gathers entries, prepares them on all threads, packs them, hands each segment to the sink.
//!
//! While one batch of entries is prepared the next is read. Memory holds two batches of at most 16 MiB (or one entry) of input and the
//! rows of one, at most 32 MiB; a segment ends at 4096 images or 64 MiB. Order is the source's: of equal images the first is taken, and
//! after a stop or a crash the import goes on behind the last committed segment (`Options::skip_count`).

use std::collections::HashSet;
use std::fs;
use std::mem;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::domain::content_hash::ContentHash;
use crate::domain::import::{LabelRule, Rejection, SplitRule};
use crate::domain::item::Split;
use crate::domain::project::ClassIndex;
use crate::domain::settings::ImageShape;
use crate::vision::SegmentWriter;

use super::prepare::{Prepared, PreparedImage, Preparer};
use super::{Entry, EntryPayload, ImportError, Source, StopFlag};

const BATCH_COUNT_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 16 << 20;
const BATCH_ROW_BYTES_MAX: usize = 32 << 20;
const SEGMENT_COUNT_MAX: usize = 4096;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Rejections that may wait for the next segment; a source of nothing but rejects is still reported as it is read.
const PENDING_REJECTED_MAX: usize = 4096;

/// How a source is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size and channels of the packed rows.
    pub shape: ImageShape,
    /// Which part of the source is taken.
    pub split: SplitRule,
    /// What happens to the classes of pool items.
    pub labels: LabelRule,
    /// Names of the project's classes by index.
    pub classes: Vec<String>,
    /// Entries that an earlier run has decided (`PreparedSegment::read_count_after`).
    pub skip_count: u64,
    /// A folder of this import alone, on the disk of the segments; what the sink leaves there is removed.
    pub scratch_dir: PathBuf,
}

/// An image of a prepared segment; its row in the tensor is its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRow {
    /// Path inside the source.
    pub name: String,
    /// Where it goes.
    pub split: Split,
    /// Its class, when that is kept.
    pub class: Option<ClassIndex>,
    /// Hash of what was supplied.
    pub hash: ContentHash,
    /// Width of the original in pixels.
    pub width: u32,
    /// Height of the original in pixels.
    pub height: u32,
    /// Channels of the original, 1 to 4.
    pub channels: u32,
    /// Media type of the original in the pack.
    pub media_type: &'static str,
    /// First byte of the original in the pack.
    pub pack_offset: u64,
    /// Bytes of the original in the pack.
    pub pack_length: u32,
    /// How channels were converted, if they were.
    pub converted: Option<String>,
}

/// The files of a prepared segment, durable, in the scratch folder; the sink moves or copies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFiles {
    /// Packed rows, u8 `[N, size, size, channels]`.
    pub tensor_path: PathBuf,
    /// Original files, one after another.
    pub pack_path: PathBuf,
}

/// Part of an import that is to be committed as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedSegment {
    /// The segment's files; `None` when no image was taken since the last commit, only rejections or duplicates.
    pub files: Option<SegmentFiles>,
    /// Its images, all of different content and name.
    pub rows: Vec<PreparedRow>,
    /// Entries of the source that are decided once this is committed; the next run's `skip_count`.
    pub read_count_after: u64,
    /// Images since the last commit whose content stood earlier in this run.
    pub duplicate_count: u64,
    /// Entries since the last commit that can't be taken.
    pub rejected: Vec<Rejection>,
}

/// What the sink made of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows that are new to the project.
    pub added_count: u64,
    /// Rows whose content the project has already.
    pub duplicate_count: u64,
    /// Rows that the project refused otherwise: another image has the name.
    pub rejected_count: u64,
}

/// Why a sink refused.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where segments go.
pub trait Sink {
    /// Stores a segment for good, or fails and leaves nothing.
    fn commit(&mut self, segment: PreparedSegment) -> Result<Committed, SinkError>;

    /// Hears how far reading has come: entries read, and how many there are if that is known.
    fn progress(&mut self, read_count: u64, entry_count: Option<u64>);
}

/// What an import came to; counts of this run, not of those it continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries of the source that are decided, skipped ones included.
    pub read_count: u64,
    /// Images that are new to the project.
    pub added_count: u64,
    /// Images whose content was known already.
    pub duplicate_count: u64,
    /// Entries that could not be taken.
    pub rejected_count: u64,
    /// Images whose channels were converted.
    pub converted_count: u64,
}

/// Reads all of `source` into segments and hands them to `sink`.
///
/// When the source breaks off, what came before is committed first. A raised `stop` ends it at the next batch; what wasn't committed is read
/// again by the next run.
pub fn run(
    mut source: Box<dyn Source>,
    options: &Options,
    sink: &mut dyn Sink,
    stop: &StopFlag,
) -> Result<Report, ImportError> {
    source.skip_entries(options.skip_count)?;
    let source_names = source.class_names().map(<[String]>::to_vec);
    let preparer = Preparer::new(options, source_names.as_deref());
    let entry_count = source.entry_count();
    let mut packing = Packing::new(options, sink);
    let mut gathered = gather(source.as_mut(), options.shape);
    while !gathered.entries.is_empty() {
        if stop.is_stopped() {
            return Err(ImportError::Stopped { read_count: packing.report.read_count });
        }
        let entries = mem::take(&mut gathered.entries);
        // After a break there is nothing more to read, and the break must not be lost.
        let ended = gathered.ended.take();
        let read_next = || {
            if ended.is_some() { Gathered::default() } else { gather(source.as_mut(), options.shape) }
        };
        let prepare_all = || entries.into_par_iter().map(|entry| preparer.prepare(entry)).collect::<Vec<_>>();
        let (next, prepared) = rayon::join(read_next, prepare_all);
        for prepared in prepared {
            packing.add(prepared)?;
        }
        packing.sink.progress(packing.report.read_count, entry_count);
        gathered = next;
        gathered.ended = gathered.ended.or(ended);
    }
    packing.flush()?;
    match gathered.ended {
        Some(error) => Err(error),
        None => Ok(packing.report),
    }
}

/// Entries that were read ahead, and the error behind the last of them.
#[derive(Default)]
struct Gathered {
    entries: Vec<Entry>,
    ended: Option<ImportError>,
}

fn gather(source: &mut dyn Source, shape: ImageShape) -> Gathered {
    let mut gathered = Gathered::default();
    let mut byte_count = 0;
    let entry_count_max = (BATCH_ROW_BYTES_MAX / shape.byte_count().max(1)).clamp(1, BATCH_COUNT_MAX);
    while gathered.entries.len() < entry_count_max && byte_count < BATCH_BYTES_MAX {
        match source.next() {
            Some(Ok(entry)) => {
                byte_count += match &entry.payload {
                    Ok(EntryPayload::File(bytes) | EntryPayload::Pixels { pixels: bytes, .. }) => bytes.len(),
                    Err(_) => 0,
                };
                gathered.entries.push(entry);
            }
            Some(Err(error)) => {
                gathered.ended = Some(error);
                break;
            }
            None => break,
        }
    }
    gathered
}

/// The segment that is being packed and what was counted so far.
struct Packing<'a> {
    options: &'a Options,
    sink: &'a mut dyn Sink,
    report: Report,
    segment_number: u64,
    open: Option<(SegmentWriter, SegmentFiles)>,
    rows: Vec<PreparedRow>,
    rejected: Vec<Rejection>,
    duplicate_count: u64,
    committed_read_count: u64,
    seen_contents: HashSet<ContentHash>,
    // Hashes, since a million long names would fill the memory.
    seen_names: HashSet<ContentHash>,
}

impl<'a> Packing<'a> {
    fn new(options: &'a Options, sink: &'a mut dyn Sink) -> Self {
        Self {
            options,
            sink,
            report: Report { read_count: options.skip_count, ..Report::default() },
            segment_number: 0,
            open: None,
            rows: vec![],
            rejected: vec![],
            duplicate_count: 0,
            committed_read_count: options.skip_count,
            seen_contents: HashSet::new(),
            seen_names: HashSet::new(),
        }
    }

    fn add(&mut self, prepared: Prepared) -> Result<(), ImportError> {
        self.report.read_count += 1;
        match prepared {
            Prepared::LeftOut => {}
            Prepared::Rejected(rejection) => self.reject(rejection),
            Prepared::Image(image) => self.pack(*image)?,
        }
        if self.is_full() { self.flush() } else { Ok(()) }
    }

    fn reject(&mut self, rejection: Rejection) {
        self.report.rejected_count += 1;
        self.rejected.push(rejection);
    }

    fn pack(&mut self, image: PreparedImage) -> Result<(), ImportError> {
        if !self.seen_contents.insert(image.hash) {
            self.duplicate_count += 1;
            self.report.duplicate_count += 1;
            return Ok(());
        }
        if !self.seen_names.insert(ContentHash::of_file(image.name.as_bytes())) {
            let reason = "another image of the source has this name".to_owned();
            self.reject(Rejection { name: image.name, reason });
            return Ok(());
        }
        let writer = match &mut self.open {
            Some((writer, _)) => writer,
            closed => {
                let path = |extension| {
                    self.options.scratch_dir.join(format!("segment-{}.{extension}", self.segment_number))
                };
                let files = SegmentFiles { tensor_path: path("tensor"), pack_path: path("pack") };
                let writer = SegmentWriter::create(&files.tensor_path, &files.pack_path, self.options.shape)?;
                &mut closed.insert((writer, files)).0
            }
        };
        let slice = writer.push(&image.row, &image.original)?;
        self.report.converted_count += u64::from(image.converted.is_some());
        self.rows.push(PreparedRow {
            name: image.name,
            split: image.split,
            class: image.class,
            hash: image.hash,
            width: image.width,
            height: image.height,
            channels: image.channels,
            media_type: image.media_type,
            pack_offset: slice.offset,
            pack_length: slice.length,
            converted: image.converted,
        });
        Ok(())
    }

    fn is_full(&self) -> bool {
        let tensor_bytes = (self.rows.len() * self.options.shape.byte_count()) as u64;
        let pack_bytes = self.open.as_ref().map_or(0, |(writer, _)| writer.pack_bytes());
        self.rows.len() >= SEGMENT_COUNT_MAX
            || tensor_bytes.max(pack_bytes) >= SEGMENT_BYTES_MAX
            || self.rejected.len() >= PENDING_REJECTED_MAX
    }

    /// Commits what was read since the last commit.
    fn flush(&mut self) -> Result<(), ImportError> {
        if self.report.read_count == self.committed_read_count {
            return Ok(());
        }
        let files = match self.open.take() {
            None => None,
            Some((writer, files)) => {
                writer.finish()?;
                self.segment_number += 1;
                Some(files)
            }
        };
        let segment = PreparedSegment {
            files: files.clone(),
            rows: mem::take(&mut self.rows),
            read_count_after: self.report.read_count,
            duplicate_count: mem::take(&mut self.duplicate_count),
            rejected: mem::take(&mut self.rejected),
        };
        let outcome = self.sink.commit(segment);
        if let Some(files) = files {
            // Usually the sink has moved them; the scratch folder goes with the import anyway.
            let _ = fs::remove_file(files.tensor_path);
            let _ = fs::remove_file(files.pack_path);
        }
        let committed = outcome.map_err(ImportError::Sink)?;
        self.report.added_count += committed.added_count;
        self.report.duplicate_count += committed.duplicate_count;
        self.report.rejected_count += committed.rejected_count;
        self.committed_read_count = self.report.read_count;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
