//! Label Studio as a client: its annotations become labels, and its tasks get the model's guesses in the order in which gleaner asks.
//!
//! `hear` keeps what a webhook or an export brings, before it is answered; `Inbox` acts on it after that, by the same functions as
//! every other label. `Ranking` answers predictions from what the last scoring stored, so 20,000 tasks cost no computation. `tasks` is the
//! export. `http`, `worker` and `commands` call it.

mod hear;
mod inbox;
mod ranking;
mod tasks;

pub use hear::{hear_annotations, hear_deletions, hear_export, match_items};
pub use inbox::{Inbox, InboxWake};
pub use ranking::{Guess, Ranking, RankingCache, RankingError};
pub use tasks::{ExportPages, ResultNames, TaskWriter, choice_result};
