// Answer texts with the tasks of this package, a line of JSON each; after `npm install`:
//   node predict.mjs "where is my parcel" "the app crashes"
// In a page (see index.html): const task = await load("NAME"); await task.answer("where is my parcel")
// `load` reads a file once, so that a second task takes its graph alone. Give it a `read` of your own to
// show progress: from the name of a file in this package to a promise of its Uint8Array.
import * as ort from "onnxruntime-web/wasm";
import { Tokenizer } from "@huggingface/tokenizers";

ort.env.wasm.numThreads = 1; // more of them need a page that is cross-origin isolated

export const TASKS = @TASKS@;

export async function load(name, read = once) {
  const files = TASKS[name];
  const json = async (file) => JSON.parse(new TextDecoder().decode(await read(file)));
  const card = await json(files.card);
  const tokenizer = new Tokenizer(await json(files.tokenizer), await json(files.tokenizer_config));
  const shared = files.weights && { path: card.weights_file, data: await read(files.weights) };
  const session = await ort.InferenceSession.create(await read(files.graph), {
    executionProviders: ["wasm"],
    externalData: shared ? [shared] : [],
  });
  const logits = async (text, pair = null) => {
    const { ids, types } = encode(tokenizer, card.max_length, text, pair);
    const all = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
    const feeds = {};
    for (const input of session.inputNames)
      feeds[input] = new ort.Tensor("int64", all[input].map(BigInt), [1, ids.length]);
    return Array.from((await session.run(feeds)).logits.data);
  };
  const answer = async (text, pair = null) => meaning(card, await logits(text, pair));
  return { card, logits, answer };
}

// Token ids and types of a text or a pair, the longer one cut first, as the task was learned.
export function encode(tokenizer, length, text, pair = null) {
  const bare = (some) => tokenizer.encode(some, { add_special_tokens: false }).ids;
  const [first, second] = [bare(text), pair === null ? null : bare(pair)];
  const join = (a, b) => tokenizer.post_processor(a, b);
  const room = length - join([], second && []).tokens.length;
  const [one, two] = second ? shares(first.length, second.length, room) : [room, 0];
  const joined = join(first.slice(0, one), second && second.slice(0, two));
  const ids = joined.tokens.map((token) => (typeof token === "string" ? tokenizer.token_to_id(token) : token));
  return { ids, types: joined.token_type_ids ?? ids.map(() => 0) };
}

function shares(one, two, room) {
  if (one + two <= room) return [one, two];
  let [less, more] = [Math.min(one, two), Math.max(one, two)];
  more = less > room ? less : Math.max(less, room - less);
  if (less + more > room) [less, more] = [Math.floor(room / 2), Math.ceil(room / 2)];
  return one > two ? [more, less] : [less, more];
}

function meaning(card, logits) {
  if (card.kind === "regression") return { score: logits[0] };
  if (card.kind === "multi-label") {
    const scores = Object.fromEntries(card.labels.map((label, i) => [label, 1 / (1 + Math.exp(-logits[i]))]));
    return { labels: card.labels.filter((label) => scores[label] > 0.5), scores };
  }
  const powers = logits.map((value) => Math.exp(value - Math.max(...logits)));
  const sum = powers.reduce((a, b) => a + b);
  const scores = Object.fromEntries(card.labels.map((label, i) => [label, powers[i] / sum]));
  const label = card.labels.reduce((a, b) => (scores[b] > scores[a] ? b : a));
  return { label, score: scores[label], scores };
}

const held = new Map(); // tasks share backbone.bin and the tokenizer

function once(name) {
  if (!held.has(name)) held.set(name, bytes(name));
  held.get(name).catch(() => held.delete(name)); // so that a second try is one
  return held.get(name);
}

async function bytes(name) {
  const url = new URL(name, import.meta.url);
  if (url.protocol === "file:") return new Uint8Array(await (await import("node:fs/promises")).readFile(url));
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`cannot load ${url}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

if (globalThis.process?.argv?.[1]?.endsWith("predict.mjs"))
  for (const name of Object.keys(TASKS)) {
    const task = await load(name);
    for (const text of process.argv.slice(2))
      console.log(JSON.stringify({ task: name, text, ...(await task.answer(text)) }));
  }
