from __future__ import annotations

import pytest

from maskpack.formats import ConfigError
from maskpack.formats.schema import check_task_name
from maskpack.tasks.task import TASKS, Kind, Task, find_task

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")


def test_all_nine_glue_tasks_and_four_samples_are_known_by_name():
    assert sorted(TASKS) == sorted([*GLUE, "help", "orders", "reviews", "tickets"])
    assert all(find_task(name).name == name for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_name_itself_in_an_artifact_and_says_what_it_is(name):
    assert check_task_name(name) == name
    assert TASKS[name].summary


@pytest.mark.parametrize("name", GLUE)
def test_every_glue_task_lies_on_the_hub_with_as_many_texts_as_in_its_files(name):
    task = TASKS[name]
    assert task.hub.path == "nyu-mll/glue"
    assert task.hub.config == name
    assert len(task.hub.texts) == len(task.texts)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("cola", "matthews"),
        ("mrpc", "f1"),
        ("qqp", "f1"),
        ("stsb", "spearman"),
        ("sst2", "accuracy"),
    ],
)
def test_a_glue_task_is_judged_by_the_metric_of_glue(name, metric):
    assert TASKS[name].metric == metric


def test_shown_labels_are_as_many_as_the_raw_ones():
    for task in TASKS.values():
        assert len(task.labels) in {0, len(task.raw_labels)}


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no task `sst-2`") as caught:
        find_task("sst-2")
    assert "sst2" in caught.value.hint
    assert "text_field" in caught.value.hint


@pytest.mark.parametrize("fields", [{"text_field": "a"}, {"label_field": "b"}, {"pair_field": "c"}])
def test_own_data_needs_both_a_text_and_a_label_column(fields):
    with pytest.raises(ConfigError, match="both a text field and a label field"):
        find_task("mine", **fields)


def test_own_data_of_one_text_is_judged_by_accuracy_first():
    task = find_task("mine", text_field="body", label_field="queue")
    assert (task.texts, task.label, task.kind) == (("body",), "queue", Kind.CLASSIFICATION)
    assert task.metrics == ("accuracy", "macro_f1", "matthews")


def test_own_data_of_numbers_is_judged_by_correlation():
    task = find_task("mine", text_field="a", pair_field="b", label_field="y", kind=Kind.REGRESSION)
    assert task.texts == ("a", "b")
    assert task.metrics == ("spearman", "pearson")


def test_the_metric_that_is_asked_for_comes_first_and_only_once():
    fields = {"text_field": "a", "label_field": "b"}
    others = ("accuracy", "macro_f1", "matthews")
    assert find_task("mine", **fields, metric="f1").metrics == ("f1", *others)
    told = find_task("mine", **fields, metric="matthews").metrics
    assert told == ("matthews", "accuracy", "macro_f1")


def test_a_known_task_is_judged_by_the_metric_that_is_asked_for():
    assert find_task("sst2", metric="macro_f1").metrics == ("macro_f1", "accuracy", "matthews")
    assert find_task("sst2", metric="accuracy") is TASKS["sst2"]


def test_several_labels_a_row_are_judged_by_micro_f1():
    fields = {"text_field": "a", "label_field": "b"}
    task = find_task("mine", **fields, kind=Kind.MULTI_LABEL, separator="|")
    assert (task.metrics, task.separator) == (("micro_f1", "macro_f1", "accuracy"), "|")


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        (Kind.CLASSIFICATION, "pearson"),
        (Kind.REGRESSION, "accuracy"),
        (Kind.MULTI_LABEL, "matthews"),
    ],
)
def test_a_metric_of_another_kind_is_refused_with_those_that_fit(kind, metric):
    with pytest.raises(ConfigError, match=f"`{metric}` is no metric of a {kind} task") as caught:
        find_task("mine", text_field="a", label_field="b", kind=kind, metric=metric)
    assert metric not in caught.value.hint


def test_a_separator_is_for_several_labels_a_row():
    with pytest.raises(ConfigError, match="a label separator needs"):
        Task("odd", separator=",")
    with pytest.raises(ConfigError, match="a label separator needs"):
        Task("odd", kind=Kind.MULTI_LABEL, metrics=("micro_f1",), separator="")


def test_a_known_task_keeps_its_kind():
    with pytest.raises(ConfigError, match="`sst2` is a classification task"):
        find_task("sst2", kind=Kind.MULTI_LABEL)


def test_the_nearest_known_task_is_offered():
    with pytest.raises(ConfigError) as caught:
        find_task("tickts")
    assert caught.value.hint.startswith("did you mean `tickets`? known: ")


def test_own_columns_under_a_known_name_replace_the_known_ones():
    task = find_task("sst2", text_field="body", label_field="stars")
    assert (task.texts, task.label, task.raw_labels) == (("body",), "stars", ())


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no metric `auc`") as caught:
        find_task("mine", text_field="a", label_field="b", metric="auc")
    assert "spearman" in caught.value.hint


@pytest.mark.parametrize("texts", [(), ("a", "b", "c")])
def test_a_task_has_one_or_two_texts(texts):
    with pytest.raises(ConfigError, match=f"has {len(texts)} text columns"):
        Task("odd", texts=texts)
