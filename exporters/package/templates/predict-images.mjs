// Answer images with the tasks of this package, a line of JSON each; after `npm install`:
//   node predict.mjs photo.ppm
// Node decodes no images: its command reads raw colours, files of PPM (P6), which other programs write of any image.
// In a page (see index.html): const task = await load("NAME"); await task.answer(image)
// An image is a File or Blob, an <img>, a <canvas>, an ImageBitmap; or { data, width, height } of one, three or four bytes a pixel, in Node too.
// All tasks on one image: await answerAll(image). Tasks on a trunk share its pass.
// `load` reads a file once, so that a second task takes its graph alone, or its own inputs to the graph of all tasks.
// Give it a `read` of your own to show progress: from the name of a file in this package to a promise of its Uint8Array.
import { inTurn, isCalled, kept, meaning, once, openTask, tensor } from "./graphs.mjs";
import { valuesOf } from "./pixels.mjs";

export const TASKS = @TASKS@;

export async function load(name, read = once) {
  const files = TASKS[name];
  const { card, json, outputs } = await openTask(files, read, feeds);
  const rule = await json(files.processor);
  const rowOf = async (image) => rowFrom(valuesOf(rule, await coloursOf(image)));
  const logits = async (image) => logitsOf(await rowOf(image));
  const logitsOf = async (row) => Array.from((await outputs(row))[0]);
  const answerRow = async (row) => meaning(card, await logitsOf(row));
  const answer = async (image) => answerRow(await rowOf(image));
  return { card, logits, answer, rowOf, answerRow };
}

// What each task says of an image: name of a task -> its answer. Tasks that read images alike read it once.
export async function answerAll(image, names = Object.keys(TASKS)) {
  const [colours, rows] = [await coloursOf(image), new Map()];
  const answers = await inTurn(names, async (name) => {
    const task = await kept(tasks, name, () => load(name));
    return [name, await task.answerRow(await kept(rows, TASKS[name].processor, () => task.rowOf(colours)))];
  });
  return Object.fromEntries(answers);
}

// A row, known by itself: two images are never taken for one.
const rowFrom = (read) => ({ ...read, key: Symbol("image") });

// What a graph reads of a row.
function feeds({ values, height, width }) {
  return { pixel_values: tensor("float32", values, [1, 3, height, width]) };
}

// The colours of an image: { data, width, height }. A browser decodes what it can show, turned as its EXIF orientation says.
export async function coloursOf(image) {
  if (image?.data && image.width && image.height) return image;
  if (!globalThis.createImageBitmap) throw new Error("no browser decodes images here: give { data, width, height }");
  const asIs = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };
  const picture = await createImageBitmap(image, asIs);
  const { width, height } = picture;
  const drawn = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  drawn.drawImage(picture, 0, 0);
  picture.close();
  return drawn.getImageData(0, 0, width, height);
}

// The colours of a file of PPM: P6, width, height, 255, three bytes a pixel.
export function ofPpm(file) {
  const head = /^P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s/.exec(String.fromCharCode(...file.subarray(0, 512)));
  if (head === null) throw new Error("this is no file of PPM (P6) with 8 bits a channel");
  const [width, height] = [Number(head[1]), Number(head[2])];
  const data = file.subarray(head[0].length, head[0].length + 3 * width * height);
  if (data.length < 3 * width * height) throw new Error(`the file ends before its ${width} x ${height} pixels do`);
  return { data, width, height };
}

const tasks = new Map(); // those that `answerAll` has loaded

if (await isCalled(import.meta.url)) {
  const { readFile } = await import("node:fs/promises");
  for (const name of Object.keys(TASKS)) {
    const task = await load(name);
    for (const image of process.argv.slice(2)) {
      try {
        const answer = await task.answer(ofPpm(new Uint8Array(await readFile(image))));
        console.log(JSON.stringify({ task: name, image, ...answer }));
      } catch (error) {
        console.log(JSON.stringify({ task: name, image, error: error.message })); // one image stops no other
        process.exitCode = 1;
      }
    }
  }
}
