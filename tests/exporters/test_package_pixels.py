"""What packages make of images: `pixels.mjs` gives in node what Pillow and the runtime give, bit for bit; `maskpack_pixels.py` is the runtime's own.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py.
"""

from __future__ import annotations

import ast
import base64
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from node_kit import in_node, needs_node
from PIL import Image, __version__
from test_image_rule import PROCESSORS
from transformers import ViTImageProcessor

from maskpack.runtime import pixels as runtime_pixels
from maskpack.runtime.images import ImageRule

TEMPLATES = Path(__file__).parents[2] / "exporters" / "package" / "templates"
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
SIZES = [  # width, height before and after: one pixel, odd, larger, smaller, one axis alone, oblong
    ((1, 1), (5, 3)),
    ((7, 5), (7, 5)),
    ((13, 11), (13, 4)),
    ((13, 11), (29, 11)),
    ((31, 17), (16, 16)),
    ((101, 67), (8, 8)),
    ((255, 257), (224, 224)),
]
if int(__version__.split(".")[0]) >= 13:  # older ones resize tall images in another order
    SIZES += [((9, 40), (33, 21)), ((3, 200), (50, 2)), ((30, 90), (25, 80)), ((30, 90), (25, 79))]

RESIZE = """
import fs from "node:fs";
import { resized } from "./pixels.mjs";
const found = JSON.parse(fs.readFileSync(process.argv[2], "utf8")).map(({ data, width, height, wanted, filter }) => {
  const image = { data: new Uint8Array(Buffer.from(data, "base64")), width, height };
  return Buffer.from(resized(image, ...wanted, filter).data).toString("base64");
});
console.log(JSON.stringify(found));
"""


def encoded(pixels):
    return base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode()


def decoded(text, dtype, shape):
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)


def pictures(width, height):
    """Noise, only black and white, and a gradient, uint8 `(h, w, 3)` each."""
    rng = np.random.default_rng([width, height])
    yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    yield (255 * rng.integers(0, 2, (height, width, 3))).astype(np.uint8)
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    yield ramp.astype(np.uint8)


@needs_node
@pytest.mark.parametrize("name", FILTERS)
def test_javascript_resizes_as_pillow(tmp_path, name):
    shutil.copy(TEMPLATES / "pixels.mjs", tmp_path)
    rows, wanted = [], []
    for (width, height), size in SIZES:
        for pixels in pictures(width, height):
            own = {"width": width, "height": height, "wanted": size, "filter": FILTERS[name]}
            rows.append({"data": encoded(pixels), **own})
            wanted.append(np.asarray(Image.fromarray(pixels).resize(size, FILTERS[name])))
    found = in_node(tmp_path, RESIZE, rows)
    assert len(found) == 3 * len(SIZES)
    for text, want, row in zip(found, wanted, rows, strict=True):
        got = decoded(text, np.uint8, want.shape)
        off = int((got != want).sum())
        assert off == 0, (off, row["width"], row["height"], row["wanted"])


VALUES = """
import fs from "node:fs";
import { valuesOf } from "./pixels.mjs";
const { rule, images } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const found = images.map(({ data, width, height }) => {
  const { values, ...size } = valuesOf(rule, { data: new Uint8Array(Buffer.from(data, "base64")), width, height });
  return { values: Buffer.from(values.buffer).toString("base64"), ...size };
});
console.log(JSON.stringify(found));
"""


@needs_node
@pytest.mark.parametrize("name", PROCESSORS)
def test_javascript_reads_images_as_the_runtime(tmp_path, name):
    shutil.copy(TEMPLATES / "pixels.mjs", tmp_path)
    file = PROCESSORS[name]().to_json_string()
    rule = ImageRule.of_json(file)
    rng, sizes = np.random.default_rng(0), ((40, 60), (61, 37), (8, 8), (9, 300), (300, 211))
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    rows = [{"data": encoded(one), "width": one.shape[1], "height": one.shape[0]} for one in images]
    found = in_node(tmp_path, VALUES, {"rule": json.loads(file), "images": rows})
    for image, got in zip(images, found, strict=True):
        (want,) = rule.values(rule.pixels(image)[None])
        assert (got["height"], got["width"]) == rule.size
        np.testing.assert_array_equal(decoded(got["values"], np.float32, want.shape), want)


FORMS = """
import fs from "node:fs";
import { inColours } from "./pixels.mjs";
const images = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const found = images.map((image) => {
  try {
    return Array.from(inColours(image).data);
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(found));
"""


@needs_node
def test_one_three_and_four_bytes_a_pixel_are_colours(tmp_path):
    shutil.copy(TEMPLATES / "pixels.mjs", tmp_path)
    size = {"width": 2, "height": 1}
    given = [
        {"data": [1, 2], **size},
        {"data": [1, 2, 3, 4, 5, 6], **size},
        {"data": [1, 2, 3, 0, 4, 5, 6, 255], **size},
        {"data": [1, 2, 3], **size},
        {"data": [], "width": 0, "height": 0},
    ]
    *good, odd, none = in_node(tmp_path, FORMS, given)
    assert good == [[1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]
    assert odd.startswith("3 bytes are no image of 2 x 1 pixels")
    assert none.startswith("0 bytes are no image")


def test_what_a_package_copies_needs_numpy_and_pillow_alone():
    source = Path(runtime_pixels.__file__).read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - sys.stdlib_module_names == {"numpy", "PIL"}


@needs_node
def test_a_photo_of_twelve_million_pixels_is_read(tmp_path):
    """As a phone takes them, in the form of a canvas."""
    shutil.copy(TEMPLATES / "pixels.mjs", tmp_path)
    rule = ViTImageProcessor(do_normalize=False).to_dict()
    script = """
import fs from "node:fs";
import { valuesOf } from "./pixels.mjs";
const rule = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const [width, height] = [4000, 3000];
const data = new Uint8Array(4 * width * height).fill(51);
const { values } = valuesOf(rule, { data, width, height });
console.log(JSON.stringify({ same: values.every((value) => value === values[0]), first: values[0] }));
"""
    found = in_node(tmp_path, script, json.loads(json.dumps(rule, default=str)))
    assert found["same"]
    assert found["first"] == pytest.approx(0.2)
