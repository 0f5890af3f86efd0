//! The states of a round and what may follow what (Algorithm 1, lines 5 to 10).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundState {
    /// Its tasks are open for labels.
    Labeling,
    /// Its labels train a model.
    Training,
    /// Its model scores the pool.
    Scoring,
    /// The next batch was chosen, or none follows.
    Closed,
}

/// What moves a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoundEvent {
    /// No slot is open or leased.
    BatchCompleted,
    /// Its model was trained, evaluated and published, and another batch may follow.
    ModelPublished,
    /// The next batch was chosen from its scores.
    NextBatchChosen,
    /// The project ended with this round.
    ProjectEnded,
}

impl RoundState {
    /// Every state, in order.
    pub const ALL: [Self; 4] = [Self::Labeling, Self::Training, Self::Scoring, Self::Closed];

    /// The state after `event`, or `None` when the event can't happen here.
    #[must_use]
    pub fn after(self, event: RoundEvent) -> Option<Self> {
        use RoundEvent as E;
        use RoundState as S;
        match (self, event) {
            (S::Labeling, E::BatchCompleted) => Some(S::Training),
            (S::Training, E::ModelPublished) => Some(S::Scoring),
            (S::Scoring, E::NextBatchChosen) => Some(S::Closed),
            (S::Labeling | S::Training | S::Scoring, E::ProjectEnded) => Some(S::Closed),
            _ => None,
        }
    }

    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labeling => "labeling",
            Self::Training => "training",
            Self::Scoring => "scoring",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_states_and_events_is_as_reviewed() {
        let events = [
            RoundEvent::BatchCompleted,
            RoundEvent::ModelPublished,
            RoundEvent::NextBatchChosen,
            RoundEvent::ProjectEnded,
        ];
        let mut table = String::new();
        for state in RoundState::ALL {
            for event in events {
                if let Some(next) = state.after(event) {
                    table.push_str(&format!("{} + {event:?} -> {}\n", state.as_str(), next.as_str()));
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
