"""Sessions and their timing."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from maskpack.exporters import make_session, ort_predict
from maskpack.exporters.bench.reference import dense_graph
from maskpack.exporters.session import interleaved, session_facts, speedup, take_turns, token_feeds
from maskpack.formats import ExportError


class Clock:
    """Time that passes only while a session runs or somebody rests; only runs are work."""

    def __init__(self):
        self.now = self.worked = 0.0
        self.log = []

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.worked

    def sleep(self, seconds):
        self.now += seconds
        self.log.append("rest")


class Scripted:
    """A session whose runs take the times it is told."""

    def __init__(self, name, clock, durations):
        self.name, self.clock, self.durations = name, clock, iter(durations)
        self.feeds = []

    def get_inputs(self):
        return [SimpleNamespace(name="input_ids"), SimpleNamespace(name="attention_mask")]

    def run(self, _, feeds):
        self.clock.log.append(self.name)
        duration = next(self.durations)
        self.clock.now += duration
        self.clock.worked += duration / 2  # the other half went to somebody else
        self.feeds.append(feeds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("perf_counter", "process_time", "sleep"):
        monkeypatch.setattr(time, name, getattr(clock, name))
    return clock


def test_every_session_gets_the_median_of_its_own_runs_without_the_warm_up(clock):
    warm_up = [100.0, 100.0, 100.0]
    sessions = {
        "slow": Scripted("slow", clock, [*warm_up, 0.009, 0.005, 0.004, 0.006, 0.5]),
        "fast": Scripted("fast", clock, [*warm_up, 0.001, 0.002, 0.003, 0.002, 0.001]),
    }
    found = interleaved(sessions, batch=1, length=4, runs=5)
    assert found == {"slow": pytest.approx(6.0), "fast": pytest.approx(2.0)}


def turns(clock, durations, **options):
    """Sessions called by letters whose runs take these times."""
    sessions = {name: Scripted(name, clock, spent) for name, spent in durations.items()}
    return take_turns(sessions, {name: {} for name in sessions}, **options)


def test_each_round_has_an_order_of_its_own_and_no_session_runs_twice_in_a_row(clock):
    turns(clock, {name: [0.001] * 43 for name in "abc"}, runs=40)
    rounds = {tuple(clock.log[at : at + 3]) for at in range(0, len(clock.log), 3)}
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(rounds) == 6
    assert all(before != after for before, after in itertools.pairwise(clock.log))


def test_runs_of_one_round_lie_side_by_side_by_both_clocks(clock):
    warm_up = [9.0] * 3
    found = turns(clock, {"a": [*warm_up, 0.004, 0.002], "b": [*warm_up, 0.001, 0.003]}, runs=2)
    assert found["a"].wall == pytest.approx([4.0, 2.0])
    assert found["b"].wall == pytest.approx([1.0, 3.0])
    assert found["b"].cpu == pytest.approx([0.5, 1.5])


def test_no_round_begins_when_the_time_is_up_but_there_are_three(clock):
    assert len(turns(clock, {"a": [1.0] * 99}, runs=90, seconds=8.5)["a"].wall) == 6
    assert len(turns(clock, {"a": [1.0] * 99}, runs=90, seconds=0.1)["a"].wall) == 3
    assert len(turns(clock, {"a": [1.0] * 99}, runs=2, seconds=0.1)["a"].wall) == 2


def test_a_rest_before_a_run_is_not_in_its_time(clock):
    found = turns(clock, {"a": [0.001] * 5}, runs=2, pause=0.5)
    assert clock.log == ["rest", "a"] * 5
    assert found["a"].wall == pytest.approx([1.0, 1.0])


def test_a_speed_up_is_the_median_of_one_ratio_a_round():
    # as medians: 10 / 4 = 2.5; in each round but one: 2
    assert speedup([4.0, 10.0, 80.0], [2.0, 4.0, 40.0]) == 2.0


def test_all_sessions_see_the_same_unpadded_tokens(clock):
    sessions = {name: Scripted(name, clock, [0.001] * 4) for name in "ab"}
    interleaved(sessions, batch=3, length=17, runs=1)
    left, right = (session.feeds[-1] for session in sessions.values())
    assert left.keys() == right.keys() == {"input_ids", "attention_mask"}
    np.testing.assert_array_equal(left["input_ids"], right["input_ids"])
    assert left["input_ids"].shape == (3, 17)
    assert left["attention_mask"].all()


def test_feeds_are_made_for_the_inputs_a_session_names(exported):
    bert, roberta = (make_session(exported(k, "int8").graph) for k in ("bert", "roberta"))
    assert list(token_feeds(bert, batch=1, length=8)) == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert list(token_feeds(roberta, batch=1, length=8)) == ["input_ids", "attention_mask"]


def test_the_dense_graph_is_the_float_model_itself(tiny_models, tokens, tmp_path):
    from maskpack.models.load import load_classifier
    from maskpack.tasks.batches import torch_predict

    model = load_classifier(str(tiny_models["distilbert"]), outputs=3)
    model.save_pretrained(tmp_path)
    session = make_session(dense_graph(str(tmp_path)))
    feeds = tokens(["input_ids", "attention_mask"], 3, 11, padded=True)
    found = ort_predict(session)(feeds)
    np.testing.assert_allclose(found, torch_predict(model)(feeds), rtol=0, atol=1e-5)


def test_a_session_states_its_settings(exported):
    facts = session_facts(make_session(exported("bert", "int8").graph, threads=1))
    import onnxruntime

    assert facts == {
        "onnxruntime": onnxruntime.__version__,
        "providers": "CPUExecutionProvider",
        "graph_optimization_level": "ORT_ENABLE_ALL",
        "intra_op_num_threads": "1",
    }


def test_a_predictor_reads_only_the_inputs_that_its_graph_names(exported, tokens):
    graph = ort_predict(make_session(exported("roberta", "int8").graph))
    feeds = tokens(["input_ids", "attention_mask", "token_type_ids"], 2, 9)
    assert graph(feeds).shape == (2, 2)


def test_an_input_that_the_graph_cannot_take_is_an_error_that_names_its_shape(exported, tokens):
    graph = ort_predict(make_session(exported("roberta", "int8").graph))
    with pytest.raises(ExportError, match=r"fails on an input of \(2, 500\)") as error:
        graph(tokens(["input_ids", "attention_mask"], 2, 500))  # 65 positions
    assert "\n" not in str(error.value)
