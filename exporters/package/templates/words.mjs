// What a text names: where the tokens of the JavaScript tokenizer stand in it, which words begin at them, and which entities
// the tags of these words mark. Words and entities are those of Python's maskpack.runtime.
// Places count code points, as Python does: a JavaScript string counts UTF-16 units, of which an emoji has two.
// `sliced` is what lies between two places, and `index` the place in a string's own units.

const BLANK = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/; // blanks of Python
const LETTER = /[\p{L}\p{N}\p{M}]/u;
const UNSPACED = /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}]/u; // Thai, Chinese ...

// What lies between two places of a text.
export const sliced = (text, start, end) => [...text].slice(start, end).join("");

// A place of a text in UTF-16 units: text.slice(index(text, start), index(text, end)) lies between two places too.
export const index = (text, place) => sliced(text, 0, place).length;

// A text as a tokenizer that makes letters small must get it: JavaScript writes a capital sigma at the end of a word otherwise
// than Rust, which looks at letters one by one.
export function lowered(tokenizer, text) {
  return tokenizer.normalizer?.("\u03a3") === "\u03c3" ? text.replaceAll("\u03a3", "\u03c3") : text;
}

// Where each token of a text begins and ends, and the number of its word: [start, end, word]. `tree` is tokenizer.json.
export function places(tokenizer, tree, text) {
  const found = []; // of each token: itself, its place and its word
  const added = (normalized) => tree.added_tokens.filter((token) => (token.normalized && tree.normalizer !== null) === normalized);
  let word = 0;
  for (const { piece, start, token } of sections(text, added(false))) {
    const parts = token || tree.added_tokens.some(({ content }) => content === piece)
      ? [{ token: piece, start: 0, end: [...piece].length, word: 0 }]
      : inner(tokenizer, tree, piece, added(true));
    for (const part of parts)
      found.push({ token: part.token, start: start + part.start, end: start + part.end, word: word + part.word });
    word = (found.at(-1)?.word ?? -1) + 1;
  }
  const wanted = tokenizer.encode(text, { add_special_tokens: false }).tokens;
  const same = wanted.length === found.length && wanted.every((token, i) => token === found[i].token);
  if (!same) throw new Error(`cannot tell where the tokens of this text stand: ${text.slice(0, 60)}`);
  return found.map(({ start, end, word }) => [start, end, word]);
}

// Parts of a text: tokens that the tokenizer knows as a whole, and what lies between them; `start` counts code points.
function sections(text, tokens, written = (content) => content) {
  const known = new Map(tokens.map((token) => [written(token.content), token]));
  const escaped = [...known.keys()].filter(Boolean).sort((a, b) => b.length - a.length);
  const any = escaped.map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  const parts = (any ? text.split(new RegExp(`(${any})`)) : [text]).map((piece) => ({ piece, token: known.get(piece) }));
  let start = 0;
  for (const part of parts) [part.start, start] = [start, start + [...part.piece].length];
  parts.forEach(({ token }, i) => {
    if (token?.lstrip && i > 0) parts[i - 1].piece = parts[i - 1].piece.trimEnd();
    if (!token?.rstrip || i + 1 === parts.length) return;
    const next = parts[i + 1];
    const short = next.piece.trimStart();
    next.start += [...next.piece].length - [...short].length;
    next.piece = short;
  });
  return parts.filter(({ piece }) => piece);
}

// Tokens of a part of a text that holds no token as a whole before it is normalised.
function inner(tokenizer, tree, text, added) {
  const { whole, origins } = normalized(tokenizer.normalizer ?? ((some) => some), text);
  const found = [];
  let at = 0; // place in `whole`, in UTF-16 units
  for (const { piece, token } of sections(whole, added, (content) => tokenizer.normalizer(content))) {
    at = whole.indexOf(piece, at);
    const own = origins.slice(at, at + piece.length);
    const word = (found.at(-1)?.word ?? -1) + 1;
    if (token) found.push({ token: piece, start: own[0], end: own.at(-1) + 1, word });
    else found.push(...cut(tokenizer, tree, piece, own).map((part) => ({ ...part, word: word + part.word })));
    at += piece.length;
  }
  return found;
}

// A text as a normalizer leaves it, and of each UTF-16 unit of that the place of the letter that it was made of.
// Letters that change each other, such as one and its accent, become one piece, which stands where the first of them does.
function normalized(normalizer, text) {
  const whole = normalizer(text);
  const clusters = text.match(/\p{M}+|\P{M}\p{M}*/gu) ?? []; // where marks of a letter change places among each other
  for (const units of [[...text], clusters]) {
    const origins = [];
    let start = 0;
    for (const piece of grown(normalizer, units)) {
      origins.push(...Array(normalizer(piece).length).fill(start));
      start += [...piece].length;
    }
    if (origins.length === whole.length) return { whole, origins };
  }
  throw new Error(`cannot tell where the letters of this text stand: ${text.slice(0, 60)}`);
}

// Units of a text, each with those behind it that become something else without it.
function grown(normalizer, units) {
  const pieces = [];
  let made = "";
  for (const unit of units) {
    const alone = normalizer(unit);
    const both = pieces.length ? normalizer(pieces.at(-1) + unit) : "";
    const joins = pieces.length > 0 && both.length !== made.length + alone.length;
    if (joins) pieces.push(pieces.pop() + unit);
    else pieces.push(unit);
    made = joins ? both : alone;
  }
  return pieces;
}

// Tokens of normalised text, word by word of the tokenizer.
function cut(tokenizer, tree, text, origins) {
  const bytes = holds(tree.pre_tokenizer, "ByteLevel");
  const words = tokenizer.pre_tokenizer ? tokenizer.pre_tokenizer(text, { section_index: 0 }) : [text];
  const from = bytes ? ofBytes(text, origins) : origins;
  const size = words.reduce((sum, word) => sum + word.length, 0);
  if (bytes && size > from.length) from.unshift(trims(tree.post_processor) ? null : from[0]); // a blank that is not the text's
  let at = 0;
  return words.flatMap((word, number) => {
    if (!bytes) at = text.indexOf(word, at); // blanks are left out
    const lengths = lengthsOf(tokenizer.model([word]), word, tree.model);
    return lengths.map(([token, length]) => {
      const own = from.slice(at, at + length).filter((place) => place !== null);
      at += length;
      return { token, start: own[0] ?? 0, end: (own.at(-1) ?? -1) + 1, word: number };
    });
  });
}

// Origins of the bytes of UTF-8: each stands where its letter does.
function ofBytes(text, origins) {
  const from = [];
  let at = 0;
  for (const letter of text) {
    from.push(...Array(new TextEncoder().encode(letter).length).fill(origins[at]));
    at += letter.length;
  }
  return from;
}

// Tokens of a word, and how much of it each takes: without the marks of pieces. One that is unknown takes what the others leave,
// several take a letter each.
function lengthsOf(tokens, word, model) {
  const [mark, end] = [model.continuing_subword_prefix ?? "", model.end_of_word_suffix ?? ""];
  const known = tokens.map((token, i) => {
    if (token === model.unk_token) return null;
    const marked = i > 0 && token.startsWith(mark) ? mark.length : 0;
    return token.length - marked - (i === tokens.length - 1 && token.endsWith(end) ? end.length : 0);
  });
  const left = known.reduce((rest, length) => rest - (length ?? 0), word.length);
  const alone = known.filter((length) => length === null).length === 1;
  let at = 0;
  const lengths = known.map((length) => {
    const own = length ?? (alone ? left : String.fromCodePoint(word.codePointAt(at) ?? 0).length);
    at += own;
    return own;
  });
  if (at !== word.length) throw new Error(`cannot tell where the tokens of this word stand: ${word.slice(0, 60)}`);
  return tokens.map((token, i) => [token, lengths[i]]);
}

// Whether places of tokens leave out the blank before a word; else that of the first word stands where the word does.
function trims(part) {
  return Boolean(part && (part.trim_offsets || (part.processors ?? []).some(trims)));
}

function holds(part, type) {
  return part !== null && (part.type === type || (part.pretokenizers ?? []).some((one) => holds(one, type)));
}

// Words of a text, as runtime/words.py says: the token that each begins at, and its place without the task's prefix.
export function wordsOf(text, tokens, prefix = 0) {
  const [letters, found] = [[...text], []];
  let before = null;
  tokens.forEach(([from, to, number], token) => {
    const [start, end] = trimmed(letters, [from, to]);
    if (start >= end || start < prefix) return;
    const last = number === before ? found.at(-1) : undefined;
    if (last && start <= last.end && !parted(letters, last.end, start)) last.end = Math.max(end, last.end);
    else found.push({ token, start, end });
    before = number;
  });
  return found.map(({ token, start, end }) => ({ token, start: start - prefix, end: end - prefix }));
}

// A place without the blanks round it.
export function trimmed(letters, [start, end]) {
  while (start < end && BLANK.test(letters[start])) start++;
  while (start < end && BLANK.test(letters[end - 1])) end--;
  return [start, end];
}

// Whether two tokens of one word of the tokenizer, of which one ends and the other starts there, are two words.
function parted(letters, end, start) {
  if (start < end) return false;
  const both = [letters[end - 1], letters[start]];
  return !both.every((one) => LETTER.test(one)) || both.some((one) => UNSPACED.test(one));
}

// Entities of a text: `words` of it, `labels` of the task, and for each word the logits of its tags.
export function entitiesIn(text, words, labels, logits) {
  const found = [];
  words.forEach(({ start, end }, i) => {
    const [tag, score] = best(logits[i]);
    const label = labels[tag].slice(2); // nothing of "O"
    const last = found.at(-1);
    if (!label) return;
    const goes = last && last.last === i - 1 && last.label === label && labels[tag].startsWith("I-");
    if (goes) Object.assign(last, { end, last: i, scores: [...last.scores, score] });
    else found.push({ label, start, end, last: i, scores: [score] });
  });
  return found.map(({ label, start, end, scores }) => ({
    label,
    start,
    end,
    text: sliced(text, start, end),
    score: scores.reduce((a, b) => a + b) / scores.length,
  }));
}

// The most probable of some logits, and its probability.
function best(logits) {
  const most = Math.max(...logits);
  return [logits.indexOf(most), 1 / logits.reduce((sum, value) => sum + Math.exp(value - most), 0)];
}

// What an answer marks, as nodes of a page: entities in a text, or the answer to a question in its context.
export function shown(answer, text, pair = null) {
  if (answer?.entities) return nodes(text, answer.entities);
  return answer?.text === undefined ? [] : nodes(pair, answer.text ? [answer] : []);
}

// A text in parts, for a page that marks its entities: { text, entity }; `entity` is null between them.
export function marked(text, entities) {
  const [letters, parts] = [[...text], []];
  let at = 0;
  const put = (end, entity) => {
    if (end > at) parts.push({ text: letters.slice(at, end).join(""), entity });
    at = Math.max(at, end);
  };
  for (const entity of entities) {
    put(entity.start, null);
    put(entity.end, entity);
  }
  put(letters.length, null);
  return parts;
}

// The same as nodes of a page: each entity is a <mark>, with its label behind it if it has one, read out as it stands there.
// Texts become text nodes, so nothing in them is taken for HTML.
export function nodes(text, entities) {
  return marked(text, entities).map((part) => {
    if (part.entity === null) return document.createTextNode(part.text);
    const [mark, label] = [document.createElement("mark"), document.createElement("small")];
    mark.append(part.text);
    label.textContent = part.entity.label ?? "";
    if (label.textContent) mark.append(" ", label);
    return mark;
  });
}
