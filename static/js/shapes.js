// The service's answers in the shape that pages use. Owns the one place where field names of the API meet the pages, and what stands in
// for a field that is missing.

/** States of a project in the order of its life; the last three before `finished` repeat each round. */
export const PROJECT_STATES = ["empty", "importing", "ready", "pretraining", "labeling", "training", "scoring", "finished"];

/** A project as `GET /projects/{project}` tells it. */
export function readProject(answer) {
  const settings = answer.settings ?? {};
  const setting = (name, fallback = null) => answer[name] ?? settings[name] ?? fallback;
  return {
    id: answer.id,
    name: answer.name,
    state: answer.state,
    isPaused: Boolean(answer.paused),
    failure: readFailure(answer),
    round: readRound(answer.round),
    progress: answer.progress ?? null,
    poolCount: answer.pool_count ?? 0,
    testCount: answer.test_count ?? null,
    labeledCount: answer.labeled_count ?? 0,
    spent: answer.spent ?? 0,
    budget: setting("budget", 0),
    costPerLabel: setting("cost_per_label", 1),
    batchSize: setting("batch_size", 0),
    testAccuracy: answer.test_accuracy ?? null,
    modelVersion: answer.model_version ?? null,
    classes: answer.classes ?? [],
    guidelines: setting("guidelines", ""),
    showSuggestions: setting("show_suggestions", true),
    lookAhead: setting("look_ahead", true),
    strategy: setting("strategy"),
    image: setting("image"),
    backbone: setting("backbone"),
  };
}

/** A round as the lists, a submit or a project tell it; a bare number gives a round without counts. */
export function readRound(answer) {
  if (answer === null || answer === undefined) return null;
  if (typeof answer === "number") return { number: answer, state: null, taskCount: 0, answeredCount: 0 };
  return {
    number: answer.number,
    state: answer.state ?? null,
    strategy: strategyName(answer.strategy),
    modelVersion: answer.model_version ?? null,
    taskCount: answer.task_count ?? 0,
    answeredCount: answer.answered_count ?? 0,
    openedAt: answer.opened_at ?? null,
    closedAt: answer.closed_at ?? null,
    testAccuracy: answer.test_accuracy ?? null,
    classCounts: readCounts(answer.class_counts),
  };
}

/** The points of the learning curve: `{labels, cost, accuracy, low, high}`, in the order of labels. */
export function readCurve(answer) {
  const rows = Array.isArray(answer) ? answer : (answer?.points ?? answer?.items ?? answer?.curve ?? []);
  return {
    points: readPoints(rows),
    random: readPoints(answer?.random?.points ?? answer?.random ?? answer?.random_points ?? []),
  };
}

/** A strategy's name, whether it comes as a name or with its parameters. */
export function strategyName(strategy) {
  return typeof strategy === "string" ? strategy : (strategy?.kind ?? null);
}

/** A class's name, whether it comes alone or with colour and hotkey. */
export function className(entry) {
  return typeof entry === "string" ? entry : entry.name;
}

function readPoints(rows) {
  const points = rows.map((row) => ({
    labels: row.label_count ?? row.labels ?? row.labeled_count,
    cost: row.cost ?? row.spent ?? null,
    round: row.round ?? null,
    version: row.model_version ?? row.version ?? null,
    accuracy: row.test_accuracy ?? row.accuracy,
    low: row.accuracy_low ?? row.low ?? row.interval?.low ?? row.interval?.[0] ?? null,
    high: row.accuracy_high ?? row.high ?? row.interval?.high ?? row.interval?.[1] ?? null,
  }));
  return points.filter((point) => Number.isFinite(point.labels) && Number.isFinite(point.accuracy)).sort((a, b) => a.labels - b.labels);
}

function readCounts(counts) {
  if (!counts) return [];
  if (Array.isArray(counts)) return counts.map((row) => ({ name: row.class ?? row.name, count: row.count }));
  return Object.entries(counts).map(([name, count]) => ({ name, count }));
}

function readFailure(answer) {
  const failure = answer.failure ?? answer.failed ?? answer.error;
  if (!failure) return answer.state === "failed" ? "" : null;
  if (typeof failure === "string") return failure;
  return failure.error ?? failure.reason ?? failure.detail ?? "";
}
