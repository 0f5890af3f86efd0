//! Rounds: Algorithm 1 as a durable state machine.
//!
//! The supervisor is the sole writer of round and project state after the start. `tick` re-reads everything from the database, makes at
//! most one transition, compare-and-set with its event in one transaction, and enqueues jobs only; so a restart is the first tick. Several
//! processes may run supervisors: the project's lock lets one through. `control` holds the operator's five commands.

mod batch;
mod blind;
pub mod control;
mod counts;
pub mod curve;
mod error;
mod moves;
pub mod overview;
mod prepare;
pub mod request;
mod supervisor;
#[cfg(test)]
mod tests;
mod tick;
mod ties;
mod votes;

pub use counts::{RoundCounts, SupervisorWake};
pub use error::TickError;
pub use supervisor::{JobWake, Supervisor};
pub use tick::{TickOutcome, tick};

/// Subject of the jobs of a round: its training, and the selection of its batch.
#[must_use]
pub fn subject_of_round(number: i32) -> String {
    format!("round-{number}")
}
