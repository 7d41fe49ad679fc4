"""Data sets through the package `datasets`, from local folders: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskpack.formats import DataError
from maskpack.tasks.data.splits import load_data, load_dev
from maskpack.tasks.task import Kind, find_task

OWN = find_task("mine", text_field="text", label_field="label")


@pytest.fixture(autouse=True)
def datasets(tmp_path_factory, monkeypatch):
    """The package, imported by the first test that runs here."""
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    return package


@pytest.fixture
def hub(tmp_path, datasets):
    """A function: splits as a folder that `datasets` loads, and its place as `--data` has it."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["yes", "no", "maybe"]),
        }
    )

    def put(saved=False, features=features, **splits) -> Path:
        made = {
            name: datasets.Dataset.from_dict(columns, features=features)
            for name, columns in splits.items()
        }
        if saved:
            datasets.DatasetDict(made).save_to_disk(str(tmp_path / "set"))
        else:
            (tmp_path / "set").mkdir()
            for name, rows in made.items():
                rows.to_parquet(str(tmp_path / "set" / f"{name}.parquet"))
        return Path(f"hub:{tmp_path / 'set'}")

    return put


TRAIN = {"text": ["one", "two", "three"], "label": [1, 0, 0]}
DEV = {"text": ["four", "five"], "label": [0, 1]}


@pytest.mark.parametrize("saved", [False, True], ids=["files", "saved"])
def test_a_data_set_keeps_its_splits_and_the_names_and_order_of_its_classes(hub, saved):
    place = hub(saved, train=TRAIN, validation=DEV)
    data = load_data(OWN, data=place)
    assert data.labels == ("yes", "no", "maybe")
    assert (data.train.texts[0], data.train.labels.tolist()) == (("one",), [1, 0, 0])
    assert (data.dev.labels.tolist(), data.held_out) == ([0, 1], None)
    assert load_dev(OWN, data.labels, data=place).sha256() == data.dev.sha256()


def test_a_data_set_of_one_split_has_rows_held_out(hub):
    rows = {"text": [f"t{i}" for i in range(40)], "label": [i % 3 for i in range(40)]}
    place = hub(train=rows)
    data = load_data(OWN, data=place)
    assert (len(data.train), len(data.dev), data.held_out.rows) == (36, 4, 4)
    assert load_dev(OWN, data.labels, data=place).sha256() == data.dev.sha256()


def test_lists_of_classes_are_several_labels_a_row(hub, datasets):
    names = datasets.ClassLabel(names=["red", "blue"])
    kinds = {"text": datasets.Value("string"), "label": datasets.Sequence(names)}
    columns = {"text": ["one", "two"], "label": [[1, 0], []]}
    place = hub(features=datasets.Features(kinds), train=columns, test=columns)
    task = find_task("mine", text_field="text", label_field="label", kind=Kind.MULTI_LABEL)
    data = load_data(task, data=place)
    assert data.labels == ("red", "blue")
    assert data.train.labels.tolist() == [[1, 1], [0, 0]]


def test_a_missing_column_is_named_with_the_nearest(hub):
    task = find_task("mine", text_field="txt", label_field="label")
    with pytest.raises(DataError, match="has no column `txt`") as caught:
        load_data(task, data=hub(train=TRAIN, test=DEV))
    assert caught.value.hint.startswith("did you mean `text`?")


def test_a_missing_text_is_named_with_its_row(hub):
    with pytest.raises(DataError, match="row 2 of `hub:.*` has null in `text`"):
        load_data(OWN, data=hub(train={"text": ["one", None], "label": [0, 1]}, test=DEV))


def test_a_data_set_that_is_not_there_becomes_our_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot load `.*nowhere` \(small\) from the Hub"):
        load_data(OWN, data=Path(f"hub:{tmp_path}/nowhere:small"))
