// Shows a project's guidelines, written in a small part of Markdown: headings, paragraphs, lists, quotes, bold, italics, code, links.
// Owns the reading of it. Everything becomes elements and text, never markup, so guidelines can't bring a script; links lead only to http(s).

import { element } from "./dom.js";

/** Elements for `source`. */
export function renderMarkdown(source) {
  const blocks = source.replace(/\r\n?/g, "\n").split(/\n{2,}/);
  return blocks.filter((block) => block.trim()).map(renderBlock);
}

function renderBlock(block) {
  const lines = block.split("\n").filter((line) => line.trim());
  if (lines.every((line) => /^\s*[-*]\s+/.test(line))) return list("ul", lines, /^\s*[-*]\s+/);
  if (lines.every((line) => /^\s*\d+[.)]\s+/.test(line))) return list("ol", lines, /^\s*\d+[.)]\s+/);
  if (lines.every((line) => /^\s*>/.test(line)))
    return element(
      "blockquote",
      {},
      lines.flatMap((line) => [...inline(line.replace(/^\s*>\s?/, "")), " "]),
    );
  const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
  if (heading) {
    const title = element(heading[1].length === 1 ? "h3" : "h4", {}, inline(heading[2]));
    const rest = lines.slice(1).join("\n");
    return rest ? element("div", {}, title, renderBlock(rest)) : title;
  }
  return renderParagraph(lines);
}

/** A paragraph, or a paragraph that a list follows without an empty line. */
function renderParagraph(lines) {
  const first = lines.findIndex((line, index) => index > 0 && /^\s*([-*]|\d+[.)])\s+/.test(line));
  if (first < 0) return element("p", {}, inline(lines.join(" ")));
  return element("div", {}, renderBlock(lines.slice(0, first).join("\n")), renderBlock(lines.slice(first).join("\n")));
}

function list(tag, lines, mark) {
  return element(
    tag,
    {},
    lines.map((line) => element("li", {}, inline(line.replace(mark, "")))),
  );
}

function inline(content) {
  const parts = content.split(/(\*\*[^*]+\*\*|\*[^*]+\*|_[^_]+_|`[^`]+`|\[[^\]]+\]\([^)\s]+\))/);
  return parts.filter(Boolean).map(renderSpan);
}

function renderSpan(span) {
  if (/^\*\*.+\*\*$/.test(span)) return element("strong", {}, span.slice(2, -2));
  if (/^(\*.+\*|_.+_)$/.test(span)) return element("em", {}, span.slice(1, -1));
  if (/^`.+`$/.test(span)) return element("code", {}, span.slice(1, -1));
  const link = /^\[([^\]]+)\]\((https?:\/\/[^)\s]+)\)$/.exec(span);
  if (link) return element("a", { href: link[2], target: "_blank", rel: "noopener noreferrer" }, link[1]);
  return span;
}
