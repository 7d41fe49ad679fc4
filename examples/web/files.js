// Files of the package: each is downloaded once, with progress; the browser itself says what all of it weighed.
import { TASKS } from "./package/predict.mjs";

const PACKAGE = new URL("./package/", import.meta.url);
const held = new Map();

// A `read` for `load` of the package: name -> promise of bytes; `told(name, got, size)` on the way.
export function reader(told) {
  return (name) => {
    if (!held.has(name)) held.set(name, download(name, told));
    held.get(name).catch(() => held.delete(name)); // so that a second try is one
    return held.get(name);
  };
}

async function download(name, told) {
  const answer = await fetch(new URL(name, PACKAGE));
  if (!answer.ok) throw new Error(`cannot load ${name}: ${answer.status}`);
  const size = Number(answer.headers.get("content-length"));
  const [stream, parts] = [answer.body.getReader(), []];
  let got = 0;
  for (let part = await stream.read(); !part.done; part = await stream.read()) {
    parts.push(part.value);
    told(name, (got += part.value.length), Math.max(size, got));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const ROLES = { graph: "the task: mask, head", card: "the task: labels", weights: "backbone", inputs: "the task: mask, head", all: "graph of all tasks", processor: "how images are read" };

function roleOf(name) {
  const path = decodeURI(name);
  if (!path.startsWith(PACKAGE.href)) return path.includes("/vendor/") ? "runtime" : "this page";
  const file = path.slice(PACKAGE.href.length);
  for (const files of Object.values(TASKS))
    for (const [role, own] of Object.entries(files)) if (own === file) return ROLES[files.inputs && role === "graph" ? "all" : role] ?? "tokenizer";
  return "this page";
}

// What was downloaded since a moment (performance.now()): largest first, the page's own files as one.
export function downloads(since = 0, until = Infinity) {
  const rows = new Map();
  const entries = performance.getEntriesByType("resource");
  for (const { name, encodedBodySize: size, startTime } of entries) {
    if (startTime < since || startTime >= until || size === 0) continue;
    const role = roleOf(name);
    const file = role === "this page" ? "HTML, CSS, JavaScript" : decodeURI(name).split("/").pop();
    const row = rows.get(file) ?? { file, role, size: 0 };
    rows.set(file, { ...row, size: row.size + size });
  }
  return [...rows.values()].sort((a, b) => b.size - a.size);
}

export const sum = (rows) => rows.reduce((total, row) => total + row.size, 0);

export function shown(size) {
  if (size < 1e3) return `${size} B`;
  return size < 1e5 ? `${(size / 1e3).toFixed(1)} KB` : `${(size / 1e6).toFixed(size < 1e7 ? 2 : 1)} MB`;
}
