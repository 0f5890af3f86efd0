//! Tokens: who may do what, by the hash of a secret.
//!
//! The secret itself is never here. Expired and revoked tokens are found too, since their labels and names stay; whether one still
//! counts is the caller's question.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;

/// A token as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id, which is the labeler's too.
    pub id: TokenId,
    /// What it allows.
    pub role: Role,
    /// Whom or what it was given to.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: Vec<u8>,
    /// The only projects it may touch; null for all.
    pub projects: Option<Vec<ProjectId>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Makes a token. Conflict on `token_hash_key` when the secret is in use.
pub async fn insert(
    connection: &mut PgConnection,
    role: Role,
    name: &str,
    hash: &[u8; 32],
    projects: Option<&[ProjectId]>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<TokenId, StoreError> {
    let id = TokenId::generate();
    sqlx::query!(
        "insert into token (id, role, name, hash, projects, expires_at) values ($1, $2, $3, $4, $5, $6)",
        id as TokenId,
        role as Role,
        name,
        hash.as_slice(),
        projects as Option<&[ProjectId]>,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// The token whose secret has this hash.
pub async fn find_by_hash(
    connection: &mut PgConnection,
    hash: &[u8; 32],
) -> Result<Option<TokenRow>, StoreError> {
    Ok(find_by_hashes(connection, &[*hash]).await?.pop())
}

/// The tokens whose secrets have these hashes; in no order.
pub async fn find_by_hashes(
    connection: &mut PgConnection,
    hashes: &[[u8; 32]],
) -> Result<Vec<TokenRow>, StoreError> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let rows = sqlx::query_as!(
        TokenRow,
        r#"select id as "id: TokenId", role as "role: Role", name, hash, projects as "projects: Vec<ProjectId>", created_at,
             expires_at, revoked_at
           from token where hash = any($1)"#,
        &hashes as &[&[u8]]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The token of this id.
pub async fn find(connection: &mut PgConnection, id: TokenId) -> Result<Option<TokenRow>, StoreError> {
    let row = sqlx::query_as!(
        TokenRow,
        r#"select id as "id: TokenId", role as "role: Role", name, hash, projects as "projects: Vec<ProjectId>", created_at,
             expires_at, revoked_at
           from token where id = $1"#,
        id as TokenId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Up to `limit` tokens after the one of id `after`, the oldest first; revoked and expired ones too.
pub async fn list(
    connection: &mut PgConnection,
    after: Option<TokenId>,
    limit: i64,
) -> Result<Vec<TokenRow>, StoreError> {
    let rows = sqlx::query_as!(
        TokenRow,
        r#"select id as "id: TokenId", role as "role: Role", name, hash, projects as "projects: Vec<ProjectId>", created_at,
             expires_at, revoked_at
           from token where $1::uuid is null or id > $1 order by id limit $2"#,
        after as Option<TokenId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The oldest admin token for all projects that is in force.
pub async fn find_admin(connection: &mut PgConnection) -> Result<Option<TokenId>, StoreError> {
    let id = sqlx::query_scalar!(
        r#"select id as "id: TokenId" from token
           where role = 'admin' and projects is null and revoked_at is null and (expires_at is null or expires_at > now())
           order by id limit 1"#
    )
    .fetch_optional(connection)
    .await?;
    Ok(id)
}

/// Whether anybody can administer: an admin token for all projects that is neither revoked nor expired.
pub async fn exists_admin(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from token where role = 'admin' and projects is null and revoked_at is null
             and (expires_at is null or expires_at > now())) as "exists!""#
    )
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// Revokes a token; false when there is none of this id or it was revoked already.
pub async fn revoke(connection: &mut PgConnection, id: TokenId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update token set revoked_at = now() where id = $1 and revoked_at is null",
        id as TokenId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    #[tokio::test]
    async fn a_token_is_found_by_its_hash_and_id_and_stays_after_it_was_revoked() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let mut connection = database.store().acquire().await.unwrap();
        let hash = [7; 32];
        let id = insert(&mut connection, Role::Labeler, "ana", &hash, Some(&[project]), None).await.unwrap();
        let row = find_by_hash(&mut connection, &hash).await.unwrap().unwrap();
        assert_eq!(
            (row.id, row.role, row.name.as_str(), row.hash.as_slice()),
            (id, Role::Labeler, "ana", hash.as_slice())
        );
        assert_eq!((row.projects.as_deref(), row.revoked_at), (Some([project].as_slice()), None));
        assert_eq!(find_by_hash(&mut connection, &[8; 32]).await.unwrap(), None);
        assert!(revoke(&mut connection, id).await.unwrap());
        assert!(!revoke(&mut connection, id).await.unwrap());
        assert!(find(&mut connection, id).await.unwrap().unwrap().revoked_at.is_some());
        let twin = insert(&mut connection, Role::Tool, "bo", &hash, None, None).await.unwrap_err();
        assert!(twin.is_conflict_on("token_hash_key"), "{twin:?}");
    }

    #[tokio::test]
    async fn only_a_live_admin_of_all_projects_counts_as_one() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let mut connection = database.store().acquire().await.unwrap();
        let yesterday = Utc::now() - chrono::TimeDelta::days(1);
        insert(&mut connection, Role::Operator, "a", &[1; 32], None, None).await.unwrap();
        insert(&mut connection, Role::Admin, "b", &[2; 32], Some(&[project]), None).await.unwrap();
        insert(&mut connection, Role::Admin, "c", &[3; 32], None, Some(yesterday)).await.unwrap();
        assert!(!exists_admin(&mut connection).await.unwrap());
        let id = insert(&mut connection, Role::Admin, "d", &[4; 32], None, None).await.unwrap();
        assert!(exists_admin(&mut connection).await.unwrap());
        revoke(&mut connection, id).await.unwrap();
        assert!(!exists_admin(&mut connection).await.unwrap());
    }

    #[tokio::test]
    async fn pages_of_tokens_join() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        for number in 0..5 {
            insert(&mut connection, Role::Tool, "t", &[number; 32], None, None).await.unwrap();
        }
        let first = list(&mut connection, None, 2).await.unwrap();
        let rest = list(&mut connection, Some(first[1].id), 10).await.unwrap();
        assert_eq!((first.len(), rest.len()), (2, 3));
        assert!([first, rest].concat().is_sorted_by_key(|row| row.id));
    }
}
