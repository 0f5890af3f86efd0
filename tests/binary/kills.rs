//! Kills the real server with SIGKILL in every state of a project and starts it again: nothing accepted is lost, nothing is asked
//! twice, and the project ends with the same queries and the same accuracies as one that was never disturbed.

use std::collections::{BTreeMap, HashSet};

use crate::journey::{Journey, KILLED_STATES};

/// How often the server is killed in each state.
const KILLS_PER_STATE: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_is_killed_in_every_state_ends_like_one_that_is_not() {
    let plan = KILLED_STATES.iter().map(|state| (*state, KILLS_PER_STATE)).collect();
    let nothing = BTreeMap::new();
    // Side by side: a killed job waits most of its time for the lease of its dead worker to run out.
    let (undisturbed, killed) = tokio::join!(Journey::travel(&nothing), Journey::travel(&plan));

    for state in KILLED_STATES {
        let count = killed.kills.get(state).copied().unwrap_or_default();
        assert!(count >= KILLS_PER_STATE, "killed only {count} times while {state}");
    }
    assert_eq!(killed.state, "finished");
    let stored: HashSet<_> = killed.exported.iter().map(|row| row.label.clone()).collect();
    let lost: Vec<_> = killed.accepted.iter().filter(|label| !stored.contains(*label)).collect();
    assert!(lost.is_empty(), "accepted labels lost: {lost:?}");
    let asked: Vec<_> = killed.exported.iter().map(|row| row.name.clone()).collect();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), asked.len(), "an item was labelled twice");
    assert_eq!(killed.exported.len(), undisturbed.exported.len());
    assert_eq!(killed.queries, undisturbed.queries, "the queries differ");
    assert_eq!(killed.accuracies, undisturbed.accuracies, "the accuracies differ");
}
