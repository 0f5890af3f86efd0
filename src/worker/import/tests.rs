//! Imports into a real database and object store, without an engine: what the report counts, and what a lost connection may cost.

use std::path::Path;

use image::{DynamicImage, GrayImage, Luma};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::blob::Blob;
use crate::domain::ids::ImportId;
use crate::domain::import::{ImportFormat, LabelRule, SplitRule};
use crate::domain::job::JobKind;
use crate::events::Events;
use crate::rounds::{SupervisorWake, control};
use crate::store::Store;
use crate::store::import::NewImport;
use crate::store::testing::{Gate, TestDatabase};

/// A workshop that reaches its database through a gate; nothing else does.
struct House {
    database: TestDatabase,
    gate: Gate,
    folder: TempDir,
    project: ProjectRow,
    workshop: Workshop,
    stop: CancellationToken,
}

impl House {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let gate = Gate::start(database.options()).await;
        let folder = tempfile::tempdir().unwrap();
        let project = database.create_project("p", &["dark", "light"]).await;
        let url = format!("file://{}/blobs", folder.path().display());
        let blob = Blob::open(&url, &folder.path().join("cache")).await.unwrap();
        let stop = CancellationToken::new();
        let events = Events::start(database.store().clone(), stop.clone()).await.unwrap();
        let store = Store::connect_with(gate.options()).await.unwrap();
        let workshop = Workshop::new(store, blob, None, events, SupervisorWake::new(), folder.path());
        Self { database, gate, folder, project, workshop, stop }
    }

    async fn queue(&self, source: &Path) -> ImportId {
        self.queue_as(source, ImportFormat::Auto, LabelRule::Hide).await
    }

    async fn queue_as(&self, source: &Path, format: ImportFormat, labels: LabelRule) -> ImportId {
        let new = NewImport {
            id: ImportId::generate(),
            source: source.display().to_string(),
            uploaded: false,
            format,
            split: SplitRule::Auto,
            labels,
        };
        let mut transaction = self.database.store().begin().await.unwrap();
        store::import::insert(&mut transaction, self.project.id, &new).await.unwrap();
        control::queue_import(&mut transaction, &self.project, new.id).await.unwrap();
        transaction.commit().await.unwrap();
        new.id
    }

    /// Hands out the one import that waits and performs this attempt of it.
    async fn attempt(&self) {
        let row = self.workshop.claim(&[JobKind::Import]).await.unwrap().expect("an import waits");
        self.workshop.perform(row, &self.stop).await;
    }

    async fn report(&self, id: ImportId) -> ImportRow {
        let mut connection = self.database.store().acquire().await.unwrap();
        store::import::find(&mut connection, id).await.unwrap().expect("the import's row")
    }

    /// Whether the files of every segment that the database names are in the object store.
    async fn has_all_files(&self) -> bool {
        let mut connection = self.database.store().acquire().await.unwrap();
        let segments: Vec<SegmentId> =
            sqlx::query_scalar("select id from segment").fetch_all(&mut *connection).await.unwrap();
        let mut has_all = true;
        for id in segments {
            for key in [pack_key(self.project.id, id), tensor_key(self.project.id, id)] {
                has_all &= self.workshop.blob.exists(&key).await.unwrap();
            }
        }
        has_all
    }
}

/// `count` grey images, no two alike.
fn draw_grey(folder: &Path, count: u8) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        GrayImage::from_pixel(8, 8, Luma([number])).save(folder.join(format!("{number:03}.png"))).unwrap();
    }
}

#[tokio::test]
async fn the_report_says_how_many_images_were_converted_to_the_projects_channels() {
    let house = House::new().await;
    let images = house.folder.path().join("images");
    draw_grey(&images, 3);
    let colour = DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 8, Luma([200])));
    colour.to_rgb8().save(images.join("rgb.png")).unwrap();
    colour.to_luma_alpha8().save(images.join("grey-alpha.png")).unwrap();
    let id = house.queue(&images).await;
    house.attempt().await;
    let report = house.report(id).await;
    assert_eq!(report.state, ImportState::Done, "{report:?}");
    // A project is of RGB images when nothing else is said.
    assert_eq!((report.added_count, report.converted_count), (5, 4), "{report:?}");
    let again = house.queue(&images).await;
    house.attempt().await;
    let report = house.report(again).await;
    assert_eq!((report.duplicate_count, report.converted_count), (5, 0), "what isn't added isn't converted");
}

#[tokio::test]
async fn a_segment_whose_commit_nobody_answered_keeps_its_files_and_is_not_read_again() {
    let house = House::new().await;
    let images = house.folder.path().join("images");
    draw_grey(&images, 5);
    let id = house.queue(&images).await;
    house.gate.lose_next_commit();
    house.attempt().await;
    assert!(!house.gate.is_losing_commit());
    let report = house.report(id).await;
    assert_eq!((report.state, report.read_count, report.added_count), (ImportState::Running, 5, 5));
    assert!(house.has_all_files().await);
    house.attempt().await;
    let report = house.report(id).await;
    assert_eq!((report.state, report.added_count), (ImportState::Done, 5));
    assert_eq!((report.duplicate_count, report.rejected_count), (0, 0), "{report:?}");
    assert!(house.has_all_files().await);
}

#[tokio::test]
async fn an_import_without_its_database_fails_nothing_and_begins_again_when_it_is_back() {
    let house = House::new().await;
    let images = house.folder.path().join("images");
    draw_grey(&images, 5);
    let id = house.queue(&images).await;
    let row = house.workshop.claim(&[JobKind::Import]).await.unwrap().expect("an import waits");
    house.gate.close().await;
    house.workshop.perform(row, &house.stop).await;
    // As if the outage had lasted longer than the lease.
    let mut connection = house.database.store().acquire().await.unwrap();
    let lapsed = "update job set expires_at = expires_at - interval '1 minute' where state = 'running'";
    assert_eq!(sqlx::query(lapsed).execute(&mut *connection).await.unwrap().rows_affected(), 1);
    house.gate.open().await;
    house.attempt().await;
    let report = house.report(id).await;
    assert_eq!((report.state, report.added_count, report.rejected_count), (ImportState::Done, 5, 0));
}

/// A task of Label Studio's export on the image at `address`.
fn exported_task(number: i64, address: &str, class: Option<&str>) -> serde_json::Value {
    let result = |class| serde_json::json!([{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [class]}}]);
    let annotations: Vec<_> = class
        .iter()
        .map(|class| {
            serde_json::json!({
                "id": number, "unique_id": uuid::Uuid::now_v7(), "result": result(*class), "was_cancelled": false, "completed_by": 1,
                "updated_at": "2026-11-24T18:37:19Z", "project": 3,
            })
        })
        .collect();
    serde_json::json!({"id": number, "data": {"image": address}, "annotations": annotations, "project": 3})
}

#[tokio::test]
async fn tasks_of_label_studio_bring_new_images_with_their_class_and_news_about_the_others() {
    let house = House::new().await;
    // Hidden folders hold no images, and a scratch folder is hidden by itself.
    let shelf = tempfile::Builder::new().prefix("export").tempdir().unwrap();
    let folder = shelf.path().canonicalize().unwrap().join("export");
    draw_grey(&folder.join("pile"), 6);
    std::fs::write(shelf.path().join("outside.png"), "secret").unwrap();
    let known = house.queue(&folder.join("pile")).await;
    house.attempt().await;
    assert_eq!(house.report(known).await.added_count, 6);
    // Images 0 to 2 are known under their names, 10 to 12 are new.
    for number in 10..13 {
        GrayImage::from_pixel(8, 8, Luma([number])).save(folder.join(format!("new-{number}.png"))).unwrap();
    }
    let tasks = serde_json::json!([
        exported_task(1, "000.png", Some("dark")),
        exported_task(2, "001.png", None),
        exported_task(3, "/data/local-files/?d=new-10.png", Some("light")),
        exported_task(4, "new-11.png", None),
        exported_task(5, &format!("file://{}", folder.join("new-12.png").display()), Some("light")),
        exported_task(6, "../outside.png", None),
        exported_task(7, "http://127.0.0.1:9/away.png", None),
        exported_task(8, "missing.png", None),
    ]);
    let path = folder.join("export.json");
    std::fs::write(&path, tasks.to_string()).unwrap();
    let mut connection = house.database.store().acquire().await.unwrap();
    let admin = crate::domain::role::Role::Admin;
    let admin = store::token::insert(&mut connection, admin, "admin", &[1; 32], None, None).await.unwrap();

    let id = house.queue_as(&path, ImportFormat::LabelStudio, LabelRule::Keep).await;
    house.attempt().await;
    let report = house.report(id).await;
    assert_eq!(report.state, ImportState::Done, "{report:?}");
    assert_eq!((report.read_count, report.added_count, report.duplicate_count), (8, 3, 2), "{report:?}");
    let reasons: Vec<_> = report.rejected.iter().map(|rejection| rejection.reason.as_str()).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].contains("leads out") && reasons[1].contains("fetches no images"), "{reasons:?}");
    assert!(reasons[2].contains("no such file"), "{reasons:?}");
    let classes: Vec<(String, Option<i16>)> = sqlx::query_as("select name, class from item order by name")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert_eq!(
        classes[6..].iter().map(|row| row.1).collect::<Vec<_>>(),
        [Some(1), None, Some(1)],
        "{classes:?}"
    );
    assert!(classes[..6].iter().all(|row| row.1.is_none()), "a known image gets its label by the inbox");
    type Heard = (i64, uuid::Uuid, String, i64);
    let heard: Vec<Heard> =
        sqlx::query_as("select annotation, source, class, ls_project from label_studio_annotation")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    assert_eq!(heard, [(1, admin.0, "dark".to_owned(), 3)]);

    // The same file again brings nothing new; without labels nobody's answers are taken.
    sqlx::query("update label_studio_annotation set state = 'done', outcome = 'external'")
        .execute(&mut *connection)
        .await
        .unwrap();
    house.queue_as(&path, ImportFormat::LabelStudio, LabelRule::Keep).await;
    house.attempt().await;
    let pending = "select count(*) from label_studio_annotation where state = 'pending'";
    let count: i64 = sqlx::query_scalar(pending).fetch_one(&mut *connection).await.unwrap();
    assert_eq!(count, 0, "what came with its image is no news");
    sqlx::query("delete from label_studio_annotation").execute(&mut *connection).await.unwrap();
    house.queue_as(&path, ImportFormat::LabelStudio, LabelRule::Hide).await;
    house.attempt().await;
    let count: i64 = sqlx::query_scalar(pending).fetch_one(&mut *connection).await.unwrap();
    assert_eq!(count, 0);
}
