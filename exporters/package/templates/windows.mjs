// Windows of a question and a context that is too long for one, and the best answer in them: those of Python's maskpack.runtime.
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

// The windows of a question and a context, one or more: ids and types of each, the first token of the context in it, and where its
// tokens of the context begin and end there; 0 and 0 of a token that has no letter of the context. A question of more than half of a
// window loses its end.
export function windowsOf(tokenizer, tree, card, question, context) {
  const [before, between] = card.prefixes ?? ["", ""];
  const asked = bare(tokenizer, before + question);
  const found = bare(tokenizer, between + context);
  const special = framed(tokenizer, [], []).ids.length;
  const head = asked.slice(0, Math.max(0, Math.min(Math.floor(card.max_length / 2), card.max_length - special - 1)));
  const first = framed(tokenizer, head, [-1]).ids.indexOf(-1);
  const room = Math.max(1, card.max_length - special - head.length);
  const spans = spansOf(tokenizer, tree, between + context, [...between].length);
  return parts(found.length, room, Math.min(card.stride, Math.floor(room / 2))).map(([start, stop]) => ({
    ...framed(tokenizer, head, found.slice(start, stop)),
    first,
    spans: spans.slice(start, stop),
  }));
}

// Parts of so many tokens, of which neighbours share some.
function parts(count, room, shared) {
  const found = [];
  for (let start = 0; ; start += room - shared) {
    found.push([start, Math.min(start + room, count)]);
    if (start + room >= count) return found;
  }
}

// Where the tokens of a text begin and end, without blanks round them and without what the task puts before the text.
function spansOf(tokenizer, tree, text, prefix) {
  const letters = [...text];
  return places(tokenizer, tree, lowered(tokenizer, text)).map((place) => {
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
