//! Idempotency keys: a POST sent twice is done once.
//!
//! The key is inserted first and its answer written last, in the one transaction that does the work. So a twin in flight waits on the
//! primary key until the first commits (then it reads the answer) or rolls back (then it is the first). Kept 30 days, see `retention`.

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::TokenId;

/// What makes a request unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    let begun = begin_all(connection, &[(key, body_hash)]).await?.pop();
    begun.ok_or(StoreError::Retry(sqlx::Error::RowNotFound))
}

/// Claims keys of which no two are alike, waiting for twins in flight; the answers are in the order of `calls`.
pub async fn begin_all(
    connection: &mut PgConnection,
    calls: &[(&Key, &[u8; 32])],
) -> Result<Vec<Begun>, StoreError> {
    let tokens: Vec<TokenId> = calls.iter().map(|(key, _)| key.token).collect();
    let text = |part: fn(&Key) -> &str| calls.iter().map(|(key, _)| part(key).to_owned()).collect::<Vec<_>>();
    let (methods, paths, keys) = (text(|key| &key.method), text(|key| &key.path), text(|key| &key.key));
    let hashes: Vec<Vec<u8>> = calls.iter().map(|(_, hash)| hash.to_vec()).collect();
    // Here the second of two twins waits: an uncommitted row with this key makes Postgres wait for its transaction. All calls claim in one
    // order, so that none waits for another that waits for it.
    let claimed = sqlx::query_scalar!(
        r#"with call as (
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[])
               with ordinality as c (token, method, path, key, body_hash, place)
           ), claimed as (
             insert into idempotency (token, method, path, key, body_hash)
             select token, method, path, key, body_hash from call order by token, method, path, key
             on conflict do nothing returning token, method, path, key
           )
           select place as "place!" from claimed join call using (token, method, path, key)"#,
        &tokens as &[TokenId],
        &methods,
        &paths,
        &keys,
        &hashes
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut begun = vec![None; calls.len()];
    for place in claimed {
        begun[place as usize - 1] = Some(Begun::First);
    }
    let mut answers = Vec::with_capacity(calls.len());
    for ((key, body_hash), begun) in calls.iter().zip(begun) {
        answers.push(match begun {
            Some(begun) => begun,
            None => find(connection, key, body_hash).await?,
        });
    }
    Ok(answers)
}

/// What was answered under a key that is taken. A statement of its own, so that its snapshot sees the twin's commit.
async fn find(connection: &mut PgConnection, key: &Key, body_hash: &[u8; 32]) -> Result<Begun, StoreError> {
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

/// An answer to be kept for whoever sends the request again.
#[derive(Clone, Debug)]
pub struct KeptAnswer<'a> {
    /// The request's key.
    pub key: &'a Key,
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub answer: Value,
}

impl<'a> KeptAnswer<'a> {
    /// Keeps `answer` as JSON.
    pub fn new(key: &'a Key, status: u16, answer: &impl Serialize) -> Result<Self, StoreError> {
        let answer = serde_json::to_value(answer).map_err(|error| sqlx::Error::Encode(error.into()))?;
        Ok(Self { key, status, answer })
    }
}

/// Keeps the answers of keys that this transaction has claimed.
pub async fn finish_all(connection: &mut PgConnection, answers: &[KeptAnswer<'_>]) -> Result<(), StoreError> {
    if answers.is_empty() {
        return Ok(());
    }
    let tokens: Vec<TokenId> = answers.iter().map(|kept| kept.key.token).collect();
    let text =
        |part: fn(&Key) -> &str| answers.iter().map(|kept| part(kept.key).to_owned()).collect::<Vec<_>>();
    let (methods, paths, keys) = (text(|key| &key.method), text(|key| &key.path), text(|key| &key.key));
    let statuses: Vec<i16> = answers.iter().map(|kept| kept.status.cast_signed()).collect();
    let bodies: Vec<Value> = answers.iter().map(|kept| kept.answer.clone()).collect();
    sqlx::query!(
        "update idempotency i set status = f.status, answer = f.answer
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::jsonb[]) as f (token, method, path, key, status, answer)
         where i.token = f.token and i.method = f.method and i.path = f.path and i.key = f.key",
        &tokens as &[TokenId],
        &methods,
        &paths,
        &keys,
        &statuses,
        &bodies
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

    async fn finish(
        connection: &mut PgConnection,
        key: &Key,
        status: u16,
        answer: Value,
    ) -> Result<(), StoreError> {
        finish_all(connection, &[KeptAnswer { key, status, answer }]).await
    }

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
        finish(&mut first, &key, 201, json!({"id": 5})).await.unwrap();
        first.commit().await.unwrap();

        let mut second = database.store().begin().await.unwrap();
        let again = begin(&mut second, &key, &[1; 32]).await.unwrap();
        assert_eq!(again, Begun::Again { status: 201, answer: json!({"id": 5}) });
        assert_eq!(begin(&mut second, &key, &[2; 32]).await.unwrap(), Begun::Mismatch);
        let elsewhere = Key { path: "/api/v1/tokens".to_owned(), ..key };
        assert_eq!(begin(&mut second, &elsewhere, &[2; 32]).await.unwrap(), Begun::First);
    }

    #[tokio::test]
    async fn calls_of_one_transaction_each_get_what_their_own_key_says() {
        let database = TestDatabase::create().await;
        let key = make_key(&database).await;
        let named = |name: &str| Key { key: name.to_owned(), ..key.clone() };
        let (done, other, fresh) = (named("done"), named("other"), named("fresh"));
        let mut first = database.store().begin().await.unwrap();
        let begun = begin_all(&mut first, &[(&done, &[1; 32]), (&other, &[2; 32])]).await.unwrap();
        assert_eq!(begun, [Begun::First, Begun::First]);
        let answers = [(&other, 201, json!({"id": 2})), (&done, 200, json!({"id": 1}))];
        finish_all(&mut first, &answers.map(|(key, status, answer)| KeptAnswer { key, status, answer }))
            .await
            .unwrap();
        first.commit().await.unwrap();

        let mut second = database.store().begin().await.unwrap();
        let calls = [(&fresh, &[1; 32]), (&done, &[1; 32]), (&other, &[1; 32])];
        let begun = begin_all(&mut second, &calls).await.unwrap();
        let again = Begun::Again { status: 200, answer: json!({"id": 1}) };
        assert_eq!(begun, [Begun::First, again, Begun::Mismatch]);
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
        finish(&mut first, &key, 200, json!("done")).await.unwrap();
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
