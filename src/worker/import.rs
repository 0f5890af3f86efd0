//! The body of an import job: reads a source into segments and items, each segment with the import's cursor in one transaction.
//!
//! The cursor makes it resumable: after a kill the next attempt skips what is decided. Files are in the object store before the rows that
//! name them are committed.

use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::blob::{pack_key, tensor_key, upload_key};
use crate::domain::ids::SegmentId;
use crate::domain::import::{ImportFormat, ImportState, LabelRule, Rejection};
use crate::import::{self, Committed, ImportError, Options, PreparedRow, PreparedSegment, Sink, SinkError};
use crate::label_studio::hear_export;
use crate::rounds::request::{ImportRequest, from_json};
use crate::store::import::{Advance, ImportRow};
use crate::store::item::{Insertion, NewItem};
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;
use crate::store::segment::NewSegment;
use crate::store::{self, class, item, segment};

use super::attempt::Attempt;
use super::finish::Finished;
use super::images::TaskImages;
use super::{BodyError, Workshop};

/// Tasks whose annotations are kept in one transaction.
const RECONCILED_COUNT: usize = 500;

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let request: ImportRequest = from_json("request", &row.request)?;
    let (found, classes) = {
        let mut connection = workshop.store.acquire().await?;
        store::import::start(&mut connection, request.import).await?;
        let classes = class::list(&mut connection, project.id).await?;
        (store::import::find(&mut connection, request.import).await?, classes)
    };
    let found = found.ok_or_else(|| BodyError::failed("the import's row is gone"))?;
    if found.state == ImportState::Done {
        return Ok(Finished::Import { id: found.id, uploaded: found.uploaded });
    }
    let source = if found.uploaded {
        workshop.blob.local_path(&upload_key(found.id)).await?
    } else {
        PathBuf::from(&found.source)
    };
    let tasks_path = source.clone();
    let scratch_dir = workshop.scratch.join(format!("import-{}-{}", found.id, row.attempt));
    let options = Options {
        shape: project.settings.image,
        split: found.split,
        labels: found.labels,
        classes: classes.into_iter().map(|class| class.name).collect(),
        skip_count: found.read_count.unsigned_abs(),
        scratch_dir: scratch_dir.clone(),
    };
    let read = read_source(workshop, project, &found, source, options, attempt).await;
    if let Err(error) = tokio::fs::remove_dir_all(&scratch_dir).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %scratch_dir.display(), error = %error, "an import's scratch folder couldn't be removed");
    }
    read?;
    if (found.format, found.labels) == (ImportFormat::LabelStudio, LabelRule::Keep) {
        reconcile(workshop, project, &found, tasks_path).await?;
    }
    Ok(Finished::Import { id: found.id, uploaded: found.uploaded })
}

/// Hands what people answered in Label Studio on items that the project had already to the inbox, as a webhook would have.
async fn reconcile(
    workshop: &Workshop,
    project: &ProjectRow,
    found: &ImportRow,
    source: PathBuf,
) -> Result<(), BodyError> {
    let reading = tokio::task::spawn_blocking(move || import::read_tasks(&source));
    let tasks = reading.await.map_err(BodyError::failed)?.map_err(BodyError::failed)?;
    let admin = store::token::find_admin(&mut *workshop.store.acquire().await?).await?;
    let Some(admin) = admin else {
        return Err(BodyError::failed("no admin token is in force, in whose name annotations could be kept"));
    };
    let mut news = 0;
    for part in tasks.chunks(RECONCILED_COUNT) {
        let mut tx = workshop.store.begin().await?;
        news += hear_export(&mut tx, project.id, admin, found.id, part).await?;
        tx.commit().await?;
    }
    tracing::info!(import.id = %found.id, annotation.count = news, "annotations were reconciled");
    Ok(())
}

/// Reads the source on a blocking thread, whose sink waits for database and object store.
async fn read_source(
    workshop: &Workshop,
    project: &ProjectRow,
    found: &ImportRow,
    source: PathBuf,
    options: Options,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let mut sink = DatabaseSink {
        workshop: workshop.clone(),
        project: project.clone(),
        import: found.clone(),
        runtime: Handle::current(),
        read_count: found.read_count,
        publish: Box::new(attempt.progress()),
    };
    let (format, stop) = (found.format, attempt.stop_flag());
    let images = TaskImages::new(workshop, project.id, &source, found.uploaded);
    let reading = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&options.scratch_dir).map_err(|error| {
            BodyError::Failed(format!("the folder {} can't be made: {error}", options.scratch_dir.display()))
        })?;
        let opened = match format {
            ImportFormat::LabelStudio => import::open_tasks(&source, Box::new(images)),
            _ => import::open(&source, format),
        };
        let opened = opened.map_err(BodyError::failed)?;
        match import::run(opened, &options, &mut sink, &stop) {
            Ok(_) => Ok(()),
            Err(ImportError::Stopped { .. }) => Err(BodyError::Stopped),
            Err(ImportError::Sink(source)) => Err(unwrap_sink_error(source)),
            Err(error) => Err(BodyError::failed(error)),
        }
    });
    reading.await.map_err(|error| BodyError::Failed(format!("the import broke off: {error}")))?
}

/// The sink's own errors are ours, so a database that is away stays recognisable.
fn unwrap_sink_error(error: SinkError) -> BodyError {
    match error.downcast::<BodyError>() {
        Ok(ours) => *ours,
        Err(other) => BodyError::failed(other),
    }
}

struct DatabaseSink {
    workshop: Workshop,
    project: ProjectRow,
    import: ImportRow,
    runtime: Handle,
    read_count: i64,
    publish: Box<dyn Fn(u64, u64) + Send>,
}

impl Sink for DatabaseSink {
    fn commit(&mut self, segment: PreparedSegment) -> Result<Committed, SinkError> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.store(segment)).map_err(Into::into)
    }

    fn progress(&mut self, read_count: u64, entry_count: Option<u64>) {
        (self.publish)(read_count, entry_count.unwrap_or_default());
    }
}

impl DatabaseSink {
    async fn store(&mut self, prepared: PreparedSegment) -> Result<Committed, BodyError> {
        let id = SegmentId::generate();
        if let Some(files) = &prepared.files {
            let blob = &self.workshop.blob;
            blob.put_file(&pack_key(self.project.id, id), &files.pack_path).await?;
            blob.put_file(&tensor_key(self.project.id, id), &files.tensor_path).await?;
        }
        let committed = self.write(&prepared, id).await;
        let is_needed = match &committed {
            Ok(committed) => committed.added_count > 0,
            // A commit whose answer was lost may be durable, and then its items need these files.
            Err(error) => error.is_passing(),
        };
        if prepared.files.is_some() && !is_needed {
            self.drop_files(id).await?;
        }
        committed
    }

    /// Writes segment, items and cursor; a segment of which nothing is new isn't made, only the cursor moves.
    async fn write(&mut self, prepared: &PreparedSegment, id: SegmentId) -> Result<Committed, BodyError> {
        let mut tx = self.workshop.store.begin().await?;
        let insertions = match prepared.files {
            Some(_) => self.insert_items(&mut tx, id, &prepared.rows).await?,
            None => Vec::new(),
        };
        let count = |wanted: Insertion| insertions.iter().filter(|one| **one == wanted).count() as u64;
        let committed = Committed {
            added_count: count(Insertion::Added),
            duplicate_count: count(Insertion::Duplicate),
            rejected_count: count(Insertion::NameTaken),
        };
        if committed.added_count == 0 {
            tx.rollback().await?;
            tx = self.workshop.store.begin().await?;
        }
        let step = self.step(prepared, &insertions, &committed)?;
        if !store::import::advance(&mut tx, self.import.id, &step).await? {
            // Another attempt reads this import; nothing of ours may stay.
            return Err(BodyError::Stopped);
        }
        tx.commit().await?;
        self.read_count = step.read_count;
        Ok(committed)
    }

    async fn drop_files(&self, id: SegmentId) -> Result<(), BodyError> {
        let blob = &self.workshop.blob;
        blob.delete(&pack_key(self.project.id, id)).await?;
        blob.delete(&tensor_key(self.project.id, id)).await?;
        Ok(())
    }

    async fn insert_items(
        &self,
        connection: &mut store::PgConnection,
        id: SegmentId,
        rows: &[PreparedRow],
    ) -> Result<Vec<Insertion>, BodyError> {
        let new = NewSegment {
            id,
            import: self.import.id,
            item_count: i32::try_from(rows.len()).map_err(BodyError::failed)?,
            shape: self.project.settings.image,
        };
        segment::insert(connection, self.project.id, &new).await?;
        let items = rows
            .iter()
            .enumerate()
            .map(|(row, prepared)| new_item(row, prepared))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(item::insert_all(connection, self.project.id, id, &items).await?)
    }

    fn step(
        &self,
        prepared: &PreparedSegment,
        insertions: &[Insertion],
        committed: &Committed,
    ) -> Result<Advance, BodyError> {
        let added =
            || prepared.rows.iter().zip(insertions).filter(|(_, insertion)| **insertion == Insertion::Added);
        let taken =
            prepared.rows.iter().zip(insertions).filter(|(_, insertion)| **insertion == Insertion::NameTaken);
        let mut rejected = prepared.rejected.clone();
        rejected.extend(taken.map(|(row, _)| Rejection {
            name: row.name.clone(),
            reason: "the project has another image of this name; rename one of them".to_owned(),
        }));
        Ok(Advance {
            from_read_count: self.read_count,
            read_count: i64::try_from(prepared.read_count_after).map_err(BodyError::failed)?,
            added_count: i64::try_from(committed.added_count).map_err(BodyError::failed)?,
            duplicate_count: i64::try_from(committed.duplicate_count + prepared.duplicate_count)
                .map_err(BodyError::failed)?,
            converted_count: added().filter(|(row, _)| row.converted.is_some()).count() as i64,
            rejected,
        })
    }
}

fn new_item(row: usize, prepared: &PreparedRow) -> Result<NewItem, BodyError> {
    let number = |value: u32| i32::try_from(value).map_err(BodyError::failed);
    Ok(NewItem {
        segment_row: i32::try_from(row).map_err(BodyError::failed)?,
        pack_offset: i64::try_from(prepared.pack_offset).map_err(BodyError::failed)?,
        pack_length: number(prepared.pack_length)?,
        media_type: prepared.media_type.to_owned(),
        name: prepared.name.clone(),
        split: prepared.split,
        width: number(prepared.width)?,
        height: number(prepared.height)?,
        channels: number(prepared.channels)?,
        content_hash: prepared.hash,
        class: prepared.class,
    })
}

#[cfg(test)]
mod tests;
