//! A simulation on two hundred small images: pairs, resuming, refusals, the report; and the real images as an oracle.

use std::collections::BTreeSet;

use super::*;
use crate::domain::settings::{BackboneKind, FineTuneMode, FineTuneSettings, PretextKind};
use crate::learner::fixture;

/// Two hundred small images of four classes, and a plan of three rounds on them.
fn ground(folder: &std::path::Path) -> (Oracle, Plan) {
    let (pool, classes) = fixture::pool(200, "simulate");
    let (test, test_classes) = fixture::pool(80, "simulate test");
    let class_names = (0..fixture::CLASS_COUNT).map(|class| format!("class {class}")).collect();
    let oracle = Oracle { pool, classes, test, test_classes, class_names };
    let arms = ["margin", "deep_active", "random", "coverage_shift", "badge"];
    let plan = Plan {
        dataset: "squares".to_owned(),
        pretexts: vec![PretextKind::Rotation],
        pretext_epochs: 1,
        arms: arms.iter().map(|arm| arm.parse().unwrap()).collect(),
        seed_count: 2,
        budgets: vec![8, 16, 30],
        first_batch: FirstBatch::Random,
        backbone: BackboneKind::Small,
        fine_tune: FineTuneSettings { mode: FineTuneMode::Head, epochs: 1, min_steps: 200 },
        folder: folder.to_owned(),
    };
    (oracle, plan)
}

/// Counts the rounds that were computed, and stops the simulation before a step of the round after `limit`.
struct Counter {
    rounds: Vec<String>,
    limit: usize,
}

impl Observer for Counter {
    fn step(&mut self, _work: &str, _done: u64, _total: u64) -> ControlFlow<Stopped> {
        if self.rounds.len() < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(Stopped) }
    }

    fn round(&mut self, run: &str, round: &RoundRecord) {
        self.rounds.push(format!("{run}: {}", round.labels));
    }
}

fn simulate(plan: &Plan, oracle: &Oracle, limit: usize) -> (Result<Vec<RunRecord>>, Vec<String>) {
    let mut counter = Counter { rounds: Vec::new(), limit };
    let records = run(&Device::Cpu, plan, oracle, &mut counter);
    (records, counter.rounds)
}

fn without_time(mut records: Vec<RunRecord>) -> Vec<RunRecord> {
    for round in records.iter_mut().flat_map(|record| &mut record.rounds) {
        round.seconds = 0.0;
    }
    records
}

#[test]
fn strategies_are_paired_and_ask_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (oracle, plan) = ground(folder.path());
    let (records, rounds) = simulate(&plan, &oracle, usize::MAX);
    let records = records.unwrap();
    assert_eq!((records.len(), rounds.len()), (10, 30));
    for record in &records {
        let asked: Vec<_> = record.rounds.iter().flat_map(|round| &round.query).collect();
        assert_eq!(asked.len(), 30, "{}", record.name());
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 30, "{}", record.name());
        let first = records.iter().find(|other| other.seed == record.seed).unwrap();
        assert_eq!(record.rounds[0].query, first.rounds[0].query);
        assert_eq!(record.rounds[0].test_accuracy, first.rounds[0].test_accuracy);
        let counts = &record.rounds[2].class_counts;
        assert_eq!(counts.iter().sum::<u32>(), 14);
    }
    assert_ne!(records[0].rounds[1].query, records[2].rounds[1].query, "margin and random");
    assert_ne!(records[0].rounds[0].query, records[5].rounds[0].query, "two seeds");
}

#[test]
fn a_stopped_simulation_goes_on_to_the_same_result() {
    let whole = tempfile::tempdir().unwrap();
    let (oracle, plan) = ground(whole.path());
    let expected = without_time(simulate(&plan, &oracle, usize::MAX).0.unwrap());
    let pieces = tempfile::tempdir().unwrap();
    let plan = Plan { folder: pieces.path().to_owned(), ..plan };
    let (stopped, first) = simulate(&plan, &oracle, 5);
    assert!(matches!(stopped, Err(SimulateError::Stopped)));
    let (again, second) = simulate(&plan, &oracle, usize::MAX);
    assert_eq!(without_time(again.unwrap()), expected);
    assert_eq!(first.len() + second.len(), 30);
    let (third, computed) = simulate(&plan, &oracle, usize::MAX);
    assert_eq!((without_time(third.unwrap()), computed.len()), (expected, 0));
}

#[test]
fn both_pretext_tasks_stand_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (oracle, mut plan) = ground(folder.path());
    plan.pretexts = vec![PretextKind::Rotation, PretextKind::Moco];
    plan.arms = ["deep_active", "pretext"].map(|arm| arm.parse().unwrap()).to_vec();
    plan.seed_count = 1;
    let records = simulate(&plan, &oracle, usize::MAX).0.unwrap();
    let tasks: Vec<_> = records.iter().map(|record| record.pretext.name()).collect();
    assert_eq!(tasks, ["rotation", "rotation", "moco", "moco"]);
    assert!(records.iter().all(|record| record.knn_accuracy.is_some_and(|accuracy| accuracy > 0.25)));
    // The two losses order the pool differently.
    assert_ne!(records[1].rounds[1].query, records[3].rounds[1].query);
    write_report(&plan, &oracle, &records, "gleaner simulate").unwrap();
    let summary = std::fs::read_to_string(folder.path().join("summary.md")).unwrap();
    assert!(summary.contains("## MoCo on squares") && summary.contains("nearest neighbours"), "{summary}");
}

#[test]
fn more_budgets_go_on_and_another_plan_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (oracle, mut plan) = ground(folder.path());
    plan.arms.truncate(1);
    plan.seed_count = 1;
    simulate(&plan, &oracle, usize::MAX).0.unwrap();
    plan.budgets = vec![8, 16, 24, 40];
    assert_eq!(simulate(&plan, &oracle, usize::MAX).1.len(), 2, "24 and 40");
    plan.fine_tune.epochs = 2;
    assert_eq!(simulate(&plan, &oracle, usize::MAX).1.len(), 4);
}

#[test]
fn a_plan_that_can_not_be_carried_out_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let (oracle, plan) = ground(folder.path());
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        simulate(&plan, &oracle, usize::MAX).0.unwrap_err().to_string()
    };
    assert!(refused(&|plan| plan.budgets = vec![8, 300]).contains("200 images"));
    assert!(refused(&|plan| plan.budgets = vec![16, 8]).contains("rise"));
    assert!(refused(&|plan| plan.arms.clear()).contains("strategy"));
    assert!(refused(&|plan| plan.arms[1] = plan.arms[0].clone()).contains("twice"));
    assert!(refused(&|plan| plan.pretext_epochs = 0).contains("pretext.epochs"));
}

#[test]
fn the_report_names_every_strategy_and_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let (oracle, plan) = ground(folder.path());
    let records = simulate(&plan, &oracle, usize::MAX).0.unwrap();
    write_report(&plan, &oracle, &records, "gleaner simulate --out there").unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("results.csv").lines().count(), 31);
    let (summary, curve, penalty) = (read("summary.md"), read("curve.svg"), read("penalty.svg"));
    assert!(summary.contains("gleaner simulate --out there") && summary.contains("Rotation on squares"));
    for arm in &plan.arms {
        for text in [&summary, &curve, &penalty] {
            assert!(text.contains(&arm.name), "{} in {text}", arm.name);
        }
    }
}

#[test]
fn the_real_images_are_read_sorted_and_limited() {
    let scratch = tempfile::tempdir().unwrap();
    let read = |limit| {
        let shape = crate::domain::settings::ImageShape { size: 28, channels: 1 };
        let names = (0..10).map(|class| class.to_string()).collect();
        let source = std::path::Path::new("/usr/share/datasets/fashion-mnist");
        let stop = crate::import::StopFlag::default();
        Oracle::read(source, names, shape, limit, scratch.path(), &stop).unwrap()
    };
    let oracle = read(Some(500));
    assert_eq!((oracle.pool.len(), oracle.classes.len(), oracle.test.len()), (500, 500, 10_000));
    assert!((1..500).all(|item| oracle.pool.hash(item - 1) < oracle.pool.hash(item)));
    let counts = oracle.count_classes(&(0..500).collect::<Vec<_>>());
    assert!(counts.iter().all(|&count| (20..=90).contains(&count)), "{counts:?}");
}
