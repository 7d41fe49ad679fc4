"""Images on the command line: a folder is learned without an option, exported, and answered from files, folders and tables."""

from __future__ import annotations

import base64
import io
import json
import shutil

import numpy as np
import pytest
from html_page import Page
from image_kit import make_image_model, write_images
from PIL import Image

from maskpack.tasks.evaluation.pictures import thumbnail

QUICK = (
    *("--steps", 40, "--bits", 4, "--group", 16, "--batch-size", 16),
    *("--precision", "fp32", "--teacher", "none", "--skip-export-check"),
)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "pets", train=20, dev=4)


LEARNED: dict[str, tuple] = {}


@pytest.fixture
def learned(tmp_path_factory, main, pets):
    """What `fit` said, the artifact and the exported folder; made once."""
    if "pets" not in LEARNED:
        LEARNED["pets"] = learn(main, pets, tmp_path_factory.mktemp("learned"))
    return LEARNED["pets"]


def learn(main, pets, root):
    model = make_image_model("vit", root / "vit")
    said = main("fit", model, "--data", pets, *QUICK, "-o", root / "a")
    assert said.code == 0, said.err
    flags = ("--onnx", "--compute", "fp32", "--data", pets)
    done = main("export", root / "a", *flags, "-o", root / "g")
    assert done.code == 0, done.err
    return said, root / "a", root / "g"


def test_a_folder_of_images_is_learned_without_an_option(main, learned):
    said, artifact, _ = learned
    assert "of each label, training + evaluation: cat 20 + 4, dog 20 + 4" in said.err
    found = main("inspect", artifact, "--json").json
    (task,) = found["tasks"] if isinstance(found["tasks"], list) else found["tasks"].values()
    assert task["kind"] == "image-classification"
    card = (artifact / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-classification" in card
    assert "compress predict pets-onnx --images photos/" in card
    assert '.predict(["photo.jpg"])' in card
    assert "text" not in card.partition("\n---\n")[2].lower()
    assert "image-classification" in main("tasks").out


def test_images_of_files_and_folders_are_answered(main, learned, pets, tmp_path):
    graph = learned[2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    done = main("predict", graph, "--images", pets / "validation" / "dog", "--images", bad)
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["image"].rsplit("/", 1)[1] for line in lines[:4]] == [
        *("0.png", "1.png", "2.jpg", "3.png")
    ]
    assert {line["label"] for line in lines[:4]} == {"dog"}
    assert lines[4].keys() == {"image", "error"}
    assert "row 5: image `" in done.err
    done = main("predict", graph, "--images", tmp_path / "none")
    assert (done.code, "there is no image" in done.err) == (1, True)


def test_folders_and_tables_bring_labels(main, learned, pets, tmp_path):
    graph = learned[2]
    done = main("predict", graph, "--data", pets, "--csv")
    assert done.code == 0, done.err
    rows = [line.split(",") for line in done.out.splitlines()]
    assert rows[0] == ["text", "pets", "expected"]
    assert len(rows) == 9
    assert all(own == expected for _, own, expected in rows[1:])
    table = pets.parent / "rows.csv"
    table.write_text("image,label\npets/train/cat/0.png,cat\n")
    (line,) = map(json.loads, main("predict", graph, "--data", table).out.splitlines())
    assert (line["label"], line["expected"]) == ("cat", "cat")


def test_what_images_cannot_do_is_said(main, learned, pets, tmp_path):
    _, artifact, graph = learned
    for call, why in (
        (("predict", graph), "`pets` reads images, not texts"),
        (("predict", graph, "--images", pets, "--data", pets), "`--images` goes without texts"),
        (("predict", graph, "--images", tmp_path), "holds no image"),
        (("bench", graph, "--texts", pets), "`pets` reads images, not texts"),
        (("fit", tmp_path, "--data", pets, "--prefix", "x", "-o", tmp_path / "b"), ""),
    ):
        done = main(*call, stdin="")
        assert done.code == 1, call
        assert why in done.err
        assert "hint: " in done.err
    assert main("doctor", artifact).code == 0
    assert main("doctor", graph).code == 0
    done = main("eval", artifact, "--data", pets, "--json")
    assert done.json["scores"]["accuracy"] == 1.0


def test_a_benchmark_times_graphs_on_images(main, learned, pets):
    grid = ("--batch", "1,2", "--threads", "1", "--runs", "1", "--quiet")
    done = main("bench", learned[2], "--artifact", learned[1], "--images", pets, *grid)
    assert done.code == 0, done.err
    assert "logits on 48 rows, 48 images" in done.out
    assert "1: 2 x 64" in done.out


def test_a_report_shows_images_whose_answer_is_wrong(main, learned, pets, tmp_path):
    page, odd = tmp_path / "page.html", tmp_path / "odd"
    done = main("report", learned[1], "--data", pets, "-o", page)
    assert done.code == 0, done.err
    assert "Images with a wrong answer" not in page.read_text(encoding="utf-8")
    (odd / "cat").mkdir(parents=True)
    (odd / "dog").mkdir()
    for number, label in enumerate(("cat", "dog", "dog")):
        shutil.copy(pets / "validation" / label / "0.png", odd / "cat" / f"x&lt;{number}.png")
    shutil.copy(pets / "validation" / "dog" / "1.png", odd / "dog" / "1.png")
    done = main("report", learned[1], "--data", odd, "-o", page, "--json")
    assert done.code == 0, done.err
    shown = done.json["evaluation"]["pets"]["pictures"]
    assert [(one["true"], one["given"]) for one in shown] == [("cat", "dog")] * 2
    assert [one["score"] for one in shown] == sorted((one["score"] for one in shown), reverse=True)
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    images = [value for tag, name, value in found.values if (tag, name) == ("img", "src")]
    assert images == [one["thumbnail"] for one in shown]
    head, _, body = images[0].partition(",")
    assert head == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(body)))
    assert small.size == (12, 10), "a small image stays as it is"
    assert "cat/x&lt;1.png" in found.text


def test_a_checkpoint_of_images_is_adopted_with_its_graph(main, pets, tmp_path):
    model = make_image_model("vit", tmp_path / "vit")
    tuned, photos = tmp_path / "pets", tmp_path / "photos"
    steps = ("--steps", 80, "--batch-size", 16, "--precision", "fp32", "--head-lr", 0.01)
    said = main("baseline", model, "--data", pets, "--method", "full", *steps, "-o", tuned)
    assert said.code == 0, said.err
    photos.mkdir()
    for place in sorted((pets / "train").rglob("*.*")):
        shutil.copy(place, photos / f"{place.parent.name}-{place.name}")
    quick = ("--steps", 40, "--bits", 2, "--refine", 20, "--batch-size", 16, "--precision", "fp32")
    rows = ("--texts", photos, "--eval-data", pets / "validation")
    done = main("adopt", tuned, "--base", model, *rows, *quick, "-o", tmp_path / "a", "--json")
    assert done.code == 0, done.err
    (task,), graph = done.json["tasks"], done.json["graphs"]["pets"]
    assert task["result"]["same_answers"] == 1.0
    assert task["ancestry"]["equal_rows"] is None
    assert graph["accuracy"]["reference_agreement"] == 1.0


def test_pictures_of_a_page_are_small(tmp_path):
    Image.fromarray(np.zeros((3000, 1000, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    body = thumbnail("x.png", tmp_path).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (32, 96)
    assert len(body) < 2000
