//! From votes to one class, and how far labelers agree.
//!
//! Pure. The plurality settles a task as it closes; `dawid_skene` weighs the votes of labelers who repeat enough; `coefficients` says how
//! much of the agreement is more than chance.

pub mod coefficients;
pub mod dawid_skene;

use super::project::ClassIndex;

/// What the votes of a task say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One class has more votes than any other.
    Class(ClassIndex),
    /// Two or more classes lead with equal votes.
    Tie,
    /// Nobody voted.
    NoVotes,
}

/// The plurality of `votes`; their order doesn't matter.
#[must_use]
pub fn majority(votes: &[ClassIndex]) -> Verdict {
    let mut sorted = votes.to_vec();
    sorted.sort_unstable();
    let mut best: Option<(ClassIndex, usize)> = None;
    let mut tied = false;
    for run in sorted.chunk_by(|a, b| a == b) {
        match best {
            Some((_, count)) if run.len() < count => {}
            Some((_, count)) if run.len() == count => tied = true,
            _ => {
                best = Some((run[0], run.len()));
                tied = false;
            }
        }
    }
    match best {
        None => Verdict::NoVotes,
        Some(_) if tied => Verdict::Tie,
        Some((class, _)) => Verdict::Class(class),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(classes: &[u16]) -> Vec<ClassIndex> {
        classes.iter().copied().map(ClassIndex).collect()
    }

    #[test]
    fn the_most_frequent_class_wins_and_equal_leaders_tie() {
        assert_eq!(majority(&votes(&[2, 1, 2])), Verdict::Class(ClassIndex(2)));
        assert_eq!(majority(&votes(&[1, 2])), Verdict::Tie);
        assert_eq!(majority(&votes(&[0, 0, 1, 1, 2, 2, 2])), Verdict::Class(ClassIndex(2)));
        assert_eq!(majority(&[]), Verdict::NoVotes);
    }
}
