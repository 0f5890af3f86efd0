//! Money: how many votes a budget still buys.
//!
//! Votes are counted in integers and turned into money only at the edge, so that thousands of small prices add up exactly. An open
//! task reserves its missing votes; so the budget is never overspent (API.md, "Counting").

/// A budget and the price of one accepted vote, in one unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// What may be spent in all.
    pub total: f64,
    /// Price of one accepted vote, above 0.
    pub cost_per_label: f64,
}

impl Budget {
    /// What `vote_count` accepted votes cost.
    #[must_use]
    pub fn spent(&self, vote_count: u64) -> f64 {
        vote_count as f64 * self.cost_per_label
    }

    /// How many votes the whole budget buys.
    #[must_use]
    pub fn vote_capacity(&self) -> u64 {
        // A budget of 0.3 at 0.1 a vote buys 3, though 0.3 / 0.1 is a hair below 3 in binary.
        let votes = (self.total / self.cost_per_label) * (1.0 + 1e-12);
        votes.floor().clamp(0.0, 9e15) as u64
    }

    /// How many further votes may be asked for when `accepted_count` are paid and `reserved_count` are open or leased.
    #[must_use]
    pub fn free_votes(&self, accepted_count: u64, reserved_count: u64) -> u64 {
        self.vote_capacity().saturating_sub(accepted_count.saturating_add(reserved_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_that_binary_cannot_hold_still_buys_the_whole_budget() {
        assert_eq!(Budget { total: 0.3, cost_per_label: 0.1 }.vote_capacity(), 3);
        assert_eq!(Budget { total: 100.0, cost_per_label: 0.07 }.vote_capacity(), 1428);
    }

    #[test]
    fn reserved_votes_are_not_free_and_an_overdrawn_budget_frees_none() {
        let budget = Budget { total: 10.0, cost_per_label: 1.0 };
        assert_eq!(budget.free_votes(4, 5), 1);
        assert_eq!(budget.free_votes(9, 5), 0);
    }
}
