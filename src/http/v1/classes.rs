//! Classes of a project: how they are sent, checked and changed.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::field_error::FieldError;
use crate::http::extract::parse_value;
use crate::http::problem::ApiError;
use crate::store::project::ProjectRow;
use crate::store::{self, PgConnection};

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

/// Changes of a project's classes, carried out in the order of the fields.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"rename": {"Pullover": "Sweater"}, "add": ["Scarf"], "remove": [], "show": {"Coat": {"hotkey": "c"}}}))]
pub struct ClassChanges {
    /// New names by old names; labels keep their class.
    rename: BTreeMap<String, String>,
    /// Classes without any label that go.
    remove: Vec<String>,
    /// New classes; models know them from the next training on.
    #[schema(value_type = Vec<ClassInput>)]
    add: Vec<Value>,
    /// Colours and hotkeys by class.
    show: BTreeMap<String, ClassLook>,
}

/// How a class is shown; an absent field stays as it is, null lets pages choose.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassLook {
    /// `#rrggbb`.
    #[serde(deserialize_with = "present")]
    colour: Option<Option<String>>,
    /// One character.
    #[serde(deserialize_with = "present")]
    hotkey: Option<Option<String>>,
}

/// Reads a list of classes, each a name or an object.
fn parse_classes(list: Value, field: &str) -> Result<Vec<ClassInput>, ApiError> {
    let Value::Array(entries) = list else {
        return Err(ApiError::invalid_field(field, "must be a list of class names"));
    };
    let parse = |(index, entry)| match entry {
        Value::String(name) => Ok(ClassInput { name, ..ClassInput::default() }),
        object @ Value::Object(_) => parse_value(object).map_err(|error| error.below(&format!("{field}.{index}"))),
        _ => Err(ApiError::invalid_field(format!("{field}.{index}"), "must be a name, or an object with name, colour and hotkey")),
    };
    entries.into_iter().enumerate().map(parse).collect()
}

fn parse_class_changes(changes: Value) -> Result<ClassChanges, ApiError> {
    if changes.is_array() {
        let detail = "must be an object with rename, remove, add or show; the list as a whole can't be replaced";
        return Err(ApiError::invalid_field("classes", detail));
    }
    parse_value(changes).map_err(|error| error.below("classes"))
}

fn validate_looks(classes: &[ClassInput]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut keys = HashSet::new();
    for (index, class) in classes.iter().enumerate() {
        if class.colour.as_deref().is_some_and(|colour| !is_colour(colour)) {
            errors.push(FieldError::new(format!("classes.{index}.colour"), "must be written #rrggbb"));
        }
        if let Some(key) = class.hotkey.as_deref() {
            if !is_hotkey(key) {
                errors.push(FieldError::new(format!("classes.{index}.hotkey"), "must be one character that isn't blank"));
            } else if !keys.insert(key.to_lowercase()) {
                errors.push(FieldError::new(format!("classes.{index}.hotkey"), format!("'{key}' answers with another class")));
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

fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}
