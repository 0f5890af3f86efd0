//! Idempotency keys: a POST sent twice is done once.
//!
//! The key is inserted first and its answer written last, in the one transaction that does the work. So a twin in flight waits on the
//! primary key until the first commits (then it reads the answer) or rolls back (then it is the first). Kept 30 days, see `retention`.

use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::TokenId;

/// What makes a request unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Who sent it.
    pub token: TokenId,
    /// HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// The client's key.
    pub key: String,
}

/// What a request turns out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// Nobody did it yet; do it and call `finish` in the same transaction.
    First,
    /// It was done; this was its answer.
    Again {
        /// HTTP status.
        status: u16,
        /// Body.
        answer: Value,
    },
    /// The key was used for another body.
    Mismatch,
}

/// Claims the key, waiting for a twin in flight. `body_hash` is the SHA-256 of the request's body.
pub async fn begin(
    connection: &mut PgConnection,
    key: &Key,
    body_hash: &[u8; 32],
) -> Result<Begun, StoreError> {
    // Here the second of two twins waits: an uncommitted row with this key makes Postgres wait for its transaction.
    let claimed = sqlx::query!(
        "insert into idempotency (token, method, path, key, body_hash) values ($1, $2, $3, $4, $5) on conflict do nothing",
        key.token as TokenId,
        key.method,
        key.path,
        key.key,
        body_hash.as_slice()
    )
    .execute(&mut *connection)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(Begun::First);
    }
    // A statement of its own, so that its snapshot sees the twin's commit.
    let row = sqlx::query!(
        "select body_hash, status, answer from idempotency where token = $1 and method = $2 and path = $3 and key = $4",
        key.token as TokenId,
        key.method,
        key.path,
        key.key
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else {
        // It was purged between the two statements.
        return Err(StoreError::Retry(sqlx::Error::RowNotFound));
    };
    if row.body_hash != body_hash {
        return Ok(Begun::Mismatch);
    }
    let status = row.status.and_then(|status| u16::try_from(status).ok());
    match (status, row.answer) {
        (Some(status), Some(answer)) => Ok(Begun::Again { status, answer }),
        // Committed without an answer: whoever did that did no work under the key.
        _ => Ok(Begun::First),
    }
}

/// Keeps the answer for whoever sends the request again.
pub async fn finish(
    connection: &mut PgConnection,
    key: &Key,
    status: u16,
    answer: &Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update idempotency set status = $5, answer = $6 where token = $1 and method = $2 and path = $3 and key = $4",
        key.token as TokenId,
        key.method,
        key.path,
        key.key,
        status.cast_signed(),
        answer
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::role::Role;
    use crate::store::testing::TestDatabase;
    use crate::store::token;

    async fn make_key(database: &TestDatabase) -> Key {
        let mut connection = database.store().acquire().await.unwrap();
        let token = token::insert(&mut connection, Role::Tool, "t", &[1; 32], None, None).await.unwrap();
        Key { token, method: "POST".to_owned(), path: "/api/v1/projects".to_owned(), key: "k".to_owned() }
    }

    #[tokio::test]
    async fn the_same_request_gets_the_first_answer_and_another_body_is_a_mismatch() {
        let database = TestDatabase::create().await;
        let key = make_key(&database).await;
        let mut first = database.store().begin().await.unwrap();
        assert_eq!(begin(&mut first, &key, &[1; 32]).await.unwrap(), Begun::First);
        finish(&mut first, &key, 201, &json!({"id": 5})).await.unwrap();
        first.commit().await.unwrap();

        let mut second = database.store().begin().await.unwrap();
        let again = begin(&mut second, &key, &[1; 32]).await.unwrap();
        assert_eq!(again, Begun::Again { status: 201, answer: json!({"id": 5}) });
        assert_eq!(begin(&mut second, &key, &[2; 32]).await.unwrap(), Begun::Mismatch);
        let elsewhere = Key { path: "/api/v1/tokens".to_owned(), ..key };
        assert_eq!(begin(&mut second, &elsewhere, &[2; 32]).await.unwrap(), Begun::First);
    }

    #[tokio::test]
    async fn a_twin_in_flight_waits_and_gets_the_answer() {
        let database = TestDatabase::create().await;
        let key = make_key(&database).await;
        let mut first = database.store().begin().await.unwrap();
        begin(&mut first, &key, &[1; 32]).await.unwrap();
        let mut second = database.store().begin().await.unwrap();
        let mut twin = std::pin::pin!(begin(&mut second, &key, &[1; 32]));
        wait_until_blocked(&database, twin.as_mut()).await;
        finish(&mut first, &key, 200, &json!("done")).await.unwrap();
        first.commit().await.unwrap();
        assert_eq!(twin.await.unwrap(), Begun::Again { status: 200, answer: json!("done") });
    }

    #[tokio::test]
    async fn a_twin_of_a_request_that_failed_is_the_first() {
        let database = TestDatabase::create().await;
        let key = make_key(&database).await;
        let mut first = database.store().begin().await.unwrap();
        begin(&mut first, &key, &[1; 32]).await.unwrap();
        let mut second = database.store().begin().await.unwrap();
        let mut twin = std::pin::pin!(begin(&mut second, &key, &[1; 32]));
        wait_until_blocked(&database, twin.as_mut()).await;
        first.rollback().await.unwrap();
        assert_eq!(twin.await.unwrap(), Begun::First);
    }

    /// Polls the twin until Postgres reports a session that waits for another's transaction.
    async fn wait_until_blocked(
        database: &TestDatabase,
        mut twin: std::pin::Pin<&mut impl Future<Output = Result<Begun, StoreError>>>,
    ) {
        let mut connection = database.store().acquire().await.unwrap();
        let mut blocked = false;
        while !blocked {
            let waiting = sqlx::query_scalar::<_, bool>(
                "select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'transactionid')",
            );
            tokio::select! {
                begun = twin.as_mut() => panic!("the twin didn't wait: {begun:?}"),
                answer = waiting.fetch_one(&mut *connection) => blocked = answer.unwrap(),
            }
        }
    }
}
