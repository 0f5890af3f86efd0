// The service's answers in the shape that pages use. Owns the one place where field names of the API meet the pages, and what stands in
// for a field that is missing.

/** States of a project in the order of its life; the last three before `finished` repeat each round. */
export const PROJECT_STATES = ["empty", "importing", "ready", "pretraining", "labeling", "training", "scoring", "finished"];

/** A project as `GET /projects/{project}` tells it. */
export function readProject(answer) {
  return {
    id: answer.id,
    name: answer.name,
    state: answer.state === "failed" ? failedState(answer) : answer.state,
    isPaused: answer.paused,
    // Why a job failed; `null` while none has.
    failure: answer.state === "failed" ? (answer.error ?? "") : null,
    round: readRound(answer.round),
    progress: answer.progress,
    poolCount: answer.pool_count,
    testCount: answer.test_count,
    labeledCount: answer.labeled_count,
    spent: answer.spent,
    budget: answer.budget,
    batchSize: answer.batch_size,
    testAccuracy: answer.test_accuracy,
    modelVersion: answer.model_version,
    classes: answer.classes,
    guidelines: answer.guidelines ?? "",
    showSuggestions: answer.show_suggestions,
    lookAhead: answer.look_ahead,
    votesPerTask: answer.votes_per_task,
    randomFraction: answer.random_fraction,
    goldFraction: answer.gold_fraction,
    relabelFraction: answer.relabel_fraction,
    stopping: answer.stopping,
    // Ends after the running batch; and why it ended or is about to, `null` otherwise.
    isFinishing: answer.finish_requested && answer.state !== "finished",
    finishReason: answer.finish_reason,
  };
}

/** A round as the list, a submit or a project tells it; the latter two leave out what they don't know. */
export function readRound(answer) {
  if (!answer) return null;
  return {
    number: answer.number,
    state: answer.state,
    strategy: strategyName(answer.strategy),
    taskCount: answer.task_count,
    answeredCount: answer.answered_count,
    openedAt: answer.opened_at ?? null,
    closedAt: answer.closed_at ?? null,
    testAccuracy: answer.test_accuracy ?? null,
    classCounts: readCounts(answer.class_counts),
    predictedClassCounts: readCounts(answer.predicted_class_counts),
  };
}

function readCounts(counts) {
  return Object.entries(counts ?? {}).map(([name, count]) => ({ name, count }));
}

/** A strategy's name, whether it comes as a name or with its parameters. */
export function strategyName(strategy) {
  return typeof strategy === "string" ? strategy : (strategy?.kind ?? null);
}

/** `failed` hides the state in which the job stood; the round tells it, and before the first round the start. */
function failedState(answer) {
  if (answer.round && answer.round.state !== "closed") return answer.round.state;
  return answer.started_at ? "pretraining" : "importing";
}
