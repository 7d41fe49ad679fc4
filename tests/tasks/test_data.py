from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from maskpack.formats import DataError, MissingPackageError
from maskpack.tasks.data.splits import load_data, load_dev
from maskpack.tasks.task import TASKS, Kind, find_task

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
OWN = find_task("mine", text_field="text", label_field="label")


def tsv(*rows: str) -> str:
    """Lines with `|` for the tabs."""
    return "".join(row.replace("|", "\t") + "\n" for row in rows)


# Task -> files as GLUE ships them, both rows of the training split, their labels.
GLUE = {
    "sst2": (
        {"train.tsv": tsv("sentence|label", 'a "fine" film |1', "a dull one |0")},
        [('a "fine" film ',), ("a dull one ",)],
        [1, 0],
    ),
    "cola": (
        {"train.tsv": tsv("gj04|1||Bill slept.", "bc01|0|*|Slept Bill the.")},
        [("Bill slept.",), ("Slept Bill the.",)],
        [1, 0],
    ),
    "mrpc": (
        {
            "train.tsv": "\ufeff"
            + tsv(
                "Quality|#1 ID|#2 ID|#1 String|#2 String", "1|7|8|One.|Two.", "0|9|5|Three.|Four."
            )
        },
        [("One.", "Two."), ("Three.", "Four.")],
        [1, 0],
    ),
    "rte": (
        {
            "train.tsv": tsv(
                "index|sentence1|sentence2|label",
                "0|It rained.|Wet.|entailment",
                "1|A.|B.|not_entailment",
            )
        },
        [("It rained.", "Wet."), ("A.", "B.")],
        [0, 1],
    ),
    "qnli": (
        {
            "train.tsv": tsv(
                "index|question|sentence|label",
                "0|Who?|Ann.|entailment",
                "1|When?|Ann.|not_entailment",
            )
        },
        [("Who?", "Ann."), ("When?", "Ann.")],
        [0, 1],
    ),
    "wnli": (
        {
            "train.tsv": tsv(
                "index|sentence1|sentence2|label", "0|It fits.|The bag fits.|1", "1|A.|B.|0"
            )
        },
        [("It fits.", "The bag fits."), ("A.", "B.")],
        [1, 0],
    ),
    "stsb": (
        {
            "train.tsv": tsv(
                "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2|score",
                "0|news|MSRvid|2012|1|none|none|A plane.|A jet.|5.000",
                "1|news|MSRvid|2012|4|none|none|A man.|A cat.|0.25",
            )
        },
        [("A plane.", "A jet."), ("A man.", "A cat.")],
        [5.0, 0.25],
    ),
    "qqp": (
        {
            "train.tsv": tsv(
                "id|qid1|qid2|question1|question2|is_duplicate",
                "0|1|2|Why?|How come?|1",
                "1|3|4|A?|B?|0",
            )
        },
        [("Why?", "How come?"), ("A?", "B?")],
        [1, 0],
    ),
    "mnli": (
        {
            "train.tsv": tsv(
                "index|promptID|pairID|genre|sentence1_parse|sentence2_parse|sentence1|sentence2|label1|gold_label",
                "0|1|1n|slate|(A)|(B)|It rained.|It was dry.|neutral|contradiction",
                "1|2|2e|slate|(A)|(B)|It rained.|It was wet.|neutral|entailment",
            ),
            "dev_matched.tsv": tsv(
                "index|pairID|sentence1|sentence2|label1|label2|gold_label",
                "0|9|A.|B.|neutral|entailment|neutral",
            ),
            "dev_mismatched.tsv": "never read",
        },
        [("It rained.", "It was dry."), ("It rained.", "It was wet.")],
        [2, 0],
    ),
}


@pytest.mark.parametrize("name", GLUE)
def test_the_layout_of_each_glue_task_is_read_as_it_ships(name, write):
    files, texts, labels = GLUE[name]
    folder = write("train.tsv", "").parent
    files = {"dev.tsv": files["train.tsv"], **files} if name != "mnli" else files
    for file, content in files.items():
        write(file, content)
    data = load_data(find_task(name), data=folder)
    assert list(data.train.texts) == texts
    assert data.train.labels.tolist() == labels
    assert data.train.labels.dtype == ("f4" if name == "stsb" else "i8")
    if name == "mnli":
        assert (data.dev.texts, data.dev.labels.tolist()) == ((("A.", "B."),), [1])
    else:
        assert data.dev.sha256() == data.train.sha256()


@pytest.mark.parametrize(
    ("name", "labels", "outputs"),
    [
        ("sst2", ("negative", "positive"), 2),
        ("rte", ("entailment", "not_entailment"), 2),
        ("mnli", ("entailment", "neutral", "contradiction"), 3),
        ("stsb", (), 1),
    ],
)
def test_label_names_stand_in_the_order_of_the_logits(name, labels, outputs, write):
    for file, content in {"dev.tsv": GLUE[name][0]["train.tsv"], **GLUE[name][0]}.items():
        folder = write(file, content).parent
    data = load_data(find_task(name), data=folder)
    assert (data.labels, data.outputs) == (labels, outputs)


def test_mrpc_is_read_as_microsoft_ships_it(write):
    content = GLUE["mrpc"][0]["train.tsv"]
    write("msr_paraphrase_test.txt", content)
    data = load_data(find_task("mrpc"), data=write("msr_paraphrase_train.txt", content).parent)
    assert (len(data.train), len(data.dev)) == (2, 2)


@pytest.mark.parametrize(
    ("folder", "task", "rows"),
    [
        ("SST-2", "sst2", (67_349, 872)),
        ("CoLA", "cola", (8_551, 1_043)),
        ("WNLI", "wnli", (635, 71)),
    ],
)
def test_the_original_files_of_glue_have_their_published_row_counts(folder, task, rows):
    if not (REAL / folder).is_dir():
        pytest.skip(f"no copy of {folder} beside the checkout")
    data = load_data(find_task(task), data=REAL / folder)
    assert (len(data.train), len(data.dev)) == rows
    assert set(data.train.labels.tolist()) == {0, 1}


@pytest.mark.parametrize(("name", "train", "dev"), [("tickets", 60, 20), ("reviews", 160, 50)])
def test_a_sample_task_loads_with_as_many_rows_of_each_label(name, train, dev):
    data = load_data(find_task(name))
    for split, rows in ((data.train, train), (data.dev, dev)):
        assert Counter(split.labels.tolist()) == dict.fromkeys(range(len(data.labels)), rows)
        assert len(set(split.texts)) == len(split)
    assert not set(data.train.texts) & set(data.dev.texts)


def test_labels_of_own_data_are_sorted_as_words_or_by_value(write):
    words = write("words.tsv", tsv("text|label", *(f"t|{x}" for x in ("no", "yes", "maybe"))))
    data = load_data(OWN, data=words, eval_data=words)
    assert data.labels == ("maybe", "no", "yes")
    assert data.train.labels.tolist() == [1, 2, 0]
    numbers = write("numbers.tsv", tsv("text|label", *(f"t|{x}" for x in (10, -1, 9, 10))))
    data = load_data(OWN, data=numbers, eval_data=numbers)
    assert data.labels == ("-1", "9", "10")
    assert data.train.labels.tolist() == [2, 0, 1, 2]


def test_a_folder_may_hold_json_lines_and_call_its_evaluation_split_validation(write):
    lines = [json.dumps({"text": f"t{i}", "label": i % 2}) for i in range(4)]
    write("validation.jsonl", "\n".join(lines[:2]))
    data = load_data(OWN, data=write("train.jsonl", "\n".join(lines)).parent)
    assert (len(data.train), len(data.dev)) == (4, 2)


def test_an_evaluation_file_of_its_own_wins_over_the_folder_and_the_hold_out(write):
    rows = tsv("text|label", *(f"t{i}|{i % 2}" for i in range(20)))
    own = write("elsewhere/own.tsv", tsv("text|label", "mine|1"))
    write("dev.tsv", rows)
    train = write("train.tsv", rows)
    for place in (train, train.parent):
        data = load_data(OWN, data=place, eval_data=own)
        assert len(data.train) == 20
        assert data.dev.texts == (("mine",),)


def test_a_single_file_holds_out_a_tenth_that_is_disjoint_and_always_the_same(write):
    path = write("all.tsv", tsv("text|label", *(f"t{i}|{i % 2}" for i in range(57))))
    np.random.seed(1)  # noqa: NPY002 - it must not matter
    first = load_data(OWN, data=path)
    np.random.seed(2)  # noqa: NPY002
    again = load_data(OWN, data=path)
    assert (len(first.train), len(first.dev)) == (52, 5)
    assert not set(first.train.texts) & set(first.dev.texts)
    assert {*first.train.texts, *first.dev.texts} == {(f"t{i}",) for i in range(57)}
    assert first.train.sha256() == again.train.sha256()
    assert first.dev.sha256() == again.dev.sha256()


def test_the_rows_held_out_of_a_single_file_can_be_read_again(write):
    path = write("all.tsv", tsv("text|label", *(f"t{i}|{i % 3}" for i in range(57))))
    data = load_data(OWN, data=path)
    wanted = data.dev.sha256()
    assert load_dev(OWN, data.labels, data=path, sha256=wanted).sha256() == wanted
    assert len(load_dev(OWN, data.labels, data=path)) == 57
    assert len(load_dev(OWN, data.labels, data=path, sha256="of other rows")) == 57


def test_a_file_is_read_once_whichever_of_its_rows_are_meant(write, caplog):
    path = write("all.tsv", tsv("text|label", *(f"t{i}|{i % 3}" for i in range(57))))
    data = load_data(OWN, data=path)
    with caplog.at_level(logging.DEBUG, "maskpack.tasks.data.tables"):
        assert len(load_dev(OWN, data.labels, data=path, sha256=data.dev.sha256())) == 5
    assert caplog.messages == [f"reading `{path}`"]


def test_a_subset_of_the_training_rows_is_the_same_for_every_run(write):
    path = write("all.tsv", tsv("text|label", *(f"t{i}|{i % 2}" for i in range(50))))
    data = load_data(OWN, data=path)
    np.random.seed(1)  # noqa: NPY002 - it must not matter
    subset = data.limit_train(10)
    np.random.seed(2)  # noqa: NPY002
    assert subset.train.sha256() == data.limit_train(10).train.sha256()
    places = [data.train.texts.index(text) for text in subset.train.texts]
    assert len(places) == 10
    assert places == sorted(places)
    assert places != list(range(10))
    assert subset.train.labels.tolist() == data.train.labels[places].tolist()
    assert subset.dev is data.dev


@pytest.mark.parametrize("rows", [None, 45, 1000])
def test_a_limit_beyond_the_rows_changes_nothing(write, rows):
    path = write("all.tsv", tsv("text|label", *(f"t{i}|{i % 2}" for i in range(50))))
    data = load_data(OWN, data=path)
    assert data.limit_train(rows) is data


def test_the_digest_of_a_split_depends_on_texts_labels_and_order(write):
    def digest(*rows: str) -> str:
        path = write("all.tsv", tsv("text|label", *rows))
        return load_data(OWN, data=path, eval_data=path).train.sha256()

    digests = {
        digest("a|0", "b|1"),
        digest("b|1", "a|0"),
        digest("a|1", "b|0"),
        digest("a|0", "c|1"),
    }
    assert len(digests) == 4
    assert digest("a|0", "b|1") in digests


def test_an_unknown_label_is_named_with_its_row_and_the_known_ones(write):
    write("dev.tsv", tsv("sentence|label", "a|1", "b|2"))
    folder = write("train.tsv", tsv("sentence|label", "a|1", "b|0")).parent
    with pytest.raises(
        DataError, match="data row 2 of the evaluation split of `sst2` has the unknown label `2`"
    ) as caught:
        load_data(find_task("sst2"), data=folder)
    assert caught.value.hint == "labels: 0, 1"


def test_a_label_that_only_the_evaluation_split_knows_is_refused(write):
    train = write("train.tsv", tsv("text|label", "a|yes", "b|no"))
    dev = write("dev.tsv", tsv("text|label", "a|maybe"))
    with pytest.raises(DataError, match="data row 1 of the evaluation split .* label `maybe`"):
        load_data(OWN, data=train, eval_data=dev)


@pytest.mark.parametrize("value", ["high", "", "nan", "inf"])
def test_a_value_that_is_no_number_is_named_with_its_row(write, value):
    rows = write("r.tsv", tsv("text|y|end", "a|1.5|", f"b|{value}|"))
    task = find_task("mine", text_field="text", label_field="y", kind=Kind.REGRESSION)
    with pytest.raises(DataError, match=rf"data row 2 of `.*r\.tsv` has `{value}`, not"):
        load_data(task, data=rows, eval_data=rows)


def test_one_label_only_is_refused(write):
    rows = write("one.tsv", tsv("text|label", "a|yes", "b|yes"))
    with pytest.raises(DataError, match="column `label` holds one label only: yes"):
        load_data(OWN, data=rows, eval_data=rows)


@pytest.mark.parametrize("empty", ["training", "evaluation"])
def test_an_empty_split_is_refused_by_name(write, empty):
    full, none = tsv("text|label", "a|yes", "b|no"), tsv("text|label")
    write("train.tsv", none if empty == "training" else full)
    folder = write("dev.tsv", none if empty == "evaluation" else full).parent
    with pytest.raises(DataError, match=f"the {empty} split of `mine` is empty in"):
        load_data(OWN, data=folder)


def test_a_file_too_short_to_hold_rows_out_has_an_empty_evaluation_split(write):
    with pytest.raises(DataError, match="the evaluation split of `mine` is empty"):
        load_data(OWN, data=write("few.tsv", tsv("text|label", "a|yes", "b|no")))


def test_a_place_that_does_not_exist_is_refused_with_a_hint(tmp_path):
    with pytest.raises(DataError, match="no such file or folder: .*nowhere") as caught:
        load_data(OWN, data=tmp_path / "nowhere")
    assert "`data`" in caught.value.hint


@pytest.mark.parametrize(("present", "missing"), [("train.tsv", "dev"), ("dev.tsv", "train")])
def test_a_folder_that_lacks_a_split_is_refused_with_what_was_looked_for(write, present, missing):
    folder = write(present, tsv("text|label", "a|yes", "b|no")).parent
    with pytest.raises(DataError, match=f"has no file `{missing}`") as caught:
        load_data(OWN, data=folder)
    assert missing in caught.value.hint


def test_the_evaluation_split_alone_is_read_with_labels_already_fixed(write):
    folder = write("dev.tsv", tsv("text|label", "a|yes", "b|yes")).parent
    split = load_dev(OWN, ("no", "yes", "unsure"), data=folder)
    assert split.labels.tolist() == [1, 1]
    assert load_dev(OWN, ("yes", "no"), data=folder / "dev.tsv").labels.tolist() == [0, 0]
    with pytest.raises(DataError, match="unknown label `yes`"):
        load_dev(OWN, ("no", "never"), data=folder)


def test_the_evaluation_split_alone_is_that_of_the_whole_task():
    for name in ("tickets", "reviews"):
        data = load_data(find_task(name))
        assert load_dev(find_task(name), data.labels).sha256() == data.dev.sha256()


def test_an_empty_evaluation_file_is_refused(write):
    with pytest.raises(DataError, match="the evaluation split of `mine` is empty"):
        load_dev(OWN, ("no", "yes"), data=write("dev.tsv", tsv("text|label")))


def test_a_task_without_data_of_its_own_asks_for_it():
    with pytest.raises(DataError, match="task `mine` has no data of its own") as caught:
        load_data(OWN)
    assert "`data`" in caught.value.hint


def test_the_hub_without_its_package_gives_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import of it fails
    with pytest.raises(MissingPackageError, match="needs the package datasets") as caught:
        load_data(find_task("rte"))
    assert caught.value.hint == 'pip install "maskpack[data]"'


HUB = {  # columns as the Hub has them: integers for classes, in the order of the logits
    "rte": ({"sentence1": ["A.", "B."], "sentence2": ["C.", "D."], "label": [1, 0]}, [1, 0]),
    "mnli": ({"premise": ["A.", "B."], "hypothesis": ["C.", "D."], "label": [2, 1]}, [2, 1]),
    "cola": ({"sentence": ["A.", "B."], "label": [0, 1], "idx": [0, 1]}, [0, 1]),
    "stsb": ({"sentence1": ["A.", "B."], "sentence2": ["C.", "D."], "label": [4.5, 0.0]}, [4.5, 0]),
}


@pytest.mark.parametrize("name", HUB)
def test_rows_from_the_hub_have_the_labels_that_files_give(name, monkeypatch):
    columns, labels = HUB[name]
    asked = []

    def load_dataset(path, config):
        asked.append((path, config))
        return {"train": columns, TASKS[name].hub.dev: columns}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = load_data(find_task(name))
    assert asked == [("nyu-mll/glue", name)]
    assert data.train.labels.tolist() == labels
    assert data.dev.sha256() == data.train.sha256()
    assert data.train.texts[0] == (("A.", "C.") if len(TASKS[name].texts) == 2 else ("A.",))
    assert load_dev(find_task(name), data.labels).sha256() == data.dev.sha256()


@pytest.mark.parametrize(
    "error", [OSError("no route"), ValueError("no such set"), KeyError("train")]
)
def test_a_hub_that_fails_becomes_our_error(monkeypatch, error):
    def load_dataset(path, config):
        raise error

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(
        DataError, match=r"cannot load `nyu-mll/glue` \(cola\) from the Hub"
    ) as caught:
        load_data(find_task("cola"))
    assert "`data`" in caught.value.hint
