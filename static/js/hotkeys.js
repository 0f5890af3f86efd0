// Which key names which class. Owns the reserved keys and the order in which keys are dealt out.

/** Keys that do something else on the labeler's page. */
const RESERVED = new Set(["u", "s", "g", "m", "z", "+", "-", "?", "[", "]", "/"]);
const ORDER = [..."1234567890qwertyiopadfhjklxcvbn"];

/** Colours dealt out to classes that have none; swatches only, never behind text. */
const COLOURS = [
  "#3b82c4",
  "#e08a2e",
  "#4a9d5b",
  "#c94f4f",
  "#8a63b8",
  "#1a9ba1",
  "#d4679c",
  "#8c6d46",
  "#b5a72a",
  "#6b7a99",
  "#2f6f9f",
  "#a3542a",
];

/**
 * Gives each class its key and colour: what the project sets first, then the digits, then letters.
 * Classes beyond the keys get `hotkey: null` and are found by the filter.
 */
export function dealKeys(classes) {
  const taken = new Set(RESERVED);
  const rows = classes.map((entry, index) => {
    const given = typeof entry === "string" ? { name: entry } : entry;
    const key = given.hotkey?.toLowerCase() ?? null;
    const free = key && key.length === 1 && !taken.has(key);
    if (free) taken.add(key);
    return { name: given.name, colour: readColour(given.colour) ?? COLOURS[index % COLOURS.length], hotkey: free ? key : null };
  });
  const free = ORDER.filter((key) => !taken.has(key));
  for (const row of rows) row.hotkey ??= free.shift() ?? null;
  return rows;
}

function readColour(colour) {
  return typeof colour === "string" && CSS.supports("color", colour) ? colour : null;
}
