// The page: a menu of tasks, a text or an image, answers as bars, and what all of it took. Loading and answering are
// those of the package (package/predict.mjs).
import * as ort from "onnxruntime-web/wasm";
import { unpacked } from "./package/graphs.mjs";
import { TASKS, load } from "./package/predict.mjs";
import { downloads, reader, shown, sum } from "./files.js";

const IMAGES = Object.values(TASKS).some((files) => files.processor); // what the package's tasks read: images, or texts
const marked = IMAGES ? () => [] : (await import("./package/words.mjs")).shown;

const RUNTIME = "../vendor/ort-wasm-simd-threaded.wasm.gz"; // beside the package
const PAUSE = 120; // ms without a key before a text is answered
const at = (id) => document.getElementById(id);
const tasks = new Map(); // name -> what `load` gave
const moments = []; // of loading: what it was for, when it began, when it was over
const times = []; // ms of the last answers
let [task, turn, timer] = [null, 0, null];

const texts = await fetch(new URL("./texts.json", import.meta.url)).then((answer) => answer.json());
const read = reader((name, got, size) => {
  say(`downloading ${name}: ${shown(got)} of ${shown(size)}`);
  at("progress").value = got / size;
});
const paint = () => new Promise((done) => setTimeout(done, 20));

function say(words, failed = false) {
  at("status").textContent = words;
  at("status").classList.toggle("failed", failed);
}

function make(kind, className, words = "") {
  const element = document.createElement(kind);
  element.className = className;
  element.textContent = words;
  return element;
}

async function choose(name) {
  [task, turn] = [null, turn + 1]; // no answer of another task under this name, nor one on its way
  clear();
  let failure = null;
  try {
    if (!tasks.has(name)) await fetchTask(name);
  } catch (error) {
    failure = error;
  }
  if (at("task").value !== name) return; // another task was chosen meanwhile
  at("task").disabled = false; // also after a failure: another one may be there
  if (failure) {
    at("progress").hidden = true;
    return say(`${name}: ${failure.message}`, true);
  }
  task = tasks.get(name);
  at("labels").textContent = saidBy(task.card);
  at("chips").replaceChildren(...(texts[name] ?? []).map(chip));
  at("text").disabled = at("pair").disabled = at("image").disabled = false;
  [at("words").hidden, at("picture").hidden] = [IMAGES, !IMAGES];
  at("second").hidden = task.card.texts !== 2;
  const asks = task.card.kind === "question-answering";
  [at("text-label").textContent, at("pair-label").textContent] = asks ? ["Question", "Context"] : ["Text", "Second text"];
  if (IMAGES) return answer();
  put(texts[name]?.[0] ?? at("text").value);
}

// What a task answers with.
function saidBy({ kind, labels, mask_token }) {
  if (kind === "fill-mask") return `fills ${mask_token}`;
  if (kind === "regression") return "answers with a number";
  if (kind === "question-answering") return "marks the part of a context that answers a question";
  if (!labels.length) return "gives a vector";
  const kinds = labels.filter((label) => label.startsWith("B-")).map((label) => label.slice(2)); // of tags O, B-x, I-x
  return kind === "token-classification" ? `marks ${kinds.join(" · ")}` : labels.join(" · ");
}

async function fetchTask(name) {
  const first = tasks.size === 0;
  const moment = { name: first ? `the first task, ${name}` : `a switch to ${name}`, start: 0, end: Infinity };
  if (!first) moment.start = performance.now();
  at("progress").hidden = false;
  ort.env.wasm.wasmBinary ??= await unpacked(RUNTIME, read);
  const loaded = await load(name, async (file) => {
    const bytes = await read(file);
    say(`preparing ${name}`);
    await paint();
    return bytes;
  });
  for (const row of warmUp(loaded.card)) await loaded.answer(...row);
  moment.end = performance.now();
  moment.ms = moment.end - (first ? 0 : moment.start);
  moments.push(moment);
  tasks.set(name, loaded);
  at("progress").hidden = true;
  if (!first) {
    at("switch-name").textContent = `to switch to ${name}`;
    at("switch").textContent = shown(sum(downloads(moment.start, moment.end)));
  }
  showLedger();
}

// Three rows of a task, for the first answers take longer.
function warmUp(card) {
  if (IMAGES) return Array(3).fill([{ data: new Uint8Array(3), width: 1, height: 1 }]);
  const more = card.mask_token ? ` ${card.mask_token}` : "";
  return ["a", "warm up", "warm up once more"].map((words) => [words + more, card.texts === 2 ? "a" : null]);
}

function chip(text) {
  const button = make("button", "chip", text);
  button.type = "button";
  button.onclick = () => put(text);
  return button;
}

function put(text) {
  at("text").value = text;
  answer();
}

// What is asked: a text, a text and another one, or an image; null: nothing yet.
function asked() {
  if (IMAGES) return at("image").files.length ? [at("image").files[0]] : null;
  const [text, pair] = [at("text").value.trim(), task.card.texts === 2 ? at("pair").value.trim() : null];
  return !text || pair === "" ? null : [text, pair];
}

async function answer() {
  const mine = ++turn;
  const text = at("text").value.trim();
  for (const button of at("chips").children) button.classList.toggle("on", button.textContent === text);
  if (task === null) return;
  const row = asked();
  if (row === null) return clear();
  const start = performance.now();
  let found;
  try {
    found = await task.answer(...row);
  } catch (error) {
    if (mine !== turn) return;
    clear();
    return say(error.message, true);
  }
  if (mine !== turn) return; // a later row is on its way
  times.unshift(performance.now() - start);
  times.length = Math.min(times.length, 15);
  const middle = [...times].sort((a, b) => a - b)[Math.floor((times.length - 1) / 2)];
  at("latency").textContent = `${middle < 10 ? middle.toFixed(1) : Math.round(middle)} ms`;
  say(`answered in ${times[0].toFixed(1)} ms`);
  at("named").replaceChildren(...marked(found, ...row));
  if (found.entities) showEntities(found.entities);
  else if (found.masks) showFills(found.masks);
  else if (found.vector) showWords(`a vector of ${found.vector.length} numbers`);
  else if (found.text !== undefined) showWords(found.text || "no answer", found.score);
  else showAnswer(found);
}

function clear() {
  at("bars").replaceChildren();
  at("named").replaceChildren();
  [at("label").textContent, at("score").textContent] = ["\u00a0", ""];
  say(IMAGES ? "choose an image" : "type a text, or take an example");
}

function showAnswer({ label, labels, score, scores }) {
  const given = labels ?? [label]; // a text may have several, or none of them
  at("label").textContent = labels ? labels.join(", ") || "none of them" : (label ?? score.toFixed(3));
  at("score").textContent = label ? `${(100 * score).toFixed(1)} %` : "";
  const rows = Object.entries(scores ?? {});
  const bars = at("bars");
  if (bars.children.length !== rows.length) bars.replaceChildren(...rows.map(() => bar()));
  rows.forEach(([name, share], place) => {
    const row = bars.children[place];
    row.classList.toggle("best", given.includes(name));
    row.dataset.label = name;
    fill(row, name, share);
  });
}

function showWords(words, score = null) {
  at("label").textContent = words;
  at("score").textContent = score === null ? "" : `${(100 * score).toFixed(1)} %`;
  at("bars").replaceChildren();
}

// Below the text with its entities marked a line for each.
function showEntities(entities) {
  showWords(entities.length === 1 ? "1 entity" : `${entities.length || "no"} entities`);
  at("bars").replaceChildren(...entities.map(() => bar()));
  entities.forEach((entity, place) => {
    const row = at("bars").children[place];
    row.dataset.label = entity.label;
    fill(row, `${entity.text}, ${entity.label}`, entity.score);
  });
}

// The most probable token of each mask, and a line for each token that may stand there.
function showFills(masks) {
  showWords(masks.map(({ tokens }) => tokens[0].token.trim()).join(", "));
  const rows = masks.flatMap(({ tokens }) => tokens);
  at("bars").replaceChildren(...rows.map(() => bar()));
  rows.forEach(({ token, score }, place) => fill(at("bars").children[place], token, score));
}

function fill(row, name, share) {
  row.dataset.score = share;
  row.children[0].textContent = row.children[0].title = name; // a long one is cut on the page
  row.children[1].firstChild.style.width = `${100 * share}%`;
  row.children[2].textContent = `${(100 * share).toFixed(1)} %`;
}

function bar() {
  const row = make("div", "bar");
  const track = make("span", "track");
  track.append(make("span", "fill"));
  row.append(make("span", "name"), track, make("span", "share"));
  return row;
}

function showLedger() {
  const all = downloads();
  const largest = Math.max(...all.map((row) => row.size));
  at("total").textContent = shown(sum(all));
  const newest = [...moments].reverse();
  at("ledger").replaceChildren(...newest.flatMap(({ name, start, end, ms }) => {
    const rows = downloads(start, end);
    const head = make("h3", "moment", name);
    head.append(make("span", "cost", `${shown(sum(rows))} in ${(ms / 1e3).toFixed(1)} s`));
    return [head, ...rows.map((row) => line(row, largest))];
  }));
}

function line({ file, role, size }, largest) {
  const row = make("div", "file");
  row.dataset.file = file;
  row.dataset.size = size;
  const weight = make("span", "weight");
  weight.style.width = `${Math.max(0.5, (100 * size) / largest)}%`;
  const what = make("span", "what", file);
  what.append(make("span", "role", role));
  row.append(what, make("span", "size", shown(size)), weight);
  return row;
}

for (const name of Object.keys(TASKS)) at("task").append(new Option(name, name));
at("task").onchange = () => choose(at("task").value);
at("text").oninput = at("pair").oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(answer, PAUSE);
};
at("image").onchange = () => {
  const [file, picture] = [at("image").files[0], at("shown")];
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.hidden = !file;
  if (file) picture.src = URL.createObjectURL(file);
  answer();
};
await choose(at("task").value);
