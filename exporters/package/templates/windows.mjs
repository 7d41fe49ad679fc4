// Windows of a long text, or of a question and a long context, and the answer that follows from theirs: those of Python's maskpack.runtime.
// Places count code points of the context, as Python does; `sliced` and `index` of words.mjs turn them into a string's own.
import { lowered, places, sliced, trimmed } from "./words.mjs";

const LONGEST = 30; // tokens of an answer at most

// Token ids of a text without marks.
export const bare = (tokenizer, text) => tokenizer.encode(lowered(tokenizer, text), { add_special_tokens: false }).ids;

// Token ids and types of a text, or of two, with the marks of the tokenizer round them.
export function framed(tokenizer, first, second = null) {
  const { tokens, token_type_ids } = tokenizer.post_processor(first, second);
  const ids = tokens.map((token) => (typeof token === "string" ? tokenizer.token_to_id(token) : token));
  return { ids, types: token_type_ids ?? ids.map(() => 0) };
}

// The windows of a question and a context, or of a text alone, one or more: ids and types of each, its first token of the context, and
// from which to which of all tokens of the context it holds. A question of more than half of a window loses its end; what stands before a
// text alone begins each of its windows.
export function windowsOf(tokenizer, tree, card, text, context = null, stride = null) {
  const [before, between] = card.prefixes ?? ["", ""];
  const whole = context === null ? before + text : between + context;
  const prefix = [...(context === null ? before : between)].length;
  const spots = context !== null || prefix ? places(tokenizer, tree, lowered(tokenizer, whole)) : null;
  const every = bare(tokenizer, whole);
  const begin = context === null ? begins(spots, every.length, prefix) : 0;
  const [asked, found] = [context === null ? every.slice(0, begin) : bare(tokenizer, before + text), every.slice(begin)];
  const row = (head, part) => (context === null ? framed(tokenizer, [...head, ...part]) : framed(tokenizer, head, part));
  const [size, special] = [card.max_length, row([], []).ids.length];
  const fits = context === null && special + every.length <= size;
  const head = fits ? asked : asked.slice(0, Math.max(0, Math.min(Math.floor(size / 2), size - special - 1)));
  const first = row(head, [-1]).ids.indexOf(-1);
  const room = Math.max(1, size - special - head.length);
  const shared = Math.min(stride ?? card.stride ?? Math.floor(size / 4), Math.floor(room / 2));
  const spans = context === null ? null : spansOf(context, between, spots);
  return parts(found.length, room, shared).map(([start, stop]) => {
    const { ids, types } = row(head, found.slice(start, stop));
    const own = ids.length ? { ids, types } : { ids: [card.pad_id], types: [0] };
    return { ...own, first, start, stop, begin, ...(spans && { spans: spans.slice(start, stop) }) };
  });
}

// The first token of a text that is not of what stands before it alone.
function begins(spots, count, prefix) {
  const at = spots ? spots.findIndex(([, end]) => end > prefix) : 0;
  return at < 0 ? count : at;
}

// Parts of so many tokens, of which neighbours share some.
function parts(count, room, shared) {
  const found = [];
  for (let start = 0; ; start += room - shared) {
    found.push([start, Math.min(start + room, count)]);
    if (start + room >= count) return found;
  }
}

// Where the tokens of a context begin and end, without blanks round them and without what the task puts before it; 0 and 0 of a token
// that has no letter of the context.
function spansOf(context, before, spots) {
  const [letters, prefix] = [[...before, ...context], [...before].length];
  return spots.map((place) => {
    const [start, end] = trimmed(letters, place);
    return start < prefix || start >= end ? [0, 0] : [start - prefix, end - prefix];
  });
}

// The best span of a window, and how probable none is: products of the probabilities of a first and a last token, the first token of
// the window standing for none. `starts` and `ends` are logits of all its tokens.
export function bestIn({ first, spans }, starts, ends) {
  const counts = (token) => token === 0 || spans[token - first]?.[1] > 0;
  const [begin, finish] = [starts, ends].map((logits) => shares(logits, counts));
  const none = begin[0] * finish[0];
  const own = (place) => (place < spans.length && first + place > 0 ? first + place : -1); // of the context, but not the first
  if (!spans.some(([, end], place) => end > 0 && own(place) > 0)) return { start: 0, end: 0, score: 0, none };
  const score = (from, to) => (begin[own(from)] ?? 0) * (finish[own(to)] ?? 0);
  let best = [0, 0];
  for (let from = 0; from < spans.length; from++)
    for (let to = from; to < from + LONGEST; to++) if (score(from, to) > score(...best)) best = [from, to];
  return { start: spans[best[0]][0], end: spans[best[1]][1], score: score(...best), none };
}

// Probabilities of the tokens that count; 0 of the others.
function shares(logits, counts) {
  const most = logits.reduce((high, value, token) => (counts(token) && value > high ? value : high), -Infinity);
  const powers = logits.map((value, token) => (counts(token) ? Math.exp(value - most) : 0));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// The answer of the best spans of all windows: { text, start, end, score }. A task that learned rows without an answer gives none, an
// empty text, where that is more probable in every window.
export function answerOf(context, found, mayLack) {
  const none = Math.min(...found.map((one) => one.none));
  const best = found.reduce((a, b) => (b.score > a.score ? b : a));
  if (best.score === 0 || (mayLack && none > best.score)) return { text: "", start: 0, end: 0, score: none };
  return { text: sliced(context, best.start, best.end), start: best.start, end: best.end, score: best.score };
}

// The share of a text that each of its windows stands for: a token counts once, in equal parts for all windows that hold it.
function sharesOf(windows) {
  const held = Array(windows.at(-1).stop).fill(0);
  for (const { start, stop } of windows) for (let token = start; token < stop; token++) held[token]++;
  if (!held.length) return [1];
  return windows.map(({ start, stop }) => held.slice(start, stop).reduce((sum, count) => sum + 1 / count, 0) / held.length);
}

// Outputs of a text from those of its windows: the mean of numbers, a window counting as its share of the text ...
function joinedMeans(outputs, windows) {
  const weights = sharesOf(windows);
  return outputs[0].map((_, place) => outputs.reduce((sum, one, i) => sum + weights[i] * one[place], 0));
}

// ... the highest of each label ...
const joinedLabels = (outputs) => outputs[0].map((_, place) => Math.max(...outputs.map((one) => one[place])));

// ... and of each token those of the window where it has most context on its shorter side.
function joinedTokens(outputs, windows, size) {
  const count = windows.at(-1).stop;
  const [found, most] = [Array(count * size).fill(0), Array(count).fill(-1)];
  windows.forEach(({ first, start, stop }, i) => {
    for (let token = start; token < stop; token++) {
      const context = Math.min(token - start, stop - 1 - token);
      if (context <= most[token]) continue;
      most[token] = context;
      for (let place = 0; place < size; place++)
        found[size * token + place] = outputs[i][size * (first + token - start) + place];
    }
  });
  return found;
}

// Type of a task -> how outputs are joined: of windows, the windows, and labels of the task.
export const JOINS = {
  classification: joinedMeans,
  regression: joinedMeans,
  "multi-label": joinedLabels,
  "token-classification": joinedTokens,
};
