// What can be read off the pages' files without a browser: words, weight, and what the Content-Security-Policy would block.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const STATIC = new URL("../../static/", import.meta.url).pathname;
const files = readdirSync(STATIC, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
// As a data: address it is a module whatever Node makes of a .js file outside a package.
const { text } = await import(`data:text/javascript,${encodeURIComponent(readFileSync(join(STATIC, "js/text.js"), "utf8"))}`);

test("every word that a page asks for stands in the one file of words", () => {
  for (const file of files.filter((name) => name.endsWith(".js"))) {
    const source = readFileSync(file, "utf8");
    if (!source.includes('text.js"')) continue;
    for (const [, path] of source.matchAll(/(?<![./"])\btext\.([a-zA-Z0-9]+(?:\.[a-zA-Z0-9]+)*)/g)) {
      // A name that a variable picks (`text.states[…]`) is only known down to its group.
      const known = path.split(".").reduce((group, name) => (group === undefined ? undefined : group[name]), text);
      assert.notEqual(known, undefined, `${file} asks for text.${path}`);
    }
  }
});

test("every module that a page imports is a file, and begins with what it owns", () => {
  for (const file of files.filter((name) => name.endsWith(".js"))) {
    const source = readFileSync(file, "utf8");
    assert.match(source, /^\/\/ /, `${file} has no header`);
    for (const [, target] of source.matchAll(/from "(\.[^"]+)"/g))
      assert.ok(files.includes(join(file, "..", target)), `${file} imports ${target}`);
  }
});

test("no page holds a script or style that the policy would block", () => {
  for (const file of files.filter((name) => name.endsWith(".html"))) {
    const source = readFileSync(file, "utf8");
    assert.doesNotMatch(source, /<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:|https?:\/\//, file);
  }
});

test("no script makes markup from text", () => {
  for (const file of files.filter((name) => name.endsWith(".js"))) {
    assert.doesNotMatch(readFileSync(file, "utf8"), /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/, file);
  }
});

test("all pages together weigh under 150 KB compressed", () => {
  const total = files.reduce((sum, file) => sum + gzipSync(readFileSync(file)).length, 0);
  assert.ok(total < 150_000, `${total} bytes`);
});
