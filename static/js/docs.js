// Shows /openapi.json: operations by tag, with their parameters, bodies and answers. Text is only ever set as text, never as HTML.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

/** Follows a local `$ref`. */
function resolve(spec, value) {
  if (!value?.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((node, key) => node?.[key], spec);
}

/** An example value of a schema, at most a few levels deep. */
function sample(spec, schema, depth = 0) {
  const at = resolve(spec, schema);
  if (!at || depth > 5) return null;
  if (at.example !== undefined) return at.example;
  if (at.examples?.length) return at.examples[0];
  if (at.default !== undefined) return at.default;
  if (at.enum) return at.enum[0];
  const choice = (at.oneOf ?? at.anyOf)?.find((option) => option.type !== "null");
  if (choice) return sample(spec, choice, depth + 1);
  if (at.allOf) return Object.assign({}, ...at.allOf.map((part) => sample(spec, part, depth + 1)));
  const type = Array.isArray(at.type) ? at.type.find((name) => name !== "null") : at.type;
  if (type === "object" || at.properties) {
    return Object.fromEntries(Object.entries(at.properties ?? {}).map(([key, value]) => [key, sample(spec, value, depth + 1)]));
  }
  if (type === "array") return [sample(spec, at.items, depth + 1)];
  return { string: at.format ?? "text", integer: 0, number: 0, boolean: true }[type] ?? null;
}

function showContent(spec, parent, content) {
  for (const [mediaType, { schema, example }] of Object.entries(content ?? {})) {
    parent.append(element("p", mediaType));
    if (mediaType.includes("json")) {
      parent.append(element("pre", JSON.stringify(example ?? sample(spec, schema), null, 2)));
    }
  }
}

function showParameters(parent, parameters) {
  if (!parameters?.length) return;
  const table = element("table");
  for (const { name, in: place, required, description } of parameters) {
    const row = element("tr");
    row.append(element("td", name), element("td", place), element("td", required ? "required" : "optional"), element("td", description ?? ""));
    table.append(row);
  }
  parent.append(table);
}

function showOperation(spec, path, method, operation) {
  const box = element("details");
  box.id = operation.operationId;
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), "method"), element("code", path), document.createTextNode(` ${operation.summary ?? ""}`));
  box.append(summary);
  if (operation.description) box.append(element("p", operation.description));
  showParameters(box, operation.parameters);
  if (operation.requestBody) {
    box.append(element("h4", "Body"));
    showContent(spec, box, operation.requestBody.content);
  }
  for (const [status, answer] of Object.entries(operation.responses ?? {})) {
    const response = resolve(spec, answer);
    box.append(element("h4", `${status}: ${response?.description ?? ""}`));
    // Every error has the same form, so it is shown once.
    if (status === "default" || status < "400") showContent(spec, box, response?.content);
  }
  return box;
}

async function show() {
  const main = document.getElementById("operations");
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`/openapi.json answered ${answer.status}`);
  const spec = await answer.json();
  document.getElementById("description").textContent = spec.info.description ?? "";
  const groups = new Map((spec.tags ?? []).map(({ name }) => [name, []]));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = item[method].tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(showOperation(spec, path, method, item[method]));
    }
  }
  const filled = [...groups].filter(([, boxes]) => boxes.length > 0);
  main.replaceChildren(...filled.flatMap(([tag, boxes]) => [element("h2", tag), ...boxes]));
}

show().catch((error) => {
  document.getElementById("operations").replaceChildren(element("p", `The document can't be shown: ${error.message}`));
});
