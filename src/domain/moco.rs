//! What an operator decides about MoCo, with the defaults and limits of each field (He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020,
//! arXiv:2003.04297). Part of `PretextSettings`; read by `pretext` and `nn`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field_error::FieldError;

/// Which published form of MoCo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MocoVersion {
    /// A linear projection head, temperature 0.1.
    #[default]
    V1,
    /// A projection head with a hidden layer, temperature 0.2, views of images above 64 pixels are blurred half of the time.
    V2,
}

/// How MoCo is trained; read only when the pretext task is `moco`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MocoSettings {
    /// Which published form.
    pub version: MocoVersion,
    /// What similarities are divided by, 0.01 to 1; null takes the version's: 0.1 in v1, 0.2 in v2.
    pub temperature: Option<f64>,
    /// How much of itself the key encoder keeps in a step, 0.5 to 0.9999.
    pub momentum: f64,
    /// Keys of earlier batches that a query is told apart from, 16 to 65536; a small pool keeps at most half as many as it has items.
    pub queue_size: u32,
    /// Images in a mini-batch at most, 8 to 4096, and never more than there are; null takes 512, fewer of images above 64 pixels and in
    /// small pools.
    pub batch_size: Option<u32>,
}

impl Default for MocoSettings {
    fn default() -> Self {
        Self {
            version: MocoVersion::default(),
            temperature: None,
            momentum: 0.99,
            queue_size: 4096,
            batch_size: None,
        }
    }
}

impl MocoSettings {
    /// What similarities are divided by.
    #[must_use]
    pub fn temperature_in_use(&self) -> f64 {
        self.temperature.unwrap_or(match self.version {
            MocoVersion::V1 => 0.1,
            MocoVersion::V2 => 0.2,
        })
    }

    /// Adds every field that lies outside its limits.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let mut within = |field: &str, right: bool, detail: &str| {
            if !right {
                errors.push(FieldError::new(format!("pretext.moco.{field}"), detail));
            }
        };
        let temperature_right = self.temperature.is_none_or(|value| (0.01..=1.0).contains(&value));
        within("temperature", temperature_right, "must be 0.01 to 1, or null for the version's own");
        within("momentum", (0.5..=0.9999).contains(&self.momentum), "must be 0.5 to 0.9999");
        within("queue_size", (16..=65_536).contains(&self.queue_size), "must be 16 to 65536 keys");
        let batch_right = self.batch_size.is_none_or(|size| (8..=4096).contains(&size));
        within("batch_size", batch_right, "must be 8 to 4096 images, or null for a fitting number");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_temperature_unless_one_is_given() {
        let read = |text: &str| serde_json::from_str::<MocoSettings>(text).unwrap().temperature_in_use();
        assert_eq!([read("{}"), read(r#"{"version":"v2"}"#)], [0.1, 0.2]);
        assert_eq!(read(r#"{"version":"v2","temperature":0.07}"#), 0.07);
    }

    #[test]
    fn every_field_outside_its_limits_is_named() {
        let wrong = MocoSettings {
            version: MocoVersion::V1,
            temperature: Some(0.0),
            momentum: 1.0,
            queue_size: 0,
            batch_size: Some(1),
        };
        let mut errors = Vec::new();
        wrong.validate(&mut errors);
        let fields: Vec<_> = errors.into_iter().map(|error| error.field).collect();
        let expected = ["temperature", "momentum", "queue_size", "batch_size"];
        assert_eq!(fields, expected.map(|field| format!("pretext.moco.{field}")));
    }
}
