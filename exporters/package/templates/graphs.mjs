// Graphs of tasks in WebAssembly, one thread: files of the package, sessions that tasks share, and what outputs mean.
import * as ort from "onnxruntime-web/wasm";

ort.env.wasm.numThreads = 1; // more of them need a page that is cross-origin isolated

// The graph of a task. `card`: its configuration; `json`: reads a file of the package; `outputs`: those of a row, each as the numbers of a tensor.
// `files`: of the task; `read`: from the name of a file to its Uint8Array; `feeds`: from a row to name of an input -> tensor.
// A row has a `key`: tasks on a trunk share its pass over rows with the same one.
export async function openTask(files, read, feeds) {
  const whole = (file) => unpacked(file, read);
  const json = async (file) => JSON.parse(new TextDecoder().decode(await whole(file)));
  const card = await json(files.card);
  const open = async (graph) => {
    const beside = files.weights && { path: card.weights_file, data: await whole(files.weights) };
    return ort.InferenceSession.create(await whole(graph), {
      executionProviders: ["wasm"],
      externalData: beside ? [beside] : [],
    });
  };
  const shared = (graph) => kept(sessions, graph, () => open(graph));
  const trunk = files.trunk && (await shared(files.trunk));
  const own = files.inputs ? tensors(await whole(files.inputs)) : {};
  const session = await (files.inputs ? shared(files.graph) : open(files.graph));
  const outputs = async (row) => {
    const below = trunk ? { hidden_states: await states(files.trunk, trunk, row, feeds) } : {};
    const found = await run(session, feeds(row), { ...own, ...below });
    return outputsOf(card).map((name) => found[name].data);
  };
  return { card, json, outputs };
}

// Outputs of a graph for a row, of which it takes what it has inputs for.
function run(session, feeds, given = {}) {
  const missing = session.inputNames.filter((name) => !(name in given));
  return session.run({ ...given, ...Object.fromEntries(missing.map((name) => [name, feeds[name]])) });
}

// Hidden states of a row. The last rows are remembered, so that the next task on the trunk needs no pass of its own.
async function states(name, trunk, row, feeds) {
  const own = kept(passes, name, () => new Map());
  const found = await kept(own, row.key, async () => (await run(trunk, feeds(row))).hidden_states);
  if (own.size > REMEMBERED) own.delete(own.keys().next().value);
  return found;
}

// Types whose answer is a vector of length 1: the sum of products of two vectors is their cosine.
export const VECTORS = ["similarity", "retrieval", "label-retrieval"];
export const [ENTITIES, QUESTIONS, MASKS] = ["token-classification", "question-answering", "fill-mask"];

function outputsOf({ kind }) {
  if (kind === QUESTIONS) return ["start_logits", "end_logits"];
  return [VECTORS.includes(kind) ? "sentence_embedding" : "logits"];
}

// What logits say: a label, several labels, or a number.
export function meaning(card, logits) {
  if (card.kind.endsWith("regression")) return { score: logits[0] };
  if (card.kind.endsWith("multi-label")) {
    const scores = Object.fromEntries(card.labels.map((label, i) => [label, 1 / (1 + Math.exp(-logits[i]))]));
    return { labels: card.labels.filter((label) => scores[label] > 0.5), scores };
  }
  const powers = logits.map((value) => Math.exp(value - Math.max(...logits)));
  const sum = powers.reduce((a, b) => a + b);
  const scores = Object.fromEntries(card.labels.map((label, i) => [label, powers[i] / sum]));
  const label = card.labels.reduce((a, b) => (scores[b] > scores[a] ? b : a));
  return { label, score: scores[label], scores };
}

const KINDS = {
  F32: ["float32", Float32Array],
  I64: ["int64", BigInt64Array],
  I32: ["int32", Int32Array],
  I8: ["int8", Int8Array],
  U8: ["uint8", Uint8Array],
  BOOL: ["bool", Uint8Array],
};

// Name -> tensor of a file of safetensors: a length, a header in JSON, values.
function tensors(file) {
  const start = 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(file.subarray(8, start)));
  const made = Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
    const [type, Values] = KINDS[dtype];
    const values = new Uint8Array(file.subarray(start + from, start + to)).buffer; // a copy begins where its values may
    return [name, new ort.Tensor(type, new Values(values), shape)];
  });
  return Object.fromEntries(made);
}

// What a function gives of each, one after the other: a session runs once at a time.
export async function inTurn(all, make) {
  const made = [];
  for (const each of all) made.push(await make(each));
  return made;
}

const held = new Map(); // tasks share backbone.bin and what they are read by
const sessions = new Map(); // of graphs that tasks share
const passes = new Map(); // name of a trunk -> key of a row -> its hidden states
const REMEMBERED = 32;

// What stands under a name; made once, and again if that failed.
export function kept(map, name, make) {
  if (!map.has(name)) map.set(name, make());
  const found = map.get(name);
  found.catch?.(() => map.delete(name)); // so that a second try is one
  return found;
}

// The bytes of a file of the package, which is read once; those of a packed file are kept unpacked alone.
export const once = (name) => (name.endsWith(GZIP) ? bytes(name) : kept(held, name, () => bytes(name)));

const GZIP = ".gz";

// A file of the package as it was before it was packed, if it was. A server that knows the ending may have unpacked it on the way.
export async function unpacked(name, read) {
  return name.endsWith(GZIP) ? kept(held, name, async () => gunzipped(name, await read(name))) : read(name);
}

async function gunzipped(name, file) {
  if (file[0] !== 0x1f || file[1] !== 0x8b) return file;
  try { // gzip holds size and checksum of what was packed
    const plain = new Blob([file]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(plain).arrayBuffer());
  } catch (error) {
    throw new Error(`${name} is damaged: ${error.message}`);
  }
}

async function bytes(name) {
  const url = new URL(name, import.meta.url);
  if (url.protocol === "file:") return new Uint8Array(await (await import("node:fs/promises")).readFile(url));
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`cannot load ${url}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// Whether node runs this module itself: one that imports it may have the same name.
export async function isCalled(url) {
  const script = globalThis.process?.argv?.[1];
  if (!script || !url.startsWith("file:")) return false;
  const [{ realpath }, { pathToFileURL }] = [await import("node:fs/promises"), await import("node:url")];
  return pathToFileURL(await realpath(script)).href === url;
}

export const tensor = (type, values, shape) => new ort.Tensor(type, values, shape);
