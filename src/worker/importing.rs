//! Importing: the sink that keeps segments in the object store and their items in the database.
//!
//! Files are stored first; then segment, items and the import's cursor are one transaction, so a killed import goes on behind its last
//! segment and no item is there twice. Runs on a blocking thread; while the database is away it waits and tries the same segment again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::attempt::Attempt;
use super::materials::failed;
use super::publication::{Publication, note_import_end};
use super::{BodyError, Worker};
use crate::blob::{Blob, pack_key, tensor_key, upload_key};
use crate::domain::ids::{ImportId, ProjectId, SegmentId};
use crate::domain::import::{ImportState, Rejection};
use crate::domain::settings::ImageShape;
use crate::import::{
    self, Committed, ImportError, Options, PreparedRow, PreparedSegment, Sink, SinkError, StopFlag,
};
use crate::rounds::request::{ImportRequest, from_json};
use crate::store::import::{Advance, ImportRow};
use crate::store::item::{Insertion, NewItem};
use crate::store::job::JobRow;
use crate::store::segment::NewSegment;
use crate::store::{Store, StoreError, class, item, segment};

/// Time between two tries while the database is away.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Reads a source into its project.
pub(super) async fn import(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: ImportRequest = from_json("request", &job.request)?;
    let done = read_source(worker, request.import, attempt).await;
    if let Err(BodyError::Failed(reason)) = &done {
        note_failure(worker, request.import, reason).await?;
    }
    done
}

async fn read_source(worker: &Worker, id: ImportId, attempt: &Attempt) -> Result<(), BodyError> {
    let mut connection = worker.store.acquire().await?;
    let found = crate::store::import::find(&mut connection, id).await?;
    let row = found.ok_or_else(|| failed("the import is gone"))?;
    crate::store::import::start(&mut connection, id).await?;
    let classes = class::list(&mut connection, row.project).await?;
    drop(connection);
    if row.state != ImportState::Done {
        let project = worker.materials.project(row.project).await?;
        let path = source_path(worker, &row).await?;
        let options = Options {
            shape: project.settings.image,
            split: row.split,
            labels: row.labels,
            classes: classes.into_iter().map(|class| class.name).collect(),
            skip_count: row.read_count.unsigned_abs(),
            scratch_dir: worker.scratch.join(format!("import-{id}")),
        };
        let sink = DatabaseSink::new(worker, &row, options.shape, attempt);
        let stop = attempt.stop_flag();
        let reading = spawn_blocking(move || read(path, &row, &options, sink, &stop));
        reading.await??;
    }
    finish(worker, id, attempt).await
}

async fn source_path(worker: &Worker, row: &ImportRow) -> Result<PathBuf, BodyError> {
    if row.uploaded {
        return Ok(worker.blob.local_path(&upload_key(row.id)).await?);
    }
    Ok(PathBuf::from(&row.source))
}

fn read(
    path: PathBuf,
    row: &ImportRow,
    options: &Options,
    mut sink: DatabaseSink,
    stop: &StopFlag,
) -> Result<(), BodyError> {
    std::fs::create_dir_all(&options.scratch_dir).map_err(failed)?;
    let read = import::open(&path, row.format)
        .and_then(|source| import::run(source, options, &mut sink, stop));
    // Only drafts of segments lie there; those that were committed are in the object store.
    if let Err(error) = std::fs::remove_dir_all(&options.scratch_dir) {
        tracing::warn!(import.id = %row.id, error = %error, "an import's scratch folder stays");
    }
    match read {
        Ok(_) => Ok(()),
        Err(ImportError::Stopped { .. }) => Err(BodyError::Stopped),
        Err(ImportError::Sink(error)) if error.is::<SinkStopped>() => Err(BodyError::Stopped),
        Err(error) => Err(failed(error)),
    }
}

async fn finish(worker: &Worker, id: ImportId, attempt: &Attempt) -> Result<(), BodyError> {
    attempt.finish(&json!({}), &Publication::Import(id)).await?;
    let row = crate::store::import::find(&mut *worker.store.acquire().await?, id).await?;
    if row.is_some_and(|row| row.uploaded) {
        worker.blob.delete(&upload_key(id)).await?;
    }
    Ok(())
}

async fn note_failure(worker: &Worker, id: ImportId, reason: &str) -> Result<(), BodyError> {
    let mut transaction = worker.store.begin().await?;
    if crate::store::import::fail(&mut transaction, id, reason).await? {
        note_import_end(&mut transaction, id).await?;
    }
    Ok(transaction.commit().await?)
}

/// The import ended before the segment could be stored.
#[derive(Debug, thiserror::Error)]
#[error("the import was stopped, or another worker reads it")]
struct SinkStopped;

/// Stores segments of one import.
struct DatabaseSink {
    store: Store,
    blob: Blob,
    import: ImportId,
    project: ProjectId,
    shape: ImageShape,
    read_count: i64,
    stop: StopFlag,
    report: Arc<dyn Fn(u64, u64) + Send + Sync>,
    runtime: Handle,
}

impl DatabaseSink {
    fn new(worker: &Worker, row: &ImportRow, shape: ImageShape, attempt: &Attempt) -> Self {
        Self {
            store: worker.store.clone(),
            blob: worker.blob.clone(),
            import: row.id,
            project: row.project,
            shape,
            read_count: row.read_count,
            stop: attempt.stop_flag(),
            report: Arc::new(attempt.reporter()),
            runtime: Handle::current(),
        }
    }

    /// Stores the files under a fresh segment's keys.
    async fn store_files(
        &self,
        prepared: &PreparedSegment,
    ) -> Result<Option<SegmentId>, SinkError> {
        let Some(files) = &prepared.files else {
            return Ok(None);
        };
        let id = SegmentId::generate();
        self.blob
            .put_file(&tensor_key(self.project, id), &files.tensor_path)
            .await?;
        self.blob
            .put_file(&pack_key(self.project, id), &files.pack_path)
            .await?;
        Ok(Some(id))
    }

    async fn drop_files(&self, segment: SegmentId) -> Result<(), SinkError> {
        self.blob.delete(&tensor_key(self.project, segment)).await?;
        self.blob.delete(&pack_key(self.project, segment)).await?;
        Ok(())
    }

    /// Writes segment, items and cursor, again and again while the database is away.
    async fn write(
        &self,
        prepared: &PreparedSegment,
        segment: Option<SegmentId>,
    ) -> Result<Written, SinkError> {
        loop {
            match self.try_write(prepared, segment).await {
                Ok(written) => return Ok(written),
                Err(WriteError::Store(
                    error @ (StoreError::Unavailable(_) | StoreError::Retry(_)),
                )) => {
                    if self.stop.is_stopped() {
                        return Err(SinkStopped.into());
                    }
                    tracing::warn!(import.id = %self.import, error = %error, "a segment can't be stored yet");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(WriteError::Store(error)) => return Err(error.into()),
                Err(WriteError::Stopped(_)) => return Err(SinkStopped.into()),
            }
        }
    }

    async fn try_write(
        &self,
        prepared: &PreparedSegment,
        id: Option<SegmentId>,
    ) -> Result<Written, WriteError> {
        let mut transaction = self.store.begin().await?;
        let mut insertions = Vec::new();
        if let Some(id) = id {
            let item_count = i32::try_from(prepared.rows.len()).unwrap_or(i32::MAX);
            let new = NewSegment {
                id,
                import: self.import,
                item_count,
                shape: self.shape,
            };
            segment::insert(&mut transaction, self.project, &new).await?;
            let items: Vec<NewItem> = (0..)
                .zip(&prepared.rows)
                .map(|(place, row)| new_item(place, row))
                .collect();
            insertions = item::insert_all(&mut transaction, self.project, id, &items).await?;
        }
        let mut written = Written::count(prepared, &insertions);
        if id.is_some() && written.committed.added_count == 0 {
            // Nothing in it is new: no segment is made, only the cursor moves.
            transaction.rollback().await?;
            transaction = self.store.begin().await?;
            written.keeps_segment = false;
        }
        let step = Advance {
            from_read_count: self.read_count,
            read_count: i64::try_from(prepared.read_count_after).unwrap_or(i64::MAX),
            added_count: count(written.committed.added_count),
            duplicate_count: count(written.committed.duplicate_count + prepared.duplicate_count),
            converted_count: count(written.converted_count),
            rejected: written.rejected.clone(),
        };
        if !crate::store::import::advance(&mut transaction, self.import, &step).await? {
            return Err(SinkStopped.into());
        }
        transaction.commit().await?;
        Ok(written)
    }
}

impl Sink for DatabaseSink {
    fn commit(&mut self, prepared: PreparedSegment) -> Result<Committed, SinkError> {
        let runtime = self.runtime.clone();
        let written = runtime.block_on(async {
            let segment = self.store_files(&prepared).await?;
            let written = self.write(&prepared, segment).await;
            if let (Some(segment), false) = (
                segment,
                written.as_ref().is_ok_and(|written| written.keeps_segment),
            ) {
                self.drop_files(segment).await?;
            }
            written
        })?;
        if let Some(files) = &prepared.files {
            std::fs::remove_file(&files.tensor_path)?;
            std::fs::remove_file(&files.pack_path)?;
        }
        self.read_count = i64::try_from(prepared.read_count_after).unwrap_or(i64::MAX);
        Ok(written.committed)
    }

    fn progress(&mut self, read_count: u64, entry_count: Option<u64>) {
        (self.report)(read_count, entry_count.unwrap_or(0));
    }
}

/// Why a segment wasn't written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stopped(#[from] SinkStopped),
}

/// What the database made of a segment.
struct Written {
    committed: Committed,
    converted_count: u64,
    rejected: Vec<Rejection>,
    keeps_segment: bool,
}

impl Written {
    fn count(prepared: &PreparedSegment, insertions: &[Insertion]) -> Self {
        let mut committed = Committed::default();
        let mut converted_count = 0;
        let mut rejected = prepared.rejected.clone();
        for (row, insertion) in prepared.rows.iter().zip(insertions) {
            match insertion {
                Insertion::Added => {
                    committed.added_count += 1;
                    converted_count += u64::from(row.converted.is_some());
                }
                Insertion::Duplicate => committed.duplicate_count += 1,
                Insertion::NameTaken => {
                    committed.rejected_count += 1;
                    let reason = "another image of the project has this name".to_owned();
                    rejected.push(Rejection {
                        name: row.name.clone(),
                        reason,
                    });
                }
            }
        }
        Self {
            committed,
            converted_count,
            rejected,
            keeps_segment: true,
        }
    }
}

fn new_item(place: i32, row: &PreparedRow) -> NewItem {
    NewItem {
        segment_row: place,
        pack_offset: count(row.pack_offset),
        pack_length: row.pack_length.cast_signed(),
        media_type: row.media_type.to_owned(),
        name: row.name.clone(),
        split: row.split,
        width: row.width.cast_signed(),
        height: row.height.cast_signed(),
        channels: row.channels.cast_signed(),
        content_hash: row.hash,
        class: row.class,
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
