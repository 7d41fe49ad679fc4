// Images to the pixel values of a model: resize, cut out the centre, rescale, normalise. Bit for bit what Python's maskpack.runtime makes of
// the same colours with numpy and Pillow. An image is { data, width, height }: three bytes a pixel (red, green, blue), or four, of which the
// last (how opaque it is) is left out, as a canvas gives them; or one, grey.

const BITS = 22; // of a weight behind the point, as Pillow counts with 8 bits a channel: 32 - 8 - 2

// Pillow's filters by number: how far one reaches, and its weight at a distance. Number 0 takes the nearest pixel.
const FILTERS = [
  null,
  [3, (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0)], // Lanczos
  [1, (x) => Math.max(0, 1 - Math.abs(x))], // bilinear
  [2, cubic],
  [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)], // box
  [1, hamming],
];

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function cubic(at) {
  const [a, x] = [-0.5, Math.abs(at)];
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(at) {
  const x = Math.abs(at);
  if (x === 0) return 1;
  return x < 1 ? (Math.sin(x * Math.PI) / (x * Math.PI)) * (0.54 + 0.46 * Math.cos(x * Math.PI)) : 0;
}

// An image with three bytes a pixel.
export function inColours({ data, width, height }) {
  const size = width * height;
  const channels = data.length / size;
  if (!(size > 0) || ![1, 3, 4].includes(channels))
    throw new Error(`${data.length} bytes are no image of ${width} x ${height} pixels: give one, three or four a pixel`);
  if (channels === 3) return { data, width, height };
  const made = new Uint8Array(3 * size);
  for (let pixel = 0; pixel < size; pixel++)
    for (let channel = 0; channel < 3; channel++)
      made[3 * pixel + channel] = data[channel % channels + channels * pixel];
  return { data: made, width, height };
}

// An image of three bytes a pixel in another size, as Pillow's `Image.resize` makes it. Pillow rounds after each axis. Since version 13 it begins
// with the height where that loses more than twice as many pixels as the width; older ones always begin with the width.
export function resized(image, width, height, filter) {
  if (filter === 0) return nearest(image, width, height);
  const lost = image.height - height;
  const tall = lost > 0 && lost > 2 * (image.width - width);
  return tall ? wide(high(image, height, filter), width, filter) : high(wide(image, width, filter), height, filter);
}

const wide = (image, width, filter) => (image.width === width ? image : along(image, width, filter));
const high = (image, height, filter) => (image.height === height ? image : swapped(along(swapped(image), height, filter)));

function nearest(image, width, height) {
  const [columns, rows] = [picked(image.width, width), picked(image.height, height)];
  const made = new Uint8Array(3 * width * height);
  let at = 0;
  for (const row of rows)
    for (const column of columns)
      for (let channel = 0; channel < 3; channel++) made[at++] = image.data[3 * (row * image.width + column) + channel];
  return { data: made, width, height };
}

// The nearest of `size` places for each of `wanted`; places are summed up, as Pillow does it, so that they round alike.
function picked(size, wanted) {
  const step = size / wanted;
  let place = step * 0.5;
  return Array.from({ length: wanted }, () => {
    const found = Math.trunc(place);
    place += step;
    return found;
  });
}

// An image with another width.
function along({ data, width, height }, wanted, filter) {
  const taps = weights(width, wanted, filter);
  const made = new Uint8Array(3 * wanted * height);
  for (let row = 0; row < height; row++) {
    taps.forEach(({ first, own }, column) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (BITS - 1);
        for (let tap = 0; tap < own.length; tap++) sum += data[3 * (row * width + first + tap) + channel] * own[tap];
        made[3 * (row * wanted + column) + channel] = Math.min(255, Math.max(0, sum >> BITS));
      }
    });
  }
  return { data: made, width: wanted, height };
}

// For each of `wanted` places the first of `size` places that count and the weights of these, as integers.
function weights(size, wanted, filter) {
  const [reach, weight] = FILTERS[filter];
  const step = size / wanted;
  const spread = Math.max(1, step);
  const support = reach * spread;
  return Array.from({ length: wanted }, (_, place) => {
    const centre = (place + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const each = Array.from({ length: last - first }, (_, tap) => weight((tap + first - centre + 0.5) * (1 / spread)));
    const total = each.reduce((sum, one) => sum + one, 0);
    return { first, own: each.map((one) => rounded((total === 0 ? one : one / total) * (1 << BITS))) };
  });
}

const rounded = (value) => Math.trunc(value < 0 ? value - 0.5 : value + 0.5);

// An image whose rows are columns.
function swapped({ data, width, height }) {
  const made = new Uint8Array(data.length);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      for (let channel = 0; channel < 3; channel++)
        made[3 * (column * height + row) + channel] = data[3 * (row * width + column) + channel];
  return { data: made, width: height, height: width };
}

// Width and height of an image after it was resized to `size` of a rule: height and width, or the length of the shorter edge.
export function sizeOf(size, width, height) {
  if (typeof size === "number") return [size, size];
  if (!("shortest_edge" in size)) return [size.width, size.height];
  const short = size.shortest_edge;
  const longer = Math.trunc((short * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [short, longer] : [longer, short];
}

// The part of an image around its centre; where the image is smaller, with black around it.
export function centred({ data, width, height }, size) {
  const [wide, high] = typeof size === "number" ? [size, size] : [size.width, size.height];
  const made = new Uint8Array(3 * wide * high);
  const [left, top] = starts(width, height, wide, high);
  for (let row = Math.max(0, -top); row < Math.min(high, height - top); row++) {
    const [from, to] = [Math.max(0, -left), Math.min(wide, width - left)];
    const begin = 3 * ((row + top) * width + left + from);
    made.set(data.subarray(begin, begin + 3 * (to - from)), 3 * (row * wide + from));
  }
  return { data: made, width: wide, height: high };
}

// Where the part begins in the image: left of it or above it where the image is smaller. Odd pixels lie where transformers puts them.
function starts(width, height, wide, high) {
  const [left, top] = [Math.floor((width - wide) / 2), Math.floor((height - high) / 2)];
  if (left >= 0 && top >= 0) return [left, top];
  const before = (own, wanted) => Math.ceil((Math.max(wanted, own) - own) / 2);
  const clipped = (begin, frame) => Math.max(0, begin + frame) - frame;
  return [clipped(left, before(width, wide)), clipped(top, before(height, high))];
}

// What a model reads of an image, float32 of 3 x height x width, and its height and width. `rule`: of preprocessor_config.json.
export function valuesOf(rule, given) {
  let image = inColours(given);
  if (rule.do_resize) image = resized(image, ...sizeOf(rule.size, image.width, image.height), rule.resample);
  if (rule.do_center_crop) image = centred(image, rule.crop_size);
  const [levels, size] = [levelsOf(rule), image.width * image.height];
  const values = new Float32Array(3 * size);
  for (let channel = 0; channel < 3; channel++)
    for (let pixel = 0; pixel < size; pixel++)
      values[channel * size + pixel] = levels[channel][image.data[3 * pixel + channel]];
  return { values, height: image.height, width: image.width };
}

// The value of each level of each channel: rescaled with 64 bits, normalised with 32, as transformers does.
function levelsOf(rule) {
  const three = (numbers) => (Array.isArray(numbers) ? numbers : [numbers, numbers, numbers]);
  const single = Math.fround;
  const [means, deviations] = rule.do_normalize ? [three(rule.image_mean), three(rule.image_std)] : [[], []];
  return [0, 1, 2].map((channel) =>
    Float32Array.from({ length: 256 }, (_, level) => {
      const value = single(rule.do_rescale ? level * rule.rescale_factor : level);
      if (!rule.do_normalize) return value;
      return single(single(value - single(means[channel])) / single(deviations[channel]));
    }),
  );
}
