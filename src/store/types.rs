//! How domain types stand in Postgres: ids as `uuid`, enumerations as `text`, content hashes as `bytea`, settings as `jsonb`.
//!
//! In a checked query name the type: `select id as "id: ItemId"`, and pass parameters as `id as ItemId` or `&ids as &[ItemId]`.
//! Reading a value that this program doesn't know is a decode error, never a default.

use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::types::Json;
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

use crate::domain::content_hash::ContentHash;
use crate::domain::event::EventKind;
use crate::domain::ids::{
    DeliveryId, EventId, ImportId, ItemId, JobId, LabelId, ProjectId, RoundId, SegmentId, SlotId, TaskId,
    TokenId, WebhookId,
};
use crate::domain::import::{ImportFormat, ImportState, LabelRule, SplitRule};
use crate::domain::item::{Exclusion, Split};
use crate::domain::job::{JobKind, JobState};
use crate::domain::label_studio::{AnnotationOutcome, WantedState};
use crate::domain::project::{ClassIndex, FinishReason, ProjectState};
use crate::domain::role::Role;
use crate::domain::round::RoundState;
use crate::domain::settings::ProjectSettings;
use crate::domain::strategy::Strategy;
use crate::domain::task::{SkipReason, SlotState, TaskSource, TaskState};
use crate::domain::webhook::{DeliveryOrigin, DeliveryState, DisabledReason};

/// Stands in the database as `$column` does: `$encode` makes one from `$value`, `$decode` reads one back from `$stored`.
macro_rules! stored_as {
    ($name:ty, $column:ty, $value:ident => $encode:expr, $stored:ident => $decode:expr) => {
        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <$column as Type<Postgres>>::type_info()
            }

            fn compatible(column: &PgTypeInfo) -> bool {
                <$column as Type<Postgres>>::compatible(column)
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                <$column as PgHasArrayType>::array_type_info()
            }

            fn array_compatible(column: &PgTypeInfo) -> bool {
                <$column as PgHasArrayType>::array_compatible(column)
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                let $value = self;
                Encode::<Postgres>::encode($encode, buffer)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                let $stored: $column = Decode::<Postgres>::decode(value)?;
                $decode
            }
        }
    };
}

macro_rules! stored_as_uuid {
    ($($name:ident),* $(,)?) => {$(stored_as!($name, Uuid, id => id.0, uuid => Ok($name(uuid)));)*};
}

macro_rules! stored_as_text {
    ($($name:ident),* $(,)?) => {
        $(stored_as!($name, String, value => value.as_str(), text => read_text(&text));)*

        #[cfg(test)]
        const STORED_AS_TEXT: &[&str] = &[$(stringify!($name)),*];
    };
}

macro_rules! stored_as_json {
    ($($name:ident),* $(,)?) => {$(stored_as!($name, Json<$name>, value => Json(value), json => Ok(json.0));)*};
}

stored_as_uuid!(
    ProjectId, ItemId, SegmentId, ImportId, RoundId, TaskId, SlotId, LabelId, TokenId, JobId, EventId,
    WebhookId, DeliveryId
);

stored_as_text!(
    AnnotationOutcome,
    DeliveryOrigin,
    DeliveryState,
    DisabledReason,
    EventKind,
    Exclusion,
    FinishReason,
    ImportFormat,
    ImportState,
    JobKind,
    JobState,
    LabelRule,
    ProjectState,
    Role,
    RoundState,
    SkipReason,
    SlotState,
    Split,
    SplitRule,
    TaskSource,
    TaskState,
    WantedState,
);

stored_as_json!(ProjectSettings, Strategy);

stored_as!(ContentHash, Vec<u8>, hash => hash.0, bytes => {
    ContentHash::from_slice(&bytes).ok_or_else(|| format!("a content hash has 32 bytes, not {}", bytes.len()).into())
});

stored_as!(ClassIndex, i16, class => i16::try_from(class.0)?, index => Ok(ClassIndex(u16::try_from(index)?)));

/// Reads an enumeration by its name in answers, which is its name in the database too.
fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, BoxDynError> {
    let deserializer: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        text.into_deserializer();
    T::deserialize(deserializer).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    /// Checks that each value comes back through the database and is known to the column's CHECK constraint.
    macro_rules! check_all {
        ($connection:expr, $checked:expr, $name:ident: $($variant:ident),+) => {
            $checked.push(stringify!($name));
            for value in [$($name::$variant),+] {
                // Exhaustive, so that a new variant fails to compile here until it is listed.
                match value { $($name::$variant => {})+ }
                let back: $name =
                    sqlx::query_scalar("select $1").bind(value).fetch_one(&mut *$connection).await.unwrap();
                assert_eq!(back, value);
                let text: String =
                    sqlx::query_scalar("select $1").bind(value).fetch_one(&mut *$connection).await.unwrap();
                assert_eq!(text, value.as_str());
            }
        };
    }

    #[tokio::test]
    async fn every_value_of_every_enumeration_comes_back() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let mut checked = Vec::new();
        check_all!(connection, checked, AnnotationOutcome: Accepted, External, Corrected, Undone, Skipped, Unchanged, Late, Waiting, Conflict,
            NotAsked, UnknownItem, UnknownClass, NotInPool, NoBudget, RoundMoved, NoChoice);
        check_all!(connection, checked, DeliveryOrigin: Event, Redelivery, Test);
        check_all!(connection, checked, DeliveryState: Pending, Delivered, Failed);
        check_all!(connection, checked, DisabledReason: Operator, GivenUp, Gone);
        check_all!(connection, checked, EventKind: ProjectCreated, ProjectChanged, ProjectStateChanged, ProjectPaused,
            ProjectResumed, ProjectDeleted, ImportEnded, RoundOpened, RoundStateChanged, LabelAccepted, LabelCorrected, LabelUndone,
            LabelsSetAside, TaskSkipped, ModelPublished, JobFailed, WebhookDisabled);
        check_all!(connection, checked, Exclusion: Broken, NotInClasses);
        check_all!(connection, checked, FinishReason: Budget, Pool, Target, Plateau, Operator);
        check_all!(connection, checked, ImportFormat: Auto, Folder, Zip, Tar, Idx, Cifar, LabelStudio);
        check_all!(connection, checked, ImportState: Queued, Running, Done, Failed);
        check_all!(connection, checked, JobKind: Import, Pretrain, Embed, PretextLoss, Train, Score, Select, Audit);
        check_all!(connection, checked, JobState: Queued, Running, Done, Failed, Cancelled);
        check_all!(connection, checked, LabelRule: Keep, Hide);
        check_all!(connection, checked, ProjectState: Empty, Importing, Ready, Pretraining, Labeling, Training, Scoring, Finished);
        check_all!(connection, checked, Role: Labeler, Tool, Operator, Admin);
        check_all!(connection, checked, RoundState: Labeling, Training, Scoring, Closed);
        check_all!(connection, checked, SkipReason: Unsure, Broken, NotInClasses);
        check_all!(connection, checked, SlotState: Open, Leased, Answered, Skipped, Withdrawn);
        check_all!(connection, checked, Split: Pool, Test);
        check_all!(connection, checked, SplitRule: Auto, Pool, Test);
        check_all!(connection, checked, TaskSource: Query, Random, Gold, Ahead, Relabel, External);
        check_all!(connection, checked, TaskState: Open, Leased, Settled, Skipped, Withdrawn, Adjudication);
        check_all!(connection, checked, WantedState: Class, Skip, Nothing, Deleted);
        assert_eq!(checked, STORED_AS_TEXT);
    }

    #[tokio::test]
    async fn a_name_that_no_variant_has_is_a_decode_error() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let read: Result<Split, _> =
            sqlx::query_scalar("select 'validation'").fetch_one(&mut *connection).await;
        assert!(read.unwrap_err().to_string().contains("validation"));
    }

    #[tokio::test]
    async fn ids_hashes_and_classes_come_back_alone_and_in_arrays() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let ids = vec![ItemId::generate(), ItemId::generate()];
        let hashes = vec![ContentHash::of_file(b"a"), ContentHash::of_file(b"b")];
        let classes = vec![Some(ClassIndex(9_999)), None];
        type Row = (ItemId, Vec<ItemId>, ContentHash, Vec<ContentHash>, Vec<Option<ClassIndex>>);
        let row: Row = sqlx::query_as("select $1, $2, $3, $4, $5")
            .bind(ids[0])
            .bind(&ids)
            .bind(hashes[1])
            .bind(&hashes)
            .bind(&classes)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(row, (ids[0], ids, hashes[1], hashes, classes));
    }

    #[tokio::test]
    async fn settings_come_back_from_jsonb() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let settings = ProjectSettings { budget: 12.5, ..Default::default() };
        let back: ProjectSettings =
            sqlx::query_scalar("select $1").bind(&settings).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(back, settings);
    }
}
