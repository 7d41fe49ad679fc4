// Answer texts with the tasks of this package, a line of JSON each; after `npm install`:
//   node predict.mjs "where is my parcel" "the app crashes"
// A task on pairs takes its texts two by two.
// In a page (see index.html): const task = await load("NAME"); await task.answer("where is my parcel")
// A task that fills masks reads a text with the mask token of its task.json in it.
// All tasks on one text: await answerAll("where is my parcel"). Tasks on a trunk that read a text alike share its pass.
// `load` reads a file once, so that a second task takes its graph alone, or its own inputs to the graph of all tasks.
// Give it a `read` of your own to show progress: from the name of a file in this package to a promise of its Uint8Array.
import { Tokenizer } from "@huggingface/tokenizers";
import { blocksOf, fillsOf } from "./fills.mjs";
import { ENTITIES, MASKS, QUESTIONS, VECTORS, inTurn, isCalled, kept, meaning, once, openTask, tensor } from "./graphs.mjs";
import { JOINS, answerOf, bare, bestIn, framed, windowsOf } from "./windows.mjs";
import { entitiesIn, lowered, places, wordsOf } from "./words.mjs";

export const TASKS = @TASKS@;

export async function load(name, read = once) {
  const files = TASKS[name];
  const { card, json, outputs } = await openTask(files, read, feeds);
  const tree = await json(files.tokenizer);
  const tokenizer = new Tokenizer(tree, await json(files.tokenizer_config));
  const each = async (row) => (await outputs(keyed(row))).map((values) => Array.from(values));
  const one = async (row) => (await each(row))[0];
  const asked = async (question, context) => {
    checkTexts(card, context);
    const windows = windowsOf(tokenizer, tree, card, question, context);
    return inTurn(windows, async (window) => ({ window, logits: await each(window) }));
  };
  // The answer to a whole text, joined from those of its windows.
  const joined = async (text, pair, stride) => {
    checkTexts(card, pair);
    if (pair !== null || !(card.kind in JOINS)) throw new Error(`${card.name} joins no windows of a text`);
    const windows = windowsOf(tokenizer, tree, card, text, null, stride);
    const logits = JOINS[card.kind](await inTurn(windows, one), windows, card.labels.length);
    const [{ begin }, count] = [windows[0], { windows: windows.length }];
    if (card.kind !== ENTITIES) return { ...meaning(card, logits), ...count };
    const words = wordsIn(tokenizer, tree, card, text, { from: 0, count: Infinity, at: -begin });
    return { entities: named(card, text, words, logits), ...count };
  };
  // What fills the masks of a text, block by block: logits of a whole vocabulary are not held longer.
  const masked = async (text, pair) => {
    checkTexts(card, pair);
    const blocks = blocksOf(tokenizer, tree, card, text);
    return (await inTurn(blocks, async (block) => fillsOf(tokenizer, text, block, (await outputs(keyed(block)))[0]))).flat();
  };
  // Of entities token after token; of questions first and last tokens of an answer, for each window.
  const logits = async (text, ...more) => {
    const [pair, { second }] = given(...more);
    if (card.kind === QUESTIONS) return (await asked(text, pair)).map((found) => found.logits);
    return one(tokens(tokenizer, card, text, pair, second));
  };
  const answer = async (text, ...more) => {
    const [pair, { second, windows, stride }] = given(...more);
    if (windows && card.kind !== QUESTIONS) return joined(text, pair, stride);
    if (card.kind === QUESTIONS) {
      const found = (await asked(text, pair)).map(({ window, logits }) => bestIn(window, ...logits));
      return answerOf(pair, found, card.no_answer ?? false);
    }
    if (card.kind === MASKS) return { masks: await masked(text, pair) };
    const row = tokens(tokenizer, card, text, pair, second);
    if (VECTORS.includes(card.kind)) return { vector: await one(row) };
    if (card.kind !== ENTITIES) return meaning(card, await one(row));
    return { entities: named(card, text, wordsIn(tokenizer, tree, card, text, row), await one(row)) };
  };
  return { card, logits, answer };
}

// What each task that reads so many texts says of them: name of a task -> its answer, or { error } where it has none.
export async function answerAll(text, pair = null, names = Object.keys(TASKS)) {
  const found = {};
  for (const name of names) {
    const task = await kept(tasks, name, () => load(name));
    if ((task.card.texts ?? (pair === null ? 1 : 2)) === (pair === null ? 1 : 2))
      found[name] = await task.answer(text, pair).catch((error) => ({ error: error.message }));
  }
  return found;
}

// A row, known by its tokens.
const keyed = (row) => ({ ...row, key: JSON.stringify([row.ids, row.types]) });

// What a graph reads of a row.
function feeds({ ids, types }) {
  const all = { input_ids: ids, attention_mask: ids.map(() => 1), token_type_ids: types };
  const made = Object.entries(all).map(([name, values]) => [name, tensor("int64", values.map(BigInt), [1, ids.length])]);
  return Object.fromEntries(made);
}

// The second text of a row, if it has one, and options, which may stand in its place.
const given = (pair = null, options = {}) => (pair !== null && typeof pair === "object" ? [null, pair] : [pair, options]);

// Token ids and types of a row of a task, as it was learned; at least one token. `second`: a text to be found, before which the
// task's second prefix stands.
export function tokens(tokenizer, card, text, pair = null, second = false) {
  checkTexts(card, pair);
  if (second && !VECTORS.includes(card.kind)) throw new Error(`${card.name} gives no vectors, and has no texts to be found`);
  const prefixes = card.prefixes ?? ["", ""];
  const [before, between] = second ? [prefixes[1], ""] : prefixes;
  const other = pair === null ? null : between + pair;
  const found = encode(tokenizer, card.max_length, before + text, other, card.truncation_side);
  return found.ids.length ? found : { ...found, ids: [card.pad_id], types: [0] };
}

function checkTexts(card, pair) {
  const given = pair === null ? 1 : 2;
  if ((card.texts ?? given) !== given) throw new Error(`${card.name} reads ${card.texts} text(s) a row, not ${given}`);
}

// Words of a text whose tokens are a row; `token` is the place in the row.
export function wordsIn(tokenizer, tree, card, text, { from, count, at }) {
  const [before] = card.prefixes ?? [""];
  const kept = places(tokenizer, tree, lowered(tokenizer, before + text)).slice(from, from + count);
  return wordsOf(before + text, kept, [...before].length).map((word) => ({ ...word, token: word.token + at }));
}

// What a text names, from logits of all its tokens.
function named(card, text, words, logits) {
  const size = card.labels.length;
  return entitiesIn(text, words, card.labels, words.map(({ token }) => logits.slice(size * token, size * (token + 1))));
}

// Token ids and types of a text or a pair, the longer one cut first, on the side where the task's texts were cut.
// Of the first text `count` tokens are left, those behind `from`, and stand in the row behind `at`.
export function encode(tokenizer, length, text, pair = null, side = "right") {
  const [first, second] = [bare(tokenizer, text), pair === null ? null : bare(tokenizer, pair)];
  const room = length - framed(tokenizer, [], second && []).ids.length;
  const [one, two] = second ? shares(first.length, second.length, room) : [room, 0];
  const begin = (ids, size) => (side === "left" ? Math.max(0, ids.length - size) : 0);
  const cut = (ids, size) => ids.slice(begin(ids, size), begin(ids, size) + size);
  const at = framed(tokenizer, [-1]).ids.indexOf(-1);
  const kept = { from: begin(first, one), count: Math.min(one, first.length), at };
  return { ...framed(tokenizer, cut(first, one), second && cut(second, two)), ...kept };
}

function shares(one, two, room) {
  if (one + two <= room) return [one, two];
  let [less, more] = [Math.min(one, two), Math.max(one, two)];
  more = less > room ? less : Math.max(less, room - less);
  if (less + more > room) [less, more] = [Math.floor(room / 2), Math.ceil(room / 2)];
  return one > two ? [more, less] : [less, more];
}

const tasks = new Map(); // those that `answerAll` has loaded
if (await isCalled(import.meta.url)) {
  const [flags, told] = [["second", "windows"], process.argv.slice(2)];
  const options = Object.fromEntries(flags.map((name) => [name, told.includes(`--${name}`)]));
  const texts = told.filter((text) => !flags.some((name) => text === `--${name}`));
  for (const name of Object.keys(TASKS)) {
    const task = await load(name);
    const size = task.card.texts ?? 1;
    for (let start = 0; start < texts.length; start += size) {
      const [text, pair = null] = texts.slice(start, start + size);
      const row = { task: name, text, ...(pair === null ? {} : { pair }) };
      try {
        console.log(JSON.stringify({ ...row, ...(await task.answer(text, pair, options)) }));
      } catch (error) {
        console.log(JSON.stringify({ ...row, error: error.message })); // one row stops no other
        process.exitCode = 1;
      }
    }
  }
}
