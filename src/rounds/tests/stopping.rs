//! Why projects end: the budget, the pool, the operator, a target that is reached with confidence, a plateau.

use super::*;
use crate::domain::stopping::StoppingRules;

impl Driver {
    /// Labels round after round, whose models have these accuracies, until the project ends.
    async fn run_to_the_end(&self, accuracies: &[f64]) -> usize {
        self.accuracies.lock().unwrap().extend(accuracies);
        self.open_first().await;
        for round_count in 1..20 {
            self.house.answer_all(self.ana, "cat").await;
            self.learn().await;
            self.house.check_invariants().await;
            if self.state().await == ProjectState::Finished {
                return round_count;
            }
        }
        panic!("the project never ends");
    }

    async fn reason(&self) -> String {
        let told = self
            .text("select payload ->> 'reason' from event where payload ->> 'to' = 'finished' order by id desc limit 1")
            .await;
        assert_eq!(self.text("select finish_reason from project").await, told);
        told
    }
}

fn stopping(stopping: StoppingRules) -> ProjectSettings {
    ProjectSettings { stopping, ..settings(10, 200.0) }
}

#[tokio::test]
async fn a_target_reached_with_confidence_ends_the_project_by_name() {
    let rules = StoppingRules { target_accuracy: Some(0.85), ..Default::default() };
    let driver = Driver::new(100, stopping(rules)).await;
    // .851 is above the target, but not with confidence over 10,000 items.
    assert_eq!(driver.run_to_the_end(&[0.8, 0.851, 0.9, 0.95]).await, 3);
    assert_eq!(driver.reason().await, "target");
    // What was asked ahead is withdrawn.
    assert_eq!(driver.house.number("select count(*) from slot where state in ('open', 'leased')").await, 0);
}

#[tokio::test]
async fn rounds_without_gain_end_the_project_by_name() {
    let rules = StoppingRules { plateau_rounds: Some(2), plateau_gain: 0.01, ..Default::default() };
    let driver = Driver::new(100, stopping(rules)).await;
    assert_eq!(driver.run_to_the_end(&[0.7, 0.8, 0.83, 0.835, 0.836, 0.99]).await, 5);
    assert_eq!(driver.reason().await, "plateau");
}

#[tokio::test]
async fn budget_pool_and_operator_are_named_too() {
    let poor = Driver::new(100, settings(10, 20.0)).await;
    assert_eq!(poor.run_to_the_end(&[]).await, 2);
    assert_eq!(poor.reason().await, "budget");
    let small = Driver::new(20, settings(10, 200.0)).await;
    small.run_to_the_end(&[]).await;
    assert_eq!(small.reason().await, "pool");
    let ended = Driver::new(100, settings(10, 200.0)).await;
    ended.open_first().await;
    ended.control("finish").await.unwrap();
    ended.learn().await;
    assert_eq!(ended.reason().await, "operator");
    // Reopened, it may end for another reason.
    poor.house.execute("update project set settings = jsonb_set(settings, '{budget}', '30')").await;
    poor.start().await.unwrap();
    assert_eq!(poor.text("select finish_reason from project").await, "");
}

#[tokio::test]
async fn without_a_test_split_random_items_speak_and_few_of_them_stop_nothing() {
    let rules = StoppingRules { target_accuracy: Some(0.5), ..Default::default() };
    let half_random = ProjectSettings { random_fraction: 0.5, batch_size: 40, ..stopping(rules) };
    let driver = Driver::new(400, half_random).await;
    // Every guess is "dog", and so is every label: 20 random items a round, from round 2 on.
    driver.open_first().await;
    let mut round_count = 0;
    while driver.state().await != ProjectState::Finished {
        round_count += 1;
        driver.house.answer_all(driver.ana, "dog").await;
        driver.learn().await;
    }
    // 20, 40, 60 random items after rounds 2, 3 and 4: only the last are fifty.
    assert_eq!((round_count, driver.reason().await.as_str()), (4, "target"));
    let row = driver.house.row().await;
    let mut connection = driver.store().acquire().await.unwrap();
    let slices = curve::read_slices(&mut connection, &row).await.unwrap();
    assert_eq!(slices.len(), 3);
    assert!(slices.iter().all(|slice| slice.slice.random.correct_count == 20), "{slices:?}");
    // Before round 3 chose, 40 of round 2 had been asked with a guess; the seed batch without one.
    assert_eq!(slices[1].slice.asked_before.item_count, 40);
    assert_eq!(slices[1].slice.pool_count, 400);
    assert!(slices[1].slice.unlabeled_count <= 320 && slices[1].slice.unlabeled_count > 250, "{slices:?}");
}
