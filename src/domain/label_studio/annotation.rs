//! Annotations: what a person in Label Studio answered.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::LabelConfig;

/// An annotation as webhooks and exports hold it.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotation {
    /// Its id in that Label Studio.
    pub id: i64,
    /// The same annotation in webhooks and exports has the same.
    #[serde(default)]
    pub unique_id: Option<Uuid>,
    /// The regions; for a choice one, for a skip none.
    #[serde(default)]
    result: Vec<AnnotationResult>,
    /// Whether the person skipped.
    #[serde(default)]
    was_cancelled: bool,
    /// When it changed last, by Label Studio's clock.
    #[serde(default)]
    pub updated_at: Option<DateTime<Utc>>,
    /// How long the person looked, in seconds.
    #[serde(default)]
    lead_time: Option<f64>,
    /// Who answered: the user's id, in exports with users an object that holds it.
    #[serde(default, deserialize_with = "user")]
    completed_by: Option<i64>,
    /// The task's id in that Label Studio.
    #[serde(default)]
    pub task: Option<i64>,
    /// The project's id in that Label Studio.
    #[serde(default)]
    pub project: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct AnnotationResult {
    #[serde(default)]
    from_name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    value: Map<String, Value>,
}

/// A task as webhooks and exports hold it.
#[derive(Clone, Debug, Deserialize)]
pub struct HeardTask {
    /// Its id in that Label Studio.
    #[serde(default)]
    pub id: Option<i64>,
    /// What it shows.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// What people answered; in exports only.
    #[serde(default)]
    pub annotations: Vec<Annotation>,
    /// The project's number in Label Studio.
    #[serde(default)]
    pub project: Option<i64>,
}

/// What an annotation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The image is of this class.
    Class(String),
    /// The person skipped.
    Skip,
}

/// Why an annotation says nothing that gleaner could keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It was submitted empty.
    #[error("the annotation holds no choice")]
    NoChoice,
    /// It holds several choices.
    #[error("the annotation holds several choices, and an item has one class")]
    SeveralChoices,
}

impl Annotation {
    /// What it says; `config` tells which choices are meant, without it there may be only one kind.
    ///
    /// # Errors
    /// No choice, or several.
    pub fn answer(&self, config: Option<&LabelConfig>) -> Result<Answer, AnswerError> {
        if self.was_cancelled {
            return Ok(Answer::Skip);
        }
        let mut choices = self
            .result
            .iter()
            .filter(|result| result.kind == "choices")
            .filter(|result| config.is_none_or(|config| config.from_name == result.from_name))
            .filter_map(|result| result.value.get("choices")?.as_array())
            .flatten()
            .filter_map(Value::as_str);
        match (choices.next(), choices.next()) {
            (None, _) => Err(AnswerError::NoChoice),
            (Some(choice), None) => {
                Ok(Answer::Class(config.map_or(choice, |config| config.class(choice)).to_owned()))
            }
            _ => Err(AnswerError::SeveralChoices),
        }
    }

    /// How long the person looked, 0 to a day; absent when Label Studio says something else.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        self.lead_time.filter(|seconds| (0.0..=86_400.0).contains(seconds))
    }

    /// The person, as gleaner calls somebody whom it only knows by Label Studio's number.
    #[must_use]
    pub fn person(&self) -> Option<String> {
        self.completed_by.map(|user| format!("label-studio:{user}"))
    }
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_i64().or_else(|| value.get("id")?.as_i64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn annotation(changes: &Value) -> Annotation {
        let mut body = json!({
            "id": 1, "unique_id": "534a40ad-dec5-487e-890c-388509568a9a", "was_cancelled": false, "lead_time": 3.2, "completed_by": 1,
            "updated_at": "2026-11-24T18:37:19.328347Z", "task": 10, "project": 1,
            "result": [{"id": "abc", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}],
        });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_choice_is_a_class_and_a_cancelled_annotation_a_skip() {
        let one = annotation(&json!({}));
        assert_eq!(one.answer(None), Ok(Answer::Class("cat".to_owned())));
        assert_eq!((one.seconds(), one.person().as_deref()), (Some(3.2), Some("label-studio:1")));
        let skipped = annotation(&json!({"was_cancelled": true, "result": []}));
        assert_eq!(skipped.answer(None), Ok(Answer::Skip));
        let exported = annotation(&json!({"completed_by": {"id": 7, "email": "a@b.co"}, "lead_time": -1}));
        assert_eq!((exported.seconds(), exported.person().as_deref()), (None, Some("label-studio:7")));
    }

    #[test]
    fn what_is_no_single_choice_says_nothing() {
        assert_eq!(annotation(&json!({"result": []})).answer(None), Err(AnswerError::NoChoice));
        let region = json!({"from_name": "label", "type": "choices", "value": {"choices": ["cat", "dog"]}});
        let two = annotation(&json!({ "result": [region] }));
        assert_eq!(two.answer(None), Err(AnswerError::SeveralChoices));
        let text = json!({"from_name": "note", "type": "textarea", "value": {"text": ["a cat"]}});
        assert_eq!(annotation(&json!({"result": [text]})).answer(None), Err(AnswerError::NoChoice));
    }

    #[test]
    fn the_config_says_which_choices_are_meant_and_what_aliases_stand_for() {
        let xml = r#"<View><Image name="image" value="$image"/><Choices name="label" toName="image"><Choice value="cat" alias="c"/></Choices></View>"#;
        let config = LabelConfig::parse(xml).unwrap();
        let result = json!([
            {"from_name": "quality", "type": "choices", "value": {"choices": ["blurred"]}},
            {"from_name": "label", "type": "choices", "value": {"choices": ["c"]}},
        ]);
        assert_eq!(
            annotation(&json!({ "result": result })).answer(Some(&config)),
            Ok(Answer::Class("cat".to_owned()))
        );
    }
}
