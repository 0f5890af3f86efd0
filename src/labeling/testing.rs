//! A project in a database of its own, for the tests of labeling and rounds: items, classes, labelers, and rounds opened by hand.

use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ImportId, ItemId, LabelId, ProjectId, RoundId, SegmentId, TokenId};
use crate::domain::project::{ClassIndex, ProjectState};
use crate::domain::round::RoundState;
use crate::domain::settings::ProjectSettings;
use crate::domain::strategy::Strategy;
use crate::domain::task::TaskSource;
use crate::labeling::{LeaseWish, Leases, Submission, Submit, SubmitResult, lease_tasks, submit_labels};
use crate::store::Store;
use crate::store::project::{self, ProjectRow};
use crate::store::task::{BatchOrigin, NewTask};
use crate::store::testing::TestDatabase;
use crate::store::{round, task};

/// The classes of every test project.
pub(crate) const CLASSES: [&str; 3] = ["cat", "dog", "eel"];

/// A project with its database.
pub(crate) struct House {
    pub(crate) database: TestDatabase,
    pub(crate) project: ProjectId,
    pub(crate) items: Vec<ItemId>,
}

impl House {
    /// A project in `state` with `item_count` unlabelled pool items in segments of 10.
    pub(crate) async fn build(state: ProjectState, item_count: usize, settings: ProjectSettings) -> Self {
        let database = TestDatabase::create().await;
        let project = ProjectId::generate();
        let mut house = Self { database, project, items: Vec::new() };
        let mut connection = house.store().acquire().await.unwrap();
        sqlx::query("insert into project (id, name, state, settings) values ($1, 'p', $2, $3)")
            .bind(project)
            .bind(state)
            .bind(&settings)
            .execute(&mut *connection)
            .await
            .unwrap();
        for (index, name) in CLASSES.iter().enumerate() {
            sqlx::query("insert into class (project, index, name) values ($1, $2, $3)")
                .bind(project)
                .bind(index as i16)
                .bind(name)
                .execute(&mut *connection)
                .await
                .unwrap();
        }
        drop(connection);
        house.import(item_count).await;
        house
    }

    /// Adds unlabelled pool items, as an import that is done.
    pub(crate) async fn import(&mut self, item_count: usize) {
        let mut connection = self.store().acquire().await.unwrap();
        let import = ImportId::generate();
        sqlx::query(
            "insert into import (id, project, source, format, split, labels, state) values ($1, $2, 's', 'auto', 'pool', 'hide', 'done')",
        )
        .bind(import)
        .bind(self.project)
        .execute(&mut *connection)
        .await
        .unwrap();
        let first = self.items.len();
        let places: Vec<usize> = (first..first + item_count).collect();
        for chunk in places.chunks(10) {
            let segment = SegmentId::generate();
            sqlx::query(
                "insert into segment (id, project, import, number, item_count, size, channels)
                 values ($1, $2, $3, (select count(*) from segment where project = $2), $4, 8, 1)",
            )
            .bind(segment)
            .bind(self.project)
            .bind(import)
            .bind(chunk.len() as i32)
            .execute(&mut *connection)
            .await
            .unwrap();
            for (row, place) in chunk.iter().enumerate() {
                let item = ItemId::generate();
                sqlx::query(
                    "insert into item (id, project, segment, segment_row, pack_offset, pack_length, media_type, name, split, width, height,
                       channels, content_hash)
                     values ($1, $2, $3, $4, 0, 1, 'image/png', $5, 'pool', 8, 8, 1, $6)",
                )
                .bind(item)
                .bind(self.project)
                .bind(segment)
                .bind(row as i32)
                .bind(format!("item-{place}"))
                .bind(ContentHash::of_file(&place.to_le_bytes()))
                .execute(&mut *connection)
                .await
                .unwrap();
                self.items.push(item);
            }
        }
    }

    /// Gives an item a class, as an import that keeps labels does.
    pub(crate) async fn import_class(&self, item: ItemId, class: ClassIndex) {
        sqlx::query("update item set class = $2, class_source = 'import' where id = $1")
            .bind(item)
            .bind(class)
            .execute(&mut *self.store().acquire().await.unwrap())
            .await
            .unwrap();
    }

    pub(crate) fn store(&self) -> &Store {
        self.database.store()
    }

    pub(crate) async fn row(&self) -> ProjectRow {
        let mut connection = self.store().acquire().await.unwrap();
        project::find(&mut connection, self.project).await.unwrap().expect("the project is there")
    }

    pub(crate) async fn labeler(&self, name: &str) -> TokenId {
        let token = TokenId::generate();
        sqlx::query("insert into token (id, role, name, hash) values ($1, 'labeler', $2, sha256(convert_to($2, 'UTF8')))")
            .bind(token)
            .bind(name)
            .execute(&mut *self.store().acquire().await.unwrap())
            .await
            .unwrap();
        token
    }

    /// Opens round 1 over the first `task_count` items, with the votes that the settings say.
    pub(crate) async fn open_round(&self, task_count: usize) {
        let row = self.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        let strategy = Strategy::Random {};
        let (id, count) = (RoundId::generate(), task_count as i32);
        round::open(&mut transaction, id, self.project, 1, RoundState::Labeling, &strategy, None, count)
            .await
            .unwrap();
        let origin = BatchOrigin {
            project: self.project,
            round_number: 1,
            strategy: "random",
            model_version: None,
            votes_per_task: row.settings.votes_per_task,
        };
        let tasks: Vec<NewTask> = self.items[..task_count]
            .iter()
            .zip(0..)
            .map(|(item, rank)| NewTask {
                item: *item,
                rank,
                source: TaskSource::Query,
                score: None,
                uncertainty: None,
                pretext_loss: None,
                suggestions: Vec::new(),
                known_class: None,
            })
            .collect();
        task::create_all(&mut transaction, origin, &tasks).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Leases as one call does.
    pub(crate) async fn lease(&self, labeler: TokenId, count: u32) -> Leases {
        let row = self.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        let leases = lease_tasks(&mut transaction, &row, &[LeaseWish { labeler, count, resume: false }])
            .await
            .unwrap()
            .remove(0);
        transaction.commit().await.unwrap();
        leases
    }

    /// Submits as one call does.
    pub(crate) async fn submit(&self, labeler: TokenId, submissions: &[Submission]) -> Vec<SubmitResult> {
        let row = self.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        let results = submit_labels(&mut transaction, &row, &[Submit { labeler, submissions }])
            .await
            .unwrap()
            .results
            .remove(0);
        transaction.commit().await.unwrap();
        results
    }

    /// Leases and answers everything that the labeler can get, by `class`; returns the labels.
    pub(crate) async fn answer_all(&self, labeler: TokenId, class: &str) -> Vec<LabelId> {
        let mut labels = Vec::new();
        loop {
            let leases = self.lease(labeler, 20).await;
            if leases.tasks.is_empty() {
                return labels;
            }
            let submissions: Vec<_> = leases.tasks.iter().map(|task| submission(task.task, class)).collect();
            labels.extend(
                self.submit(labeler, &submissions).await.into_iter().filter_map(|result| result.label),
            );
        }
    }

    /// Lets every lease run out.
    pub(crate) async fn expire_leases(&self) {
        self.execute("update slot set expires_at = now() - interval '1 second' where state = 'leased'").await;
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut *self.store().acquire().await.unwrap()).await.unwrap();
    }

    /// The first column of the first row, a number.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *self.store().acquire().await.unwrap()).await.unwrap()
    }

    /// What must hold after every operation, whatever it was.
    pub(crate) async fn check_invariants(&self) {
        let settings = self.row().await.settings;
        let capacity = (settings.budget / settings.cost_per_label) as i64;
        let paid = self.number("select count(*) from label where counted and undone_at is null").await;
        let reserved = self.number("select count(*) from slot where state in ('open', 'leased')").await;
        assert!(paid + reserved <= capacity, "{paid} paid and {reserved} reserved of {capacity} votes");
        for (what, sql) in [
            (
                "an answered slot without exactly one live label",
                "select count(*) from slot s where (s.state = 'answered')
                   <> ((select count(*) from label l where l.slot = s.id and l.undone_at is null) = 1)",
            ),
            (
                "a slot held by nobody in particular",
                "select count(*) from slot where state in ('leased', 'answered', 'skipped') and labeler is null",
            ),
            (
                "two votes of one labeler in a task",
                "select count(*) from (select 1 from slot where state in ('leased', 'answered', 'skipped')
                   group by task, labeler, person having count(*) > 1) as twice",
            ),
            (
                "a settled task whose item has no class",
                "select count(*) from task t join item i on i.id = t.item where t.state = 'settled' and t.source <> 'gold' and i.class is null",
            ),
            (
                "a class without a settled task",
                "select count(*) from item i where i.class_source = 'votes'
                   and not exists (select from task t where t.item = i.id and t.state = 'settled')",
            ),
            (
                "a class that nobody voted for",
                "select count(*) from item i where i.class_source = 'votes' and not exists
                   (select from label l where l.item = i.id and l.class = i.class and l.counted and l.undone_at is null)",
            ),
            (
                "a closed task with an open slot",
                "select count(*) from task t join slot s on s.task = t.id
                   where t.state in ('settled', 'skipped', 'withdrawn') and s.state in ('open', 'leased')",
            ),
            (
                "an open task without a slot left",
                "select count(*) from task t where t.state = 'open'
                   and not exists (select from slot s where s.task = t.id and s.state in ('open', 'leased'))",
            ),
            (
                "an item asked twice",
                "select count(*) from (select 1 from task where state not in ('skipped', 'withdrawn') and source not in ('gold', 'relabel')
                   group by item having count(*) > 1) as twice",
            ),
        ] {
            assert_eq!(self.number(sql).await, 0, "{what}");
        }
    }
}

/// A label without a lease's number.
pub(crate) fn submission(task: crate::domain::ids::TaskId, class: &str) -> Submission {
    Submission { task, class: class.to_owned(), attempt: None, seconds: Some(1.0), person: None }
}
