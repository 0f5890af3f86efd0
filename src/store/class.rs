//! Classes of a project.
//!
//! An index never changes its meaning while the class exists, since it is the model's output; names, colours and hotkeys may change. Names
//! are unique in a project at the end of a transaction (the constraint is deferred), so that two classes can swap theirs; the conflict,
//! on `class_project_name_key`, then comes from `commit`.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::ProjectId;
use crate::domain::project::ClassIndex;

/// A class as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRow {
    /// The model's output that stands for it.
    pub index: ClassIndex,
    /// Unique in the project.
    pub name: String,
    /// `#rrggbb`; pages choose when null.
    pub colour: Option<String>,
    /// One character; pages choose when null.
    pub hotkey: Option<String>,
}

/// A class to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewClass {
    /// Unique in the project.
    pub name: String,
    /// `#rrggbb`.
    pub colour: Option<String>,
    /// One character.
    pub hotkey: Option<String>,
}

/// The classes of a project in the order of their indexes.
pub async fn list(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<ClassRow>, StoreError> {
    let rows = sqlx::query_as!(
        ClassRow,
        r#"select index as "index: ClassIndex", name, colour, hotkey from class where project = $1 order by index"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Names of a project's classes by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames(BTreeMap<ClassIndex, String>);

impl ClassNames {
    /// Reads them.
    pub async fn read(connection: &mut PgConnection, project: ProjectId) -> Result<Self, StoreError> {
        let rows = list(connection, project).await?;
        Ok(Self(rows.into_iter().map(|row| (row.index, row.name)).collect()))
    }

    /// The names in the order of the indices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// The name of a class; its index when it is gone, which foreign keys prevent.
    #[must_use]
    pub fn name(&self, class: ClassIndex) -> String {
        self.0.get(&class).cloned().unwrap_or_else(|| class.0.to_string())
    }
}

/// Adds classes in their order after those that are there.
pub async fn insert_all(
    connection: &mut PgConnection,
    project: ProjectId,
    classes: &[NewClass],
) -> Result<(), StoreError> {
    let names: Vec<_> = classes.iter().map(|class| class.name.clone()).collect();
    let colours: Vec<_> = classes.iter().map(|class| class.colour.clone()).collect();
    let hotkeys: Vec<_> = classes.iter().map(|class| class.hotkey.clone()).collect();
    sqlx::query!(
        // Two of these at once take the same indexes and one fails on the primary key, so nothing is mixed up.
        "insert into class (project, index, name, colour, hotkey)
         select $1, (select coalesce(max(index), -1) from class where project = $1) + position, name, colour, hotkey
         from unnest($2::text[], $3::text[], $4::text[]) with ordinality as new (name, colour, hotkey, position)",
        project as ProjectId,
        &names,
        &colours as &[Option<String>],
        &hotkeys as &[Option<String>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a class another name; labels keep their class. False when there is no such class.
pub async fn rename(
    connection: &mut PgConnection,
    project: ProjectId,
    index: ClassIndex,
    name: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update class set name = $3 where project = $1 and index = $2",
        project as ProjectId,
        index as ClassIndex,
        name
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets how a class is shown; null lets pages choose. False when there is no such class.
pub async fn set_look(
    connection: &mut PgConnection,
    project: ProjectId,
    index: ClassIndex,
    colour: Option<&str>,
    hotkey: Option<&str>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update class set colour = $3, hotkey = $4 where project = $1 and index = $2",
        project as ProjectId,
        index as ClassIndex,
        colour,
        hotkey
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a class that no item and no label has; false when one has it, or there is no such class. Its index stays a gap unless it was
/// the last, so models must be as wide as the largest index.
pub async fn remove(
    connection: &mut PgConnection,
    project: ProjectId,
    index: ClassIndex,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        // A label that is committed between look and deletion makes the foreign key refuse: Conflict on label_project_class_fkey.
        "delete from class c where c.project = $1 and c.index = $2
           and not exists (select from item i where i.project = c.project and i.class = c.index)
           and not exists (select from label l where l.project = c.project and l.class = c.index)",
        project as ProjectId,
        index as ClassIndex
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    fn named(name: &str) -> NewClass {
        NewClass { name: name.to_owned(), ..NewClass::default() }
    }

    #[tokio::test]
    async fn classes_keep_their_order_and_looks_and_new_ones_come_after() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let mut connection = database.store().acquire().await.unwrap();
        let scarf =
            NewClass { colour: Some("#aa0000".to_owned()), hotkey: Some("s".to_owned()), ..named("scarf") };
        insert_all(&mut connection, project, &[scarf, named("hat")]).await.unwrap();
        assert!(set_look(&mut connection, project, ClassIndex(3), None, Some("h")).await.unwrap());
        let rows = list(&mut connection, project).await.unwrap();
        let brief: Vec<_> =
            rows.iter().map(|row| (row.index.0, row.name.as_str(), row.hotkey.as_deref())).collect();
        assert_eq!(
            brief,
            [(0, "bag", None), (1, "coat", None), (2, "scarf", Some("s")), (3, "hat", Some("h"))]
        );
        assert_eq!(rows[2].colour.as_deref(), Some("#aa0000"));
        assert!(!set_look(&mut connection, project, ClassIndex(9), None, None).await.unwrap());
    }

    #[tokio::test]
    async fn two_classes_can_swap_names_but_not_share_one() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let mut transaction = database.store().begin().await.unwrap();
        assert!(rename(&mut transaction, project, ClassIndex(0), "coat").await.unwrap());
        assert!(rename(&mut transaction, project, ClassIndex(1), "bag").await.unwrap());
        assert!(!rename(&mut transaction, project, ClassIndex(2), "hat").await.unwrap());
        transaction.commit().await.unwrap();

        let mut transaction = database.store().begin().await.unwrap();
        rename(&mut transaction, project, ClassIndex(0), "bag").await.unwrap();
        let refused = transaction.commit().await.unwrap_err();
        assert!(refused.is_conflict_on("class_project_name_key"), "{refused:?}");
    }

    #[tokio::test]
    async fn only_a_class_without_items_goes() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat", "hat"]).await.id;
        let items = database.create_items(project, 1).await;
        let mut connection = database.store().acquire().await.unwrap();
        sqlx::query("update item set class = 1, class_source = 'votes' where id = $1")
            .bind(items[0])
            .execute(&mut *connection)
            .await
            .unwrap();
        assert!(!remove(&mut connection, project, ClassIndex(1)).await.unwrap());
        assert!(remove(&mut connection, project, ClassIndex(0)).await.unwrap());
        assert!(!remove(&mut connection, project, ClassIndex(0)).await.unwrap());
        let left: Vec<_> =
            list(&mut connection, project).await.unwrap().iter().map(|row| row.index.0).collect();
        assert_eq!(left, [1, 2]);
    }
}
