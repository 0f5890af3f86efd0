//! Classes of a project: how they are sent, checked and changed.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::field_error::FieldError;
use crate::domain::ids::ProjectId;
use crate::domain::project::{ClassIndex, validate_class_names};
use crate::http::extract::parse_value;
use crate::http::problem::ApiError;
use crate::store::class::{self, ClassRow, NewClass};
use crate::store::{PgConnection, StoreError};

/// What stands for a class in a list: its name, or the class with how it is shown.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ClassEntry {
    /// The name alone.
    Name(String),
    /// Name, colour and hotkey.
    Shown(ClassInput),
}

/// A class as it is sent: its name alone, or with how it is shown.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassInput {
    /// 1 to 200 characters.
    pub name: String,
    /// `#rrggbb`; pages choose one when it is null.
    #[serde(default)]
    pub colour: Option<String>,
    /// One character that answers with this class; pages choose one when it is null.
    #[serde(default)]
    pub hotkey: Option<String>,
}

/// Changes of a project's classes, carried out in this order: rename, remove, add, show. Names in `remove` and `show` are the new ones.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"rename": {"Pullover": "Sweater"}, "add": ["Scarf"], "remove": [], "show": {"Coat": {"hotkey": "c"}}}))]
pub struct ClassChanges {
    /// New names by old names; labels keep their class.
    rename: BTreeMap<String, String>,
    /// Classes without any label that go.
    remove: Vec<String>,
    /// New classes, by name or with colour and hotkey; models know them from the next training on.
    #[schema(value_type = Vec<ClassEntry>)]
    add: Value,
    /// Colours and hotkeys by class.
    show: BTreeMap<String, ClassLook>,
}

/// How a class is shown; an absent field stays as it is, null lets pages choose.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassLook {
    /// `#rrggbb`.
    #[serde(deserialize_with = "present")]
    colour: Option<Option<String>>,
    /// One character.
    #[serde(deserialize_with = "present")]
    hotkey: Option<Option<String>>,
}

/// The classes as the store takes them.
pub fn new_classes(classes: &[ClassInput]) -> Vec<NewClass> {
    classes
        .iter()
        .map(|class| NewClass {
            name: class.name.clone(),
            colour: class.colour.clone(),
            hotkey: class.hotkey.clone(),
        })
        .collect()
}

/// A list of classes as a request holds it; errors name the entry below `field`.
pub fn parse_classes(list: Value, field: &str) -> Result<Vec<ClassInput>, ApiError> {
    let Value::Array(entries) = list else {
        return Err(ApiError::invalid_field(field, "must be a list of class names"));
    };
    let parse = |(index, entry)| match entry {
        Value::String(name) => Ok(ClassInput { name, ..ClassInput::default() }),
        object @ Value::Object(_) => {
            parse_value(object).map_err(|error| error.below(&format!("{field}.{index}")))
        }
        _ => Err(ApiError::invalid_field(
            format!("{field}.{index}"),
            "must be a name, or an object with name, colour and hotkey",
        )),
    };
    entries.into_iter().enumerate().map(parse).collect()
}

/// The changes that a PATCH asks for.
pub fn parse_class_changes(changes: Value) -> Result<ClassChanges, ApiError> {
    if changes.is_array() {
        let detail =
            "must be an object with rename, remove, add or show; the list as a whole can't be replaced";
        return Err(ApiError::invalid_field("classes", detail));
    }
    parse_value(changes).map_err(|error| error.below("classes"))
}

/// What is wrong with colours and hotkeys.
pub fn validate_looks(classes: &[ClassInput]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut keys = HashSet::new();
    for (index, class) in classes.iter().enumerate() {
        if class.colour.as_deref().is_some_and(|colour| !is_colour(colour)) {
            errors.push(FieldError::new(format!("classes.{index}.colour"), "must be written #rrggbb"));
        }
        if let Some(key) = class.hotkey.as_deref() {
            if !is_hotkey(key) {
                errors.push(FieldError::new(
                    format!("classes.{index}.hotkey"),
                    "must be one character that isn't blank",
                ));
            } else if !keys.insert(key.to_lowercase()) {
                errors.push(FieldError::new(
                    format!("classes.{index}.hotkey"),
                    format!("'{key}' answers with another class"),
                ));
            }
        }
    }
    errors
}

fn is_colour(text: &str) -> bool {
    text.len() == 7 && text.starts_with('#') && text.chars().skip(1).all(|c| c.is_ascii_hexdigit())
}

fn is_hotkey(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| !c.is_whitespace() && !c.is_control()) && characters.next().is_none()
}

/// Carries out changes of a project's classes; the caller holds the project's lock.
pub async fn change_classes(
    connection: &mut PgConnection,
    project: ProjectId,
    changes: ClassChanges,
) -> Result<(), ApiError> {
    let mut classes = class::list(connection, project).await?;
    rename_classes(connection, project, &mut classes, &changes.rename).await?;
    for name in &changes.remove {
        let index = find_class(&classes, name, "classes.remove")?;
        remove_class(connection, project, index, name).await?;
        classes.retain(|class| class.index != index);
    }
    let added = if changes.add.is_null() { Vec::new() } else { parse_classes(changes.add, "classes.add")? };
    class::insert_all(connection, project, &new_classes(&added)).await?;
    let mut classes = class::list(connection, project).await?;
    for (name, look) in changes.show {
        let index = find_class(&classes, &name, "classes.show")?;
        let Some(class) = classes.iter_mut().find(|class| class.index == index) else {
            continue;
        };
        class.colour = look.colour.unwrap_or_else(|| class.colour.take());
        class.hotkey = look.hotkey.unwrap_or_else(|| class.hotkey.take());
        class::set_look(connection, project, index, class.colour.as_deref(), class.hotkey.as_deref()).await?;
    }
    validate_result(&classes)
}

async fn rename_classes(
    connection: &mut PgConnection,
    project: ProjectId,
    classes: &mut [ClassRow],
    renames: &BTreeMap<String, String>,
) -> Result<(), ApiError> {
    // All are looked up before any is changed, so that two classes can swap their names.
    let mut planned = Vec::new();
    for (old, new) in renames {
        planned.push((find_class(classes, old, "classes.rename")?, new));
    }
    for (index, new) in planned {
        class::rename(connection, project, index, new).await?;
        if let Some(class) = classes.iter_mut().find(|class| class.index == index) {
            class.name.clone_from(new);
        }
    }
    Ok(())
}

async fn remove_class(
    connection: &mut PgConnection,
    project: ProjectId,
    index: ClassIndex,
    name: &str,
) -> Result<(), ApiError> {
    let in_use = || {
        ApiError::conflict(format!("class '{name}' has labels, so it can't be removed; rename it instead"))
    };
    match class::remove(connection, project, index).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(StoreError::Conflict { .. }) => Err(in_use()),
        Err(error) => Err(error.into()),
    }
}

fn find_class(classes: &[ClassRow], name: &str, field: &str) -> Result<ClassIndex, ApiError> {
    let class = classes.iter().find(|class| class.name == name);
    class
        .map(|class| class.index)
        .ok_or_else(|| ApiError::invalid_field(field, format!("there is no class '{name}'")))
}

/// What a project's classes are after a change must be as right as at its creation.
fn validate_result(classes: &[ClassRow]) -> Result<(), ApiError> {
    let inputs: Vec<_> = classes
        .iter()
        .map(|class| ClassInput {
            name: class.name.clone(),
            colour: class.colour.clone(),
            hotkey: class.hotkey.clone(),
        })
        .collect();
    let names: Vec<_> = inputs.iter().map(|class| class.name.clone()).collect();
    let mut errors = validate_class_names(&names);
    errors.extend(validate_looks(&inputs));
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(errors)) }
}

/// Tells a field that is null from one that is absent.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}
