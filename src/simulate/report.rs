//! What a simulation leaves for people: `results.csv`, `summary.md`, `curve.svg` and `penalty.svg`.
//!
//! With several pretext tasks the figures of each stand below one another in one file. Ties, losses and unfinished runs stay in the tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::domain::settings::PretextKind;
use crate::domain::statistics::Estimate;
use crate::figures::{
    CurveAxis, CurveFigure, CurvePoint, CurveSeries, PenaltyFigure, curve_svg, penalty_svg, stack_svg,
};

use super::analysis::Comparison;
use super::record::write_file;
use super::{Oracle, Plan, Result, RunRecord, SimulateError};

/// Writes the report of `records`, the runs of `plan`; `command` is what a reader types to repeat it.
///
/// # Errors
/// A folder that can't be written.
pub fn write_report(plan: &Plan, oracle: &Oracle, records: &[RunRecord], command: &str) -> Result<()> {
    write_file(&plan.folder.join("results.csv"), &results_csv(records)?)?;
    let names: Vec<String> = plan.arms.iter().map(|arm| arm.name.clone()).collect();
    let (mut summary, mut curves, mut penalties) =
        (head(plan, oracle, records, command), Vec::new(), Vec::new());
    for task in plan.pretexts.iter().copied() {
        let own: Vec<&RunRecord> = records.iter().filter(|record| record.pretext == task).collect();
        let comparison = Comparison::new(&own, &names, &plan.budgets);
        summary.push_str(&section(plan, task, &comparison, &own));
        curves.push(curve_svg(&curve(plan, task, &comparison)));
        penalties.push(penalty_svg(&PenaltyFigure {
            title: format!("Penalties on {} with {}", plan.dataset, task.name()),
            names: names.clone(),
            penalties: comparison.penalties(),
        }));
    }
    write_file(&plan.folder.join("summary.md"), summary.as_bytes())?;
    write_file(&plan.folder.join("curve.svg"), stack_svg(&curves).as_bytes())?;
    write_file(&plan.folder.join("penalty.svg"), stack_svg(&penalties).as_bytes())
}

fn results_csv(records: &[RunRecord]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = [
        "dataset",
        "pretext",
        "strategy",
        "seed",
        "round",
        "labels",
        "test_accuracy",
        "class_counts",
        "seconds",
    ];
    let mut write = || -> std::result::Result<(), csv::Error> {
        writer.write_record(header)?;
        for record in records {
            for round in &record.rounds {
                let counts: Vec<String> = round.class_counts.iter().map(u32::to_string).collect();
                writer.write_record([
                    &record.dataset,
                    record.pretext.name(),
                    &record.strategy,
                    &record.seed.to_string(),
                    &round.round.to_string(),
                    &round.labels.to_string(),
                    &format!("{:.4}", round.test_accuracy),
                    &counts.join(" "),
                    &format!("{:.1}", round.seconds),
                ])?;
            }
        }
        Ok(())
    };
    let written = write();
    let failed =
        |reason: String| SimulateError::Output { path: "results.csv".into(), action: "written", reason };
    written.map_err(|error| failed(error.to_string()))?;
    writer.into_inner().map_err(|error| failed(error.to_string()))
}

fn head(plan: &Plan, oracle: &Oracle, records: &[RunRecord], command: &str) -> String {
    let seconds: f64 = records.iter().flat_map(|record| &record.rounds).map(|round| round.seconds).sum();
    let machine = records.iter().map(|record| record.machine.as_str()).find(|machine| !machine.is_empty());
    format!(
        "# Strategies on {}\n\n```sh\n{command}\n```\n\n\
         Pool of {} images, {} test images, network `{}`, {} of the pretext task, fine-tuning `{}` of {} and {} mini-batches at least, first batch: {}, seeds 1 to {}. \
         Computed by {}; choosing, training and evaluating took {:.0} minutes in all, pretext tasks not counted. \
         Accuracies are those of the test split, means over the seeds with their 95 % interval (Student's t). Strategies share pretext weights, \
         initial heads and (but for the first batch `own`) first batches of a seed, and are compared in pairs. No checkpoint was chosen by the test split.\n",
        plan.dataset,
        oracle.pool.len(),
        oracle.test.len(),
        plan.backbone.name(),
        counted(plan.pretext_epochs, "epoch"),
        plan.fine_tune.mode.name(),
        counted(plan.fine_tune.epochs, "epoch"),
        plan.fine_tune.min_steps,
        plan.first_batch.name(),
        plan.seed_count,
        machine.unwrap_or("an unknown machine"),
        seconds / 60.0,
    )
}

fn counted(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn section(plan: &Plan, task: PretextKind, comparison: &Comparison, records: &[&RunRecord]) -> String {
    let mut text = format!("\n## {} on {}\n", capitalised(task.name()), plan.dataset);
    neighbour_line(&mut text, records);
    accuracy_table(&mut text, comparison);
    difference_table(&mut text, comparison);
    regret_table(&mut text, comparison);
    penalty_table(&mut text, comparison);
    class_table(&mut text, comparison, records);
    let unfinished = comparison.unfinished();
    if !unfinished.is_empty() {
        let named: Vec<String> = unfinished.iter().map(|(arm, seed)| format!("{arm} seed {seed}")).collect();
        line(&mut text, &format!("\nUnfinished and left out of areas: {}.", named.join(", ")));
    }
    text
}

/// How well the pretext features tell classes apart before any label is asked, one accuracy a seed.
fn neighbour_line(text: &mut String, records: &[&RunRecord]) {
    let by_seed: BTreeMap<u64, f32> =
        records.iter().filter_map(|record| Some((record.seed, record.knn_accuracy?))).collect();
    if by_seed.is_empty() {
        return;
    }
    let shown: Vec<String> = by_seed.values().map(|accuracy| format!("{accuracy:.3}")).collect();
    let what = "After the pretext task the nearest neighbours of pool items that were held out vote for their class, by seed:";
    line(text, &format!("\n{what} {}.", shown.join(", ")));
}

fn accuracy_table(text: &mut String, comparison: &Comparison) {
    line(
        text,
        "\nTest accuracy at each number of labels, and the area under the curve (mean height, 0 to 1).\n",
    );
    let budgets: Vec<String> = comparison.budgets.iter().map(u32::to_string).collect();
    row(text, "strategy", budgets.iter().cloned().chain(["area".to_owned()]));
    rule(text, comparison.budgets.len() + 2);
    for (arm, name) in comparison.arms.iter().enumerate() {
        let cells = (0..budgets.len()).map(|budget| shown(comparison.accuracy(arm, budget)));
        row(text, &code(name), cells.chain([shown(comparison.area(arm))]));
    }
}

fn difference_table(text: &mut String, comparison: &Comparison) {
    line(
        text,
        "\nPaired difference of areas, row less column, in points; bold where its interval leaves 0 out.\n",
    );
    row(text, "", comparison.arms.iter().map(|name| code(name)));
    rule(text, comparison.arms.len() + 1);
    for (arm, name) in comparison.arms.iter().enumerate() {
        let cell = |other: usize| match comparison.area_difference(arm, other) {
            Some(_) if arm == other => "–".to_owned(),
            Some(difference) => points(difference),
            None => "?".to_owned(),
        };
        row(text, &code(name), (0..comparison.arms.len()).map(cell));
    }
}

fn regret_table(text: &mut String, comparison: &Comparison) {
    line(
        text,
        "\nRegret to the best strategy's mean in points, and where another was significantly better (paired t, p < .05).\n",
    );
    let budgets = comparison.budgets.iter().map(u32::to_string);
    row(text, "strategy", budgets.chain(["mean".to_owned(), "significant losses".to_owned()]));
    rule(text, comparison.budgets.len() + 3);
    for (arm, name) in comparison.arms.iter().enumerate() {
        let regrets = comparison.regrets(arm);
        let known: Vec<f64> = regrets.iter().flatten().copied().collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let losses: Vec<String> = comparison
            .significant_losses(arm)
            .into_iter()
            .map(|(budget, other)| format!("{budget} to {other}"))
            .collect();
        let cells = regrets
            .iter()
            .map(|regret| regret.map_or("?".to_owned(), |regret| format!("{:.1}", 100.0 * regret)));
        let ends = [
            format!("{:.2}", 100.0 * mean),
            if losses.is_empty() { "none".to_owned() } else { losses.join(", ") },
        ];
        row(text, &code(name), cells.chain(ends));
    }
}

fn penalty_table(text: &mut String, comparison: &Comparison) {
    line(
        text,
        "\nPenalties: the share of budgets at which the row beats the column significantly; a column's mean is what its strategy pays.\n",
    );
    row(text, "", comparison.arms.iter().map(|name| code(name)));
    rule(text, comparison.arms.len() + 1);
    let penalties = comparison.penalties();
    for (name, own) in comparison.arms.iter().zip(&penalties) {
        row(text, &code(name), own.iter().map(|share| format!("{share:.2}")));
    }
    let mean =
        |column: usize| penalties.iter().map(|own| own[column]).sum::<f64>() / penalties.len().max(1) as f64;
    row(text, "mean", (0..comparison.arms.len()).map(|column| format!("{:.2}", mean(column))));
}

fn class_table(text: &mut String, comparison: &Comparison, records: &[&RunRecord]) {
    line(text, "\nClasses of the queries after the first batch, mean count a run.\n");
    let class_count =
        records.iter().flat_map(|record| &record.rounds).map(|round| round.class_counts.len()).max();
    let class_count = class_count.unwrap_or_default();
    row(text, "strategy", (0..class_count).map(|class| class.to_string()));
    rule(text, class_count + 1);
    for name in &comparison.arms {
        let own: Vec<&&RunRecord> = records.iter().filter(|record| record.strategy == *name).collect();
        let count = |class: usize| {
            let later = own.iter().flat_map(|record| record.rounds.iter().skip(1));
            let asked: u32 = later.filter_map(|round| round.class_counts.get(class)).sum();
            format!("{:.0}", f64::from(asked) / own.len().max(1) as f64)
        };
        row(text, &code(name), (0..class_count).map(count));
    }
}

fn curve(plan: &Plan, task: PretextKind, comparison: &Comparison) -> CurveFigure {
    let series = |(arm, name): (usize, &String)| CurveSeries {
        name: name.clone(),
        points: (0..comparison.budgets.len())
            .filter_map(|budget| {
                let estimate = comparison.accuracy(arm, budget)?;
                let position = f64::from(comparison.budgets[budget]);
                Some(CurvePoint { position, accuracy: estimate.mean, interval: estimate.interval() })
            })
            .collect(),
    };
    CurveFigure {
        title: format!("{} with {}", plan.dataset, task.name()),
        axis: CurveAxis::Labels,
        series: comparison.arms.iter().enumerate().map(series).collect(),
        forecast: Vec::new(),
    }
}

fn shown(estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { mean, half_width: Some(half_width), .. }) => format!("{mean:.4} ± {half_width:.4}"),
        Some(Estimate { mean, .. }) => format!("{mean:.4}"),
        None => "?".to_owned(),
    }
}

fn points(difference: Estimate) -> String {
    let mean = 100.0 * difference.mean;
    match difference.half_width {
        None => format!("{mean:+.2}"),
        Some(half_width) => {
            let text = format!("{mean:+.2} ± {:.2}", 100.0 * half_width);
            if difference.is_significant() { format!("**{text}**") } else { text }
        }
    }
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

fn capitalised(name: &str) -> String {
    match name {
        "moco" => "MoCo".to_owned(),
        other => other[..1].to_uppercase() + &other[1..],
    }
}

fn row(text: &mut String, head: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    line(text, &format!("| {head} | {} |", cells.join(" | ")));
}

fn rule(text: &mut String, width: usize) {
    line(text, &format!("|{}", " --- |".repeat(width)));
}

fn line(text: &mut String, content: &str) {
    writeln!(text, "{content}").expect("text takes any line");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::record::testing::record;

    #[test]
    fn tables_hold_means_differences_regrets_and_what_is_missing() {
        let records = [
            record("random", 1, &[0.5, 0.60]),
            record("random", 2, &[0.5, 0.70]),
            record("margin", 1, &[0.5, 0.65]),
            record("margin", 2, &[0.5]),
        ];
        let own: Vec<&RunRecord> = records.iter().collect();
        let comparison = Comparison::new(&own, &["random", "margin"].map(str::to_owned), &[100, 200]);
        let mut text = String::new();
        accuracy_table(&mut text, &comparison);
        difference_table(&mut text, &comparison);
        regret_table(&mut text, &comparison);
        penalty_table(&mut text, &comparison);
        class_table(&mut text, &comparison, &own);
        insta::assert_snapshot!(text);
        assert_eq!(comparison.unfinished(), [("margin", 2)]);
    }

    #[test]
    fn a_row_stands_for_each_round() {
        let csv = String::from_utf8(results_csv(&[record("margin", 3, &[0.5, 0.654_321])]).unwrap()).unwrap();
        let expected = "dataset,pretext,strategy,seed,round,labels,test_accuracy,class_counts,seconds\n\
                        fashion-mnist,rotation,margin,3,1,100,0.5000,60 40,1.0\n\
                        fashion-mnist,rotation,margin,3,2,200,0.6543,60 40,1.0\n";
        assert_eq!(csv, expected);
    }
}
