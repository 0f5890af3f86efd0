//! Label Studio's data as gleaner reads and writes it (protocol of server 1.23): the labelling config, tasks, annotations, predictions.
//!
//! Pure: no database, no network. Bodies hold far more than is named here; what isn't named is passed over, access tokens among it, so nothing of
//! them can be kept by accident.

mod annotation;
mod config;
mod inbox;
mod task;

pub use annotation::{Annotation, Answer, AnswerError, HeardTask};
pub use config::{ConfigError, LabelConfig};
pub use inbox::{AnnotationOutcome, WantedState};
pub use task::{ItemKey, item_keys};
