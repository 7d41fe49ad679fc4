// What fills the masks of a text: the blocks that a long text is cut into, and the most probable tokens of each mask, as Python's
// maskpack.runtime gives them. Places count code points, as Python does; `sliced` and `index` of words.mjs turn them into a string's own.
import { bare, framed } from "./windows.mjs";
import { lowered, places, trimmed } from "./words.mjs";

const BEST = 5; // tokens that are given for a mask

// The blocks of a text that have masks: ids and types of each, and of each mask its place among them and where it stands in the text.
export function blocksOf(tokenizer, tree, card, text) {
  const [before] = card.prefixes ?? [""];
  const [letters, prefix] = [[...before, ...text], [...before].length];
  const spots = places(tokenizer, tree, lowered(tokenizer, before + text));
  const every = bare(tokenizer, before + text);
  const first = framed(tokenizer, [-1]).ids.indexOf(-1);
  const room = Math.max(1, card.max_length - framed(tokenizer, []).ids.length);
  const blocks = parts(every.length, room, card.truncation_side === "left").map(([start, stop]) => {
    const masks = [];
    for (let token = start; token < stop; token++) {
      if (every[token] !== card.mask_id) continue;
      const [begin, end] = trimmed(letters, spots[token]); // a mask may take the blanks around it, which are the text's
      masks.push({ place: first + token - start, start: begin - prefix, end: end - prefix });
    }
    return { ...framed(tokenizer, every.slice(start, stop)), masks };
  });
  const kept = blocks.filter(({ masks }) => masks.length);
  if (kept.length) return kept;
  const shown = [...text].slice(0, 60).join("");
  throw new Error(`\`${shown}\` has no mask to fill: \`${card.mask_token}\` stands nowhere in it`);
}

// Parts of so many tokens; from the end of the text on where a text loses its beginning.
function parts(count, room, left) {
  const found = [];
  for (let at = 0; at < count; at += room)
    found.push(left ? [Math.max(0, count - at - room), count - at] : [at, Math.min(count, at + room)]);
  return found;
}

// What fills the masks of a block: [{ start, end, tokens: [{ token, score, text }] }]. `logits`: of all its tokens, one after the other.
export function fillsOf(tokenizer, text, { ids, masks }, logits) {
  const size = logits.length / ids.length;
  return masks.map(({ place, start, end }) => {
    const tokens = best(logits.subarray(place * size, (place + 1) * size)).map(({ id, score }) => ({
      token: decode(tokenizer, [id]),
      score,
      text: filled(tokenizer, [...text], ids.slice(Math.max(0, place - 1), place), id, start, end),
    }));
    return { start, end, tokens };
  });
}

// The most probable tokens, and their probabilities.
function best(logits) {
  const found = []; // of two with the same logit the first stands first
  logits.forEach((value, id) => {
    if (found.length === BEST && value <= found.at(-1).value) return;
    const after = found.findIndex((one) => one.value < value);
    found.splice(after < 0 ? found.length : after, 0, { id, value });
    found.length = Math.min(found.length, BEST);
  });
  const most = found[0].value;
  const sum = logits.reduce((total, value) => total + Math.exp(value - most), 0);
  return found.map(({ id, value }) => ({ id, score: Math.exp(value - most) / sum }));
}

// Tokens as text; special ones as they are written.
function decode(tokenizer, ids) {
  const plain = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
  return ids.length ? tokenizer.decode(ids, plain) : "";
}

// A text with a token in the place of a mask: beside the word before it, or as a part of it where the tokenizer writes it so.
function filled(tokenizer, letters, before, id, start, end) {
  const [alone, both] = [decode(tokenizer, before), decode(tokenizer, [...before, id])];
  const own = alone && both.startsWith(alone) ? both.slice(alone.length) : decode(tokenizer, [id]);
  const [head, tail] = [letters.slice(0, start), letters.slice(end).join("")];
  const joins = stripped([...alone]) && own && stripped([[...own][0]]);
  const [from, to] = trimmed(head, [0, head.length]);
  if (joins) return head.slice(0, from === to ? 0 : to).join("") + own + tail;
  return head.join("") + stripped([...own]) + tail;
}

// Letters without the blanks round them.
const stripped = (letters) => letters.slice(...trimmed(letters, [0, letters.length])).join("");
