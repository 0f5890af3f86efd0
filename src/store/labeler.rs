//! What labelers have done in a project, counted from their labels and skips; nothing is kept beside those.
//!
//! Read by pages only, at most every few seconds: a submit touches no counter (see DESIGN, "the hot path has no shared row").

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;

/// A labeler's work in a project.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelerRow {
    /// The token.
    pub labeler: TokenId,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Labels that were accepted and stand.
    pub label_count: i64,
    /// Labels taken back.
    pub undone_count: i64,
    /// Labels given another class later.
    pub corrected_count: i64,
    /// Tasks skipped.
    pub skip_count: i64,
    /// Tasks in its hands now.
    pub held_count: i64,
    /// Seconds that half of its labels took less than, as its client measured.
    pub seconds_median: Option<f64>,
    /// When it labelled last.
    pub last_label_at: Option<DateTime<Utc>>,
}

/// One labeler's work in a project since a moment, and in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwnStatistics {
    /// Labels that were accepted and stand, in all.
    pub total_label_count: i64,
    /// Of these, labels given since the moment.
    pub label_count: i64,
    /// Tasks skipped since the moment.
    pub skip_count: i64,
    /// Seconds that half of the labels since the moment took less than.
    pub seconds_median: Option<f64>,
}

/// Everybody who has labelled or skipped in a project, the busiest first.
pub async fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
) -> Result<Vec<LabelerRow>, StoreError> {
    let rows = sqlx::query_as!(
        LabelerRow,
        r#"select k.id as "labeler: TokenId", k.name, k.role as "role: Role", coalesce(l.label_count, 0) as "label_count!",
             coalesce(l.undone_count, 0) as "undone_count!", coalesce(l.corrected_count, 0) as "corrected_count!",
             coalesce(s.skip_count, 0) as "skip_count!",
             (select count(*) from slot where slot.labeler = k.id and slot.project = $1 and slot.state = 'leased'
                and slot.expires_at > now()) as "held_count!",
             l.seconds_median as "seconds_median?", l.last_label_at as "last_label_at?"
           from (select labeler, count(*) filter (where counted and undone_at is null) as label_count,
                   count(*) filter (where undone_at is not null) as undone_count,
                   count(*) filter (where corrected_at is not null and undone_at is null) as corrected_count,
                   percentile_cont(0.5) within group (order by seconds) filter (where undone_at is null) as seconds_median,
                   max(created_at) as last_label_at
                 from label where project = $1 group by labeler) l
             full join (select labeler, count(*) as skip_count from skip where project = $1 group by labeler) s
               on s.labeler = l.labeler
             join token k on k.id = coalesce(l.labeler, s.labeler)
           order by "label_count!" desc, k.id limit $2"#,
        project as ProjectId,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// One labeler's own work.
pub async fn find_own(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    since: DateTime<Utc>,
) -> Result<OwnStatistics, StoreError> {
    let row = sqlx::query_as!(
        OwnStatistics,
        r#"select count(*) as "total_label_count!", count(*) filter (where created_at >= $3) as "label_count!",
             percentile_cont(0.5) within group (order by seconds) filter (where created_at >= $3) as seconds_median,
             (select count(*) from skip where skip.labeler = $2 and skip.project = $1 and skip.created_at >= $3) as "skip_count!"
           from label where labeler = $2 and project = $1 and counted and undone_at is null"#,
        project as ProjectId,
        labeler as TokenId,
        since
    )
    .fetch_one(connection)
    .await?;
    Ok(row)
}
