//! Identifiers: one newtype an entity, so that an item's id can't be passed where a task's is meant.
//!
//! All are UUIDv7: sortable by creation time, which keeps the B-trees of Postgres dense. Nothing may depend on that order for its
//! meaning, since it is neither commit order nor reproducible; random streams and ties are keyed by content hash instead.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id (UUIDv7, from the system clock and the operating system's random source).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// A project: one pile of images, one set of classes, one budget.
    ProjectId
);
id!(
    /// An item: one image of a project.
    ItemId
);
id!(
    /// A segment: one immutable file of packed images.
    SegmentId
);
id!(
    /// An import: one source read into a project.
    ImportId
);
id!(
    /// A round of Algorithm 1.
    RoundId
);
id!(
    /// A task: an item asked in a round.
    TaskId
);
id!(
    /// A slot: one vote that a task needs.
    SlotId
);
id!(
    /// A label: one vote that somebody gave.
    LabelId
);
id!(
    /// A token, and so the labeler, tool, operator or admin that holds it.
    TokenId
);
id!(
    /// A job: work for the engine, kept in Postgres.
    JobId
);
id!(
    /// An event, before the relay gives it its number.
    EventId
);
id!(
    /// A webhook: an address that events are sent to.
    WebhookId
);
id!(
    /// A delivery: one event, or a test, on its way to one webhook.
    DeliveryId
);
