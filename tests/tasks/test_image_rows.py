"""Rows of images: folders by class, tables that name files, data sets; what is no image is refused by file or by row."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from image_kit import make_image_model, picture, write_images
from PIL import Image

from maskpack.formats import DataError
from maskpack.runtime.images import ImageRule, bytes_of_url
from maskpack.tasks import find_task
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.images import image_rows, is_image_folder
from maskpack.tasks.data.splits import Split, load_data, load_dev
from maskpack.tasks.data_warnings import find_warnings
from maskpack.tasks.images import EncodedImages, ImagePreprocessor, sample_images
from maskpack.tasks.options import TaskOptions, Type

KIND = "image-classification"


@pytest.fixture
def task():
    return find_task("pets", text_field="image", label_field="label", kind=KIND)


def test_a_folder_of_classes_has_a_tenth_of_each_held_out(task, tmp_path):
    place = write_images(tmp_path / "pets", train=20, dev=0)
    data = load_data(task, data=place)
    assert data.labels == ("cat", "dog")
    assert (len(data.train), len(data.dev)) == (36, 4)
    assert data.train.texts[0] == ("cat/0.png",)
    assert data.train.root == place
    assert data.held_out is not None
    again = load_dev(task, data.labels, data=place, sha256=data.dev.sha256())
    assert again.texts == data.dev.texts


def test_splits_are_folders_too(task, tmp_path):
    place = write_images(tmp_path / "pets", train=5, dev=3)
    data = load_data(task, data=place)
    assert (len(data.train), len(data.dev), data.held_out) == (10, 6, None)
    (place / "validation").rename(place / "val")
    assert len(load_data(task, data=place).dev) == 6
    (place / "val").rename(tmp_path / "elsewhere")
    data = load_data(task, data=place / "train", eval_data=tmp_path / "elsewhere")
    assert (len(data.train), len(data.dev)) == (10, 6)


def test_rows_are_known_by_the_bytes_of_their_images(task, tmp_path):
    place = write_images(tmp_path / "pets", train=5, dev=3)
    before = load_data(task, data=place)
    assert not [one for one in find_warnings(before) if "training rows too" in str(one)]
    place.rename(tmp_path / "moved")
    moved = load_data(task, data=tmp_path / "moved")
    assert moved.dev.sha256() == before.dev.sha256()
    shutil.copy(
        tmp_path / "moved" / "train" / "cat" / "0.png",
        tmp_path / "moved" / "validation" / "cat" / "0.png",
    )
    changed = load_data(task, data=tmp_path / "moved")
    assert changed.dev.sha256() != before.dev.sha256(), "the same name, another image"
    assert any("training rows too: 1 of 6" in str(one) for one in find_warnings(changed))


def test_the_type_is_guessed_of_folders_and_of_a_column(tmp_path):
    place = write_images(tmp_path / "pets", train=2, dev=2)
    assert task_of_said(Said("pets", named=False, data=place)).kind == KIND
    table = tmp_path / "rows.csv"
    table.write_text("image,label\npets/train/cat/0.png,cat\n")
    assert task_of_said(Said("rows", named=False, data=table)).kind == KIND
    options = TaskOptions(type=Type.IMAGES, text_field="x", label_field="y")
    assert task_of_said(Said("rows", data=table, options=options)).kind == KIND


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_names_files_beside_it(ending, task, tmp_path):
    write_images(tmp_path / "pets", train=6, dev=0)
    rows = [(f"pets/{label}/{n}.png", label) for label in ("cat", "dog") for n in (0, 1, 3, 4)]
    table = tmp_path / f"rows.{ending}"
    lines = ["image,label", *(f"{path},{label}" for path, label in rows)]
    if ending == "jsonl":
        lines = [json.dumps({"image": path, "label": label}) for path, label in rows]
    table.write_text("\n".join(lines) + "\n")
    data = load_data(task, data=table)
    assert (len(data.train), len(data.dev), data.train.root) == (6, 2, tmp_path)
    assert len(preprocessor(tmp_path).encode(data.train, max_length=8)) == 6
    for bad, why in (
        ("pets/none.png", "data row 9 of `.*` names the image `pets/none.png`, and there is no"),
        ("https://x.org/a.png", "data row 9 of `.*` names an image of the web"),
    ):
        more = f"{bad},cat" if ending == "csv" else json.dumps({"image": bad, "label": "cat"})
        table.write_text("\n".join([*lines, more]) + "\n")
        with pytest.raises(DataError, match=why):
            load_data(task, data=table)


def test_images_of_a_data_set_travel_as_their_bytes(task, tmp_path):
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    labels = ["cat", "dog"] * 10
    pictures = [picture(label, rng) for label in labels]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    made = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    made.save_to_disk(tmp_path / "set")
    made.to_parquet(tmp_path / "set.parquet")
    from pathlib import Path

    for place in (Path(f"hub:{tmp_path / 'set'}"), tmp_path / "set.parquet"):
        data = load_data(task, data=place)
        assert data.labels == ("cat", "dog")
        first = data.train.texts[0][0]
        assert bytes_of_url(first).startswith(b"\x89PNG")
        found = preprocessor(tmp_path).encode(data.train, max_length=8)
        rule = found.rule
        wanted = [rule.pixels(one) for one in pictures]
        assert all(any(np.array_equal(own, one) for one in wanted) for own in found.pixels)


def preprocessor(folder, kind="vit"):
    place = make_image_model(kind, folder / f"model-{kind}")
    file = (place / "preprocessor_config.json").read_bytes()
    return ImagePreprocessor(ImageRule.of_json(file), 17, file)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.png", b"not an image", "row 1: image `cat/x.png` is no image that Pillow reads"),
        ("x.png", b"", "row 1: image `cat/x.png` is no image that Pillow reads"),
    ],
)
def test_a_file_that_is_no_image_is_named(name, content, why, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / name).write_bytes(content)
    split = Split(((f"cat/{name}",),), np.zeros(1, dtype=np.int64), root=tmp_path)
    with pytest.raises(DataError) as caught:
        preprocessor(tmp_path).encode(split, max_length=8)
    assert str(caught.value) == f"{why} (in `{tmp_path.as_posix()}`)"
    assert caught.value.hint == "leave it out, or save it as PNG"


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_file_that_is_cut_off_is_named(ending, tmp_path):
    rng = np.random.default_rng(0)
    whole = tmp_path / f"x.{ending}"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:600])
    split = Split(((whole.name,),), np.zeros(1, dtype=np.int64), root=tmp_path)
    with pytest.raises(DataError, match=rf"row 1: image `x.{ending}` cannot be read as an image"):
        preprocessor(tmp_path).encode(split, max_length=8)


def test_folders_that_hold_something_else(tmp_path):
    place = write_images(tmp_path / "pets", train=2, dev=0)
    assert is_image_folder(place)
    (place / "cat" / ".DS_Store").write_bytes(b"x")
    (place / "dog" / "Thumbs.db").write_bytes(b"x")
    (place / "LICENSE").write_text("free")
    assert len(image_rows(place)) == 4
    (place / "bird").mkdir()
    with pytest.raises(DataError, match="the class `bird` in .* has no image"):
        image_rows(place)
    (place / "bird" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"`bird/notes.txt` in .* is no image by its name"):
        image_rows(place)
    shutil.rmtree(place / "bird")
    shutil.copy(place / "cat" / "0.png", place / "0.png")
    with pytest.raises(DataError, match="lies in no folder of a class"):
        image_rows(place)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not is_image_folder(empty)


def test_an_empty_folder_is_refused(task, tmp_path):
    with pytest.raises(DataError, match="has no images") as caught:
        load_data(task, data=tmp_path)
    assert "`cat/1.png`, `dog/2.jpg`" in str(caught.value.hint)


def test_many_pixels_lie_in_a_file(monkeypatch, tmp_path):
    from maskpack.tasks import images as module

    place = write_images(tmp_path / "pets", train=5, dev=0)
    rows = tuple((path,) for path, _ in image_rows(place))
    split = Split(rows, np.arange(len(rows)), root=place)
    one = preprocessor(tmp_path)
    held = one.encode(split, max_length=8)
    monkeypatch.setattr(module, "_MOST_IN_MEMORY", 100)
    filed = one.encode(split, max_length=8)
    assert isinstance(filed.pixels, np.memmap)
    assert np.array_equal(filed.pixels, held.pixels)
    places = np.array([3, 0, 3])
    some = filed.take(places)
    assert np.array_equal(some.pixels, held.pixels[places])
    assert some.labels.tolist() == [3, 0, 3]
    both = some.followed_by([held.without_labels()])
    assert len(both) == 13
    assert both.labelled.tolist() == [True] * 3 + [False] * 10
    (values,) = both.feeds(np.array([0, 4])).values()
    assert (values.dtype, values.shape) == (np.float32, (2, 3, 8, 8))
    assert len(both.with_labels()) == 3


def test_rows_refuse_a_model_of_another_size():
    rule = ImageRule((8, 8), 2, None, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    rows = EncodedImages(np.zeros((1, 8, 8, 3), np.uint8), rule, 17, np.zeros(1, np.int64))
    vit = {"model_type": "vit", "image_size": 16, "patch_size": 2}
    assert str(rows.refusal("the teacher `t`", vit)).endswith(
        "reads images of 16 x 16 pixels, the rows have 8 x 8"
    )
    assert rows.refusal("it", {**vit, "image_size": 8}) is None
    assert rows.refusal("it", {**vit, "model_type": "dinov2"}) is None
    assert "reads no images" in str(rows.refusal("it", {"model_type": "bert"}))


def test_samples_have_the_spectrum_of_photographs():
    pixels = sample_images(32, 64, 64)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 64, 64, 3))
    assert np.array_equal(pixels, sample_images(32, 64, 64))
    spectrum = np.abs(np.fft.fft2(pixels.mean(axis=3) - pixels.mean()))
    low, high = (spectrum[:, 0, place].mean() for place in (2, 16))
    assert 4 < low / high < 16, "amplitudes fall as 1 / f: 8 between these two"
