//! Webhooks: the states of a delivery, why a webhook is silent, and when a failed delivery is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Failed attempts after which a webhook is given up: about six days after the first.
pub const ATTEMPT_COUNT_MAX: u32 = 16;

/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// The wait after the first failure.
const WAIT_FIRST: Duration = Duration::from_secs(5);

/// Why something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOrigin {
    /// The event happened.
    Event,
    /// Somebody asked for it again.
    Redelivery,
    /// Somebody wanted to see whether the receiver answers.
    Test,
}

impl DeliveryOrigin {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Redelivery => "redelivery",
            Self::Test => "test",
        }
    }
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for its first or next attempt.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// A test that the receiver didn't take; an event stays pending until it is delivered.
    Failed,
}

impl DeliveryState {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// Why a webhook sends no events; they wait until it is enabled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Somebody switched it off.
    Operator,
    /// Its receiver refused for days.
    GivenUp,
    /// Its receiver answered 410.
    Gone,
}

impl DisabledReason {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::GivenUp => "given_up",
            Self::Gone => "gone",
        }
    }
}

/// How long to wait after `failure_count` failures in a row (at least 1): 5 s, tripled each time up to a day, of which at least half and
/// `jitter` (0 to 1) of the other half are waited, so that a thousand webhooks of one receiver don't come back as one.
#[must_use]
pub fn wait_after(failure_count: u32, jitter: f64) -> Duration {
    let factor = 3u32.saturating_pow(failure_count.saturating_sub(1));
    let longest = WAIT_FIRST.saturating_mul(factor).min(WAIT_MAX);
    longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// The same, but no sooner than the receiver asked for (`Retry-After`), up to a day.
#[must_use]
pub fn wait_as_asked(failure_count: u32, jitter: f64, retry_after: Option<Duration>) -> Duration {
    wait_after(failure_count, jitter).max(retry_after.unwrap_or_default().min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_seconds_to_a_day_and_jitter_takes_at_most_half() {
        assert_eq!(wait_after(1, 1.0), Duration::from_secs(5));
        assert_eq!(wait_after(1, 0.0), Duration::from_millis(2500));
        assert_eq!(wait_after(4, 1.0), Duration::from_secs(135));
        assert_eq!(wait_after(ATTEMPT_COUNT_MAX, 1.0), Duration::from_secs(86_400));
        assert_eq!(wait_after(u32::MAX, 0.0), Duration::from_secs(43_200));
        let all: Duration = (1..ATTEMPT_COUNT_MAX).map(|count| wait_after(count, 1.0)).sum();
        assert!((5..8).contains(&(all.as_secs() / 86_400)), "{all:?}");
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_ever() {
        let asked = |seconds| wait_as_asked(1, 1.0, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(1), Duration::from_secs(5));
        assert_eq!(asked(120), Duration::from_secs(120));
        assert_eq!(asked(u64::MAX), Duration::from_secs(86_400));
    }
}
