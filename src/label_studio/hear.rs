//! Keeping annotations: what a webhook or an export says becomes the newest state of a row, which `inbox` acts on later.

use std::collections::HashMap;

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};

use crate::domain::ids::{ImportId, ItemId, LabelId, ProjectId, TokenId};
use crate::domain::label_studio::{
    Annotation, Answer, HeardTask, ItemKey, LabelConfig, WantedState, item_keys,
};
use crate::store::class::ClassNames;
use crate::store::label_studio::{self, FoundItem, HeardAnnotation};
use crate::store::{PgConnection, StoreError, label};

/// Tasks whose items are looked for in one query.
const MATCH_COUNT: usize = 5000;

/// The items that tasks show by their `data`, in the order of the tasks; `None` for what the project doesn't have.
pub async fn match_items(
    connection: &mut PgConnection,
    project: ProjectId,
    tasks: &[&Map<String, Value>],
    image_key: Option<&str>,
) -> Result<Vec<Option<FoundItem>>, StoreError> {
    let mut found = Vec::with_capacity(tasks.len());
    for part in tasks.chunks(MATCH_COUNT) {
        let keys: Vec<Vec<ItemKey>> = part.iter().map(|data| item_keys(data, image_key)).collect();
        let all: Vec<ItemKey> = keys.iter().flatten().cloned().collect();
        let rows = label_studio::find_items(connection, project, &all).await?;
        let by_id: HashMap<ItemId, &FoundItem> = rows.iter().map(|row| (row.id, row)).collect();
        let by_name: HashMap<&str, &FoundItem> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
        found.extend(keys.iter().map(|keys| {
            let find = |key: &ItemKey| match key {
                ItemKey::Id(id) => by_id.get(id),
                ItemKey::Name(name) => by_name.get(name.as_str()),
            };
            keys.iter().find_map(find).map(|row| (*row).clone())
        }));
    }
    Ok(found)
}

/// Keeps annotations with the tasks that they answer, as a webhook brings them from project `ls_project` of Label Studio.
pub async fn hear_annotations(
    connection: &mut PgConnection,
    project: ProjectId,
    source: TokenId,
    ls_project: i64,
    pairs: &[(&Annotation, &HeardTask)],
    config: Option<&LabelConfig>,
) -> Result<(), StoreError> {
    let image_key = config.map(|config| config.image_key.as_str());
    let shown: Vec<&Map<String, Value>> = pairs.iter().map(|(_, task)| &task.data).collect();
    let items = match_items(connection, project, &shown, image_key).await?;
    for ((annotation, task), item) in pairs.iter().zip(items) {
        let ls_project = task.project.or(Some(ls_project));
        let heard = heard(annotation, ls_project, item.map(|item| item.id), config);
        label_studio::hear(connection, project, source, &heard).await?;
    }
    Ok(())
}

/// Keeps that annotations are gone.
pub async fn hear_deletions(
    connection: &mut PgConnection,
    project: ProjectId,
    source: TokenId,
    ls_project: i64,
    annotations: &[i64],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for annotation in annotations {
        let heard = HeardAnnotation {
            ls_project,
            annotation: *annotation,
            unique_id: None,
            wanted: WantedState::Deleted,
            class: None,
            changed_at: now,
            item: None,
            person: None,
            seconds: None,
        };
        label_studio::hear(connection, project, source, &heard).await?;
    }
    Ok(())
}

/// Keeps the annotations of exported tasks whose items the project had before `import` brought what was new; those that a webhook brought before
/// keep their source. Returns how many are news.
pub async fn hear_export(
    connection: &mut PgConnection,
    project: ProjectId,
    source: TokenId,
    import: ImportId,
    tasks: &[HeardTask],
) -> Result<u64, StoreError> {
    let shown: Vec<&Map<String, Value>> = tasks.iter().map(|task| &task.data).collect();
    let items = match_items(connection, project, &shown, None).await?;
    let classes = ClassNames::read(connection, project).await?;
    let mut news = 0;
    for (task, item) in tasks.iter().zip(items) {
        let Some(item) = item.filter(|item| item.import != import) else { continue };
        for annotation in &task.annotations {
            let known = match annotation.unique_id {
                // An annotation that gleaner's own export made is the label that it names.
                Some(id) if label::find(connection, LabelId(id)).await?.is_some() => continue,
                Some(id) => label_studio::find_source(connection, project, id).await?,
                None => None,
            };
            let heard = heard(annotation, task.project, Some(item.id), None);
            // An answer that nobody heard of and that says what is known, as that of an image which came with its class, is no news and must
            // not cost a label.
            let class = item.class.map(|class| classes.name(class));
            if known.is_none() && heard.class.is_some() && heard.class == class {
                continue;
            }
            let fresh = label_studio::hear(connection, project, known.unwrap_or(source), &heard).await?;
            news += u64::from(fresh);
        }
    }
    Ok(news)
}

fn heard(
    annotation: &Annotation,
    task_project: Option<i64>,
    item: Option<ItemId>,
    config: Option<&LabelConfig>,
) -> HeardAnnotation {
    let (wanted, class) = match annotation.answer(config) {
        // Postgres keeps no zero byte in text, and no class has one.
        Ok(Answer::Class(class)) if class.contains('\0') => (WantedState::Nothing, None),
        Ok(Answer::Class(class)) => (WantedState::Class, Some(class)),
        Ok(Answer::Skip) => (WantedState::Skip, None),
        Err(_) => (WantedState::Nothing, None),
    };
    HeardAnnotation {
        ls_project: annotation.project.or(task_project).unwrap_or_default(),
        annotation: annotation.id,
        unique_id: annotation.unique_id,
        wanted,
        class,
        // Years that the database doesn't know are nobody's.
        changed_at: annotation.updated_at.filter(|at| (1970..=9999).contains(&at.year())).unwrap_or_default(),
        item,
        person: annotation.person(),
        seconds: annotation.seconds(),
    }
}
