"""Packages of tasks that read images: the examples answer as the runtime does, in Python and in JavaScript.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from image_kit import COLOURS, make_image_model, write_images
from node_kit import MODULES, in_node, needs_node
from PIL import Image

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ExportError
from maskpack.runtime import Session
from maskpack.tasks import find_task

NAMES = ("pets", "again")


@pytest.fixture(scope="module")
def exports(tmp_path_factory, quick):
    """`exports(layout)`: a folder of two tasks over one backbone, in fp32."""
    root = tmp_path_factory.mktemp("images")
    pets, model = write_images(root / "pets"), make_image_model("dinov2", root / "model")
    task = find_task("pets", text_field="image", label_field="label", kind="image-classification")

    @cache
    def artifact(trunk):
        for seed, name in enumerate(NAMES):
            more = {"trunk": trunk} if trunk else {}
            config = quick(steps=20 + 20 * seed, seed=seed, **more)
            own = replace(task, name=name)
            fit_task(FitRequest(str(model), own, root / f"a{trunk}", config, data=pets))
        return root / f"a{trunk}"

    @cache
    def made(layout):
        tolerance = Tolerance(1e-4, 0.0)
        source = artifact(1 if layout == "trunk" else 0)
        request = SharedRequest(
            source, (), root / layout, "fp32", tolerance, verify=False, layout=layout
        )
        export_shared(request)
        return root / layout

    return made


def colours(count=60):
    """Noise around a colour between those of the classes, in all sizes, uint8 `(h, w, 3)` each."""
    rng, (cat, dog) = np.random.default_rng(3), map(np.array, COLOURS.values())
    found = []
    for share in np.linspace(0, 1, count):
        size = rng.integers(3, 40, 2)
        mean = share * cat + (1 - share) * dog
        noise = rng.normal(0, 40, (*size, 3)) + mean
        found.append(np.clip(noise, 0, 255).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of all kinds: PNG, JPEG, grey, with a palette, transparent, turned by EXIF, animated."""
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(colours()):
        image, turn = Image.fromarray(pixels), Image.Exif()
        turn[0x0112] = 1 + number % 8
        kind = ("png", "jpg", "bmp", "gif", "webp", "tiff")[number % 6]
        mode = ("RGB", "RGB", "L", "P", "RGBA", "RGB")[number % 6]
        path = folder / f"{number:02}.{kind}"
        image.convert(mode).save(path, exif=turn) if kind != "bmp" else image.save(path)
    return folder


RUN = "import runpy, sys; sys.modules['maskpack'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def lines_of(package, *given):
    """What `predict.py` of a package prints, without maskpack at hand, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package / "predict.py"), *map(str, given)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr


@pytest.mark.parametrize(
    ("target", "layout"),
    [
        *((Target.ORT, layout) for layout in ("shared", "swap", "trunk")),
        *((Target.MOBILE, layout) for layout in ("shared", "trunk")),
    ],
)
def test_the_python_example_answers_as_the_runtime(exports, photos, tmp_path, target, layout):
    source = exports(layout)
    package = write_package(PackageRequest(source, tmp_path / "x", target))
    assert max(package.differences.values()) <= 1e-5
    assert {"maskpack_pixels.py", "preprocessor_config.json"} <= set(package.files)
    assert not [name for name in package.files if "token" in name or name == "vocab.txt"]
    assert "cat, dog | 8 x 8 |" in (package.out / "README.md").read_text()
    lines, code, told = lines_of(package.out, photos)
    assert code == 0, told
    paths, session = sorted(photos.iterdir()), Session(source)
    assert len(paths) >= 50
    for name in NAMES:
        own = [line for line in lines if line["task"] == name]
        assert [line["image"] for line in own] == [path.as_posix() for path in paths]
        wanted = session.predict(paths, task=name, batch_size=1)
        assert len({one.label for one in wanted}) == 2
        assert [line["label"] for line in own] == [one.label for one in wanted]
        assert [line["score"] for line in own] == pytest.approx(
            [one.score for one in wanted], abs=1e-5
        )
    if target is Target.ORT:
        some = paths[:9]
        again = Session(package.out).predict(some, task="pets")
        assert again == session.predict(some, task="pets")


PIXELS = """
import json, sys
sys.modules["maskpack"] = None
sys.path.insert(0, sys.argv[1])
from predict import Task
task = Task("pets")
print(json.dumps([task.read(path).tobytes().hex() for path in sys.argv[2:]]))
"""


def test_the_python_example_reads_the_same_pixels(exports, photos, tmp_path):
    package = write_package(PackageRequest(exports("shared"), tmp_path / "x", Target.ORT)).out
    paths = sorted(photos.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", PIXELS, str(package), *map(str, paths)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    reader = Session(exports("shared"))._load("pets").reader
    wanted = [reader.batch(reader.encode([path]))["pixel_values"] for path in paths]
    assert json.loads(done.stdout) == [one.tobytes().hex() for one in wanted]


def test_an_image_that_cannot_be_read_stops_no_other(exports, photos, tmp_path):
    package = write_package(
        PackageRequest(exports("shared"), tmp_path / "x", Target.ORT, ("pets",))
    )
    Image.fromarray(np.full((4, 4), 900, dtype=np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "no.png").write_bytes(b"no image")
    good = min(photos.iterdir())
    lines, code, _ = lines_of(package.out, tmp_path / "deep.png", tmp_path / "no.png", good)
    assert code == 1
    assert [set(line) >= {"error"} for line in lines] == [True, True, False]
    assert "more than 8 bits" in lines[0]["error"]


ANSWERS = """
import fs from "node:fs";
import { answerAll, load } from "./predict.mjs";
const images = JSON.parse(fs.readFileSync(process.argv[2], "utf8")).map(({ data, ...size }) => ({ data: new Uint8Array(Buffer.from(data, "base64")), ...size }));
const [task, found, all] = [await load("pets"), [], []];
for (const image of images) {
  found.push({ logits: await task.logits(image), ...(await task.answer(image)) });
  all.push(await answerAll(image));
}
const odd = await task.answer("photo.jpg").catch((error) => error.message);
console.log(JSON.stringify({ found, all, odd }));
"""


@needs_node
@pytest.mark.parametrize("layout", ["shared", "swap", "trunk"])
def test_javascript_answers_as_the_runtime(exports, tmp_path, layout):
    source, images = exports(layout), colours()
    package = write_package(PackageRequest(source, tmp_path / "x", Target.WEB)).out
    rows = [
        {
            "data": base64.b64encode(one.tobytes()).decode(),
            "width": one.shape[1],
            "height": one.shape[0],
        }
        for one in images
    ]
    answer = in_node(package, ANSWERS, rows)
    session = Session(source)
    assert len(images) >= 50
    np.testing.assert_allclose(
        [one["logits"] for one in answer["found"]],
        session.logits(images, task="pets", batch_size=1),
        atol=1e-4,
    )
    for name in NAMES:
        wanted = session.predict(images, task=name, batch_size=1)
        own = [one[name] for one in answer["all"]]
        assert [one["label"] for one in own] == [one.label for one in wanted]
        for one, want in zip(own, wanted, strict=True):
            assert one["scores"] == pytest.approx(want.scores, abs=1e-4)
    assert "no browser decodes images here" in answer["odd"]


PASSES = """
import fs from "node:fs";
import * as ort from "onnxruntime-web/wasm";
const create = ort.InferenceSession.create;
const runs = { trunk: 0, top: 0 };
ort.InferenceSession.create = async (...given) => {
  const session = await create.call(ort.InferenceSession, ...given);
  const run = session.run.bind(session);
  const kind = session.outputNames.includes("hidden_states") ? "trunk" : "top";
  session.run = (...feeds) => (runs[kind]++, run(...feeds));
  return session;
};
const { answerAll, load } = await import("./predict.mjs");
const image = { data: new Uint8Array(27).fill(7), width: 3, height: 3 };
const seen = [];
for (let turn = 0; turn < 2; turn++) {
  await answerAll(image);
  seen.push({ ...runs });
}
image.data.fill(200); // the same object with other colours is another image
const changed = await (await load("pets")).answer(image);
console.log(JSON.stringify({ seen, changed }));
"""


@needs_node
def test_tasks_on_a_trunk_share_its_pass_over_an_image(exports, tmp_path):
    package = write_package(PackageRequest(exports("trunk"), tmp_path / "x", Target.WEB)).out
    found = in_node(package, PASSES, None)
    assert found["seen"] == [{"trunk": 1, "top": 2}, {"trunk": 2, "top": 4}]
    pixels = np.full((3, 3, 3), 200, dtype=np.uint8)
    (want,) = Session(exports("trunk")).predict([pixels], task="pets")
    assert found["changed"]["scores"] == pytest.approx(want.scores, abs=1e-4)


BROWSER = """
const asked = [];
globalThis.createImageBitmap = async (image, options) => {
  asked.push(options);
  return { width: 2, height: 1, close: () => asked.push("closed"), image };
};
globalThis.OffscreenCanvas = class {
  constructor(width, height) {
    asked.push([width, height]);
  }
  getContext(kind) {
    return {
      drawImage: ({ image }, x, y) => asked.push([kind, image, x, y]),
      getImageData: (x, y, width, height) => ({ data: new Uint8ClampedArray([1, 2, 3, 255, 4, 5, 6, 255]), width, height }),
    };
  }
};
const { coloursOf, load } = await import("./predict.mjs");
const { width, height, data } = await coloursOf("a file");
const answer = await (await load("pets")).answer("a file");
console.log(JSON.stringify({ asked, size: [width, height], data: [...data], answer }));
"""


@needs_node
def test_a_browser_is_asked_for_colours_as_they_are(exports, tmp_path):
    package = write_package(PackageRequest(exports("shared"), tmp_path / "x", Target.WEB)).out
    found = in_node(package, BROWSER, None)
    options, size, drawn, closed = found["asked"][:4]
    assert options == {
        "imageOrientation": "from-image",
        "premultiplyAlpha": "none",
        "colorSpaceConversion": "none",
    }
    assert (size, drawn, closed) == ([2, 1], ["2d", "a file", 0, 0], "closed")
    assert (found["size"], found["data"]) == ([2, 1], [1, 2, 3, 255, 4, 5, 6, 255])
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    (want,) = Session(exports("shared")).predict([pixels], task="pets")
    assert found["answer"]["scores"] == pytest.approx(want.scores, abs=1e-4)


@needs_node
def test_the_command_line_of_the_javascript_example_reads_ppm(exports, tmp_path):
    package = write_package(PackageRequest(exports("shared"), tmp_path / "x", Target.WEB)).out
    (package / "node_modules").symlink_to(MODULES)
    (pixels, *_) = colours(2)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    (tmp_path / "b.ppm").write_bytes(b"P6\n# a comment\n1 1\n255\n" + bytes([200, 60, 40]))
    (tmp_path / "c.ppm").write_bytes(b"P6 9 9 255\nshort")
    (tmp_path / "d.png").write_bytes(b"no ppm")
    given = [str(tmp_path / name) for name in ("a.ppm", "b.ppm", "c.ppm", "d.png")]
    done = subprocess.run(
        ["node", str(package / "predict.mjs"), *given], capture_output=True, text=True
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 8
    own = [line for line in lines if line["task"] == "pets"]
    first, second = Session(exports("shared")).predict(
        [pixels, np.array([[[200, 60, 40]]], dtype=np.uint8)], task="pets", batch_size=1
    )
    assert own[0]["scores"] == pytest.approx(first.scores, abs=1e-4)
    assert own[1]["scores"] == pytest.approx(second.scores, abs=1e-4)
    assert own[2]["error"] == "the file ends before its 9 x 9 pixels do"
    assert own[3]["error"].startswith("this is no file of PPM")


def test_texts_and_images_share_no_package(exports, exported, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(exported("bert", "fp32").folder, both / "sst2")
    artifact = exports("shared").parent / "a0"
    export_onnx(
        ExportRequest(artifact, "pets", both / "pets", "fp32", Tolerance(1e-4, 0.0), verify=False)
    )
    with pytest.raises(ExportError, match="some tasks at `.*both` read texts, others images"):
        write_package(PackageRequest(both, tmp_path / "x", Target.ORT))
    made = write_package(PackageRequest(both, tmp_path / "x", Target.ORT, ("pets",)))
    assert {"pets/model.onnx", "pets/preprocessor_config.json", "pets/task.json"} <= set(made.files)
    lines, code, _ = lines_of(made.out, tmp_path / "none.png")
    assert (code, len(lines)) == (1, 1)


def test_a_folder_without_its_processor_is_no_package(exports, tmp_path):
    copy = shutil.copytree(exports("shared"), tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ExportError, match=r"cannot read `.*preprocessor_config\.json`"):
        write_package(PackageRequest(copy, tmp_path / "x", Target.WEB))
