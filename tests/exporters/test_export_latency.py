"""Sessions and their timing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from maskpack.exporters import latency as timing
from maskpack.exporters import make_session, ort_predict
from maskpack.exporters.latency import dense_graph, interleaved, token_feeds
from maskpack.exporters.session import session_facts
from maskpack.formats import ExportError


class Clock:
    """Time that passes only while a session runs."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def perf_counter(self):
        return self.now


class Scripted:
    """A session whose runs take the times it is told."""

    def __init__(self, name, clock, durations):
        self.name, self.clock, self.durations = name, clock, iter(durations)
        self.feeds = []

    def get_inputs(self):
        return [SimpleNamespace(name="input_ids"), SimpleNamespace(name="attention_mask")]

    def run(self, _, feeds):
        self.clock.log.append(self.name)
        self.clock.now += next(self.durations)
        self.feeds.append(feeds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_every_session_gets_the_median_of_its_own_runs_without_the_warm_up(clock):
    warm_up = [100.0, 100.0, 100.0]
    sessions = {
        "slow": Scripted("slow", clock, [*warm_up, 0.009, 0.005, 0.004, 0.006, 0.5]),
        "fast": Scripted("fast", clock, [*warm_up, 0.001, 0.002, 0.003, 0.002, 0.001]),
    }
    found = interleaved(sessions, batch=1, length=4, runs=5)
    assert found == {"slow": pytest.approx(6.0), "fast": pytest.approx(2.0)}


def test_sessions_take_turns(clock):
    sessions = {name: Scripted(name, clock, [0.001] * 5) for name in "ab"}
    interleaved(sessions, batch=1, length=4, runs=2)
    assert clock.log == ["a", "b"] * 5


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
    from maskpack.compressor.hub import load_classifier
    from maskpack.compressor.predict import torch_predict

    model = load_classifier(str(tiny_models["distilbert"]), outputs=3)
    model.save_pretrained(tmp_path)
    session = make_session(dense_graph(tmp_path))
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
