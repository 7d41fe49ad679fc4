"""Numbers far from 0 or of another size than 1: learned in a unit of their own, answered in the targets' own everywhere."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.hf import write_hf
from maskpack.formats import (
    ArtifactError,
    ConfigError,
    DataError,
    ModelError,
    open_artifact,
    pack_task,
    unpack_task,
)
from maskpack.formats.target import FEATURE, TargetScale
from maskpack.models.build import last_of_head
from maskpack.models.load import load_finetuned
from maskpack.runtime import Session
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import restore_task
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.evaluate import assess, predict_split
from maskpack.tasks.task import TASKS, Kind, find_task
from maskpack.tasks.types import TASK_TYPES

NUMBERS = TASK_TYPES["regression"]
PRICE = find_task("price", text_field="text", label_field="price", kind=Kind.REGRESSION)
DEAR, CHEAP = "good good good good film", "bad bad bad bad film"


def table_of(unit: float, start: float) -> str:
    """Texts with 0 to 4 good words, and a number that counts them."""
    rng = np.random.default_rng(0)
    lines = ["text,price"]
    for row in range(120):
        good = row % 5
        words = (
            ["good"] * good
            + ["bad"] * (4 - good)
            + ["film", str(rng.choice(["the", "was", "story"]))]
        )
        lines.append(f"{' '.join(words)},{start + unit * good}")
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """A table of prices between 100,000 and 155,000."""
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    path.write_text(table_of(13_750, 100_000))
    return path


@pytest.fixture(scope="module")
def learn(prices, quick, tmp_path_factory):
    """A function: the artifact of a task learned from those prices, or another table, over a model."""

    def call(model, *, data=prices, **options):
        out = tmp_path_factory.mktemp("learned") / "artifact"
        config = quick(**{"steps": 120, "head_lr": 0.01, **options})
        result = fit_task(FitRequest(str(model), PRICE, out, config, data=data))
        return open_artifact(out), result

    return call


@pytest.fixture(scope="module")
def learned(learn, tiny_model):
    """The artifact and the result of a run on the prices."""
    return learn(tiny_model)


@pytest.fixture(scope="module")
def tuned(prices, tiny_model, tmp_path_factory):
    """Folder of a plain model that was fine-tuned on the prices, and its result."""
    out = tmp_path_factory.mktemp("tuned") / "tuned"
    config = BaselineConfig(
        steps=80, batch_size=16, max_length=16, precision="fp32", lr=2e-3, head_lr=5e-3
    )
    return out, run_baseline(BaselineRequest(str(tiny_model), PRICE, config, out, data=prices))


def answers(folder, *texts):
    return [one.score for one in Session(folder).predict(list(texts), batch_size=1)]


def exported(artifact, folder, compute="fp32"):
    request = ExportRequest(
        artifact.path, "price", folder / compute, compute, Tolerance.of(compute)
    )
    return folder / compute, export_onnx(request)


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        (np.linspace(0, 5, 100), False),  # as stsb
        (np.linspace(1, 5, 100), False),  # stars
        (np.linspace(0, 1, 100), False),
        (np.linspace(-1, 1, 100), False),
        (np.linspace(1e5, 1.55e5, 100), True),
        (np.linspace(1990, 2020, 100), True),
        (np.linspace(0, 100, 100), True),
        (np.linspace(0, 1e-4, 100), True),
        (np.full(10, 7.0), True),
    ],
)
def test_targets_of_usual_size_are_learned_as_they_are(values, scaled):
    labels = values.astype(np.float32)
    target = NUMBERS.target_scale(labels)
    assert (target is not None) is scaled
    if target is not None:
        standard = target.standard(labels)
        assert abs(float(standard.mean())) < 1e-3
        assert float(standard.std()) == pytest.approx(1, abs=1e-3) or np.ptp(labels) == 0
        assert (np.float32(target.mean), np.float32(target.scale)) == (target.mean, target.scale)
    assert TASK_TYPES["classification"].target_scale(np.arange(100_000)) is None


def test_prices_are_learned_and_measured_in_their_own_unit(learned):
    artifact, result = learned
    assert result.scores["pearson"] > 0.8
    assert result.scores["rmse"] < 0.6 * result.majority["rmse"]
    assert result.scores["mae"] < 15_000
    entry = artifact.entry("price")
    assert entry.requires == (FEATURE,)
    mean, scale = entry.config["target"]["mean"], entry.config["target"]["scale"]
    assert 120_000 < mean < 135_000
    assert 17_000 < scale < 22_000
    assert all(np.abs(part).max() < 100 for part in artifact.patch("price").head.values())


def test_every_way_to_ask_answers_in_the_targets_unit(learned, prices, tmp_path):
    artifact, result = learned
    logits = predict_split(artifact, "price", data=prices).logits
    assert 90_000 < logits.min() < logits.max() < 165_000
    found = assess(artifact, "price", data=prices)
    assert found.scores == pytest.approx(dict(result.scores))
    assert found.same_data
    folder, report = exported(artifact, tmp_path)
    assert report.ok, report.findings
    dear, cheap = answers(folder, DEAR, CHEAP)
    assert 100_000 < cheap + 10_000 < dear < 165_000
    tokens = {
        "input_ids": np.array([[2, 5, 5, 5, 5, 16, 3]]),
        "attention_mask": np.ones((1, 7), np.int64),
        "token_type_ids": np.zeros((1, 7), np.int64),
    }
    torch_says = torch_predict(restore_task(artifact, "price"))(tokens)
    write_hf(artifact, "price", tmp_path / "hf")
    plain = torch_predict(load_finetuned(str(tmp_path / "hf")))(tokens)
    assert np.array_equal(plain, torch_says)
    assert 90_000 < float(plain[0, 0]) < 165_000


@pytest.mark.parametrize("compute", ["int8", "nbits", "fp16"])
def test_a_graph_that_rounds_is_compared_in_the_heads_unit(learned, tmp_path, compute):
    _, report = exported(learned[0], tmp_path, compute)
    assert report.ok, report.findings
    assert (
        max(check.max_diff for check in report.values) < 5
    )  # of standard deviations, not of money
    strict = replace(Tolerance.of(compute), rtol=1e-6)
    request = ExportRequest(learned[0].path, "price", tmp_path / "strict", compute, strict)
    assert not export_onnx(request).ok  # whatever is far from 0 agrees in all but the last digits


def test_a_packed_task_takes_its_scale_along(learned, learn, tiny_model, tmp_path):
    artifact, _ = learned
    other, _ = learn(tiny_model, steps=2)
    unpack_task(other.path, pack_task(artifact, "price"), name="again")
    assert open_artifact(other.path).entry("again").config == artifact.entry("price").config


def test_numbers_near_0_are_learned_as_before(learn, tiny_model, write):
    artifact, result = learn(tiny_model, data=write("stars.csv", table_of(1, 0)), steps=3)
    entry = artifact.entry("price")
    assert (entry.requires, entry.config) == ((), {})
    assert set(result.scores) == {"spearman", "pearson"}
    assert "requires" not in (artifact.path / "maskpack.json").read_text()
    assert set(assess(artifact, "price", data=write("stars.csv", table_of(1, 0))).scores) > set(
        result.scores
    )
    assert TASKS["stsb"].metrics == ("spearman", "pearson")


def test_a_baseline_is_a_plain_model_in_the_targets_unit(tuned):
    folder, result = tuned
    assert result.scores["rmse"] < 0.7 * result.majority["rmse"]
    assert float(last_of_head(load_finetuned(str(folder))).bias.detach()) > 50_000


def test_a_head_that_answers_in_the_targets_unit_starts_there(tuned, learn):
    _, result = learn(tuned[0], steps=1, lr=1e-9, head_lr=1e-9, bits=8)
    assert result.original["rmse"] == pytest.approx(tuned[1].scores["rmse"], rel=1e-3)
    assert result.scores["rmse"] < 2 * result.original["rmse"] + 2_000


@pytest.mark.parametrize("teacher", ["folder", "twin"])
def test_a_teacher_teaches_in_the_targets_unit(tuned, learn, tiny_model, caplog, teacher):
    caplog.set_level(logging.INFO)
    named = str(tuned[0]) if teacher == "folder" else "twin"
    _, result = learn(tiny_model, teacher=named, teacher_share=1.0, teacher_states=0.0)
    assert result.scores["rmse"] < result.majority["rmse"]


def test_the_loss_is_that_of_targets_of_usual_size():
    rng = np.random.default_rng(3)
    labels = rng.normal(127_000, 15_000, 40).astype(np.float32)
    target = NUMBERS.target_scale(labels)
    rows, said = np.arange(40), rng.normal(size=(40, 1)).astype(np.float32)
    taught = rng.normal(size=(40, 1)).astype(np.float32)
    targets = DistillationTargets(target.natural(taught), 0.25, 1.0)
    found = TaskLoss(NUMBERS, labels, targets)(torch.from_numpy(target.natural(said)), rows)
    plain = TaskLoss(NUMBERS, target.standard(labels), replace(targets, logits=taught))
    torch.testing.assert_close(found, plain(torch.from_numpy(said), rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "kind",
    ["gpt2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("xlnet", "modernbert"))],
)
def test_a_head_without_a_bias_answers_in_the_targets_unit_too(
    family_models, learn, tmp_path, kind
):
    artifact, _ = learn(family_models(kind), steps=20)
    folder, report = exported(artifact, tmp_path)
    assert report.ok, report.findings
    assert all(50_000 < value < 200_000 for value in answers(folder, DEAR, CHEAP))
    if kind == "gpt2":
        with pytest.raises(
            ModelError, match="the head of `gpt2` has no bias, and the targets a mean of 12"
        ):
            write_hf(artifact, "price", tmp_path / "hf")
    else:
        write_hf(artifact, "price", tmp_path / "hf")


def test_a_plain_model_without_a_bias_is_refused_before_its_training(
    family_models, prices, tmp_path
):
    request = BaselineRequest(
        str(family_models("gpt2")),
        PRICE,
        BaselineConfig(steps=1, max_length=16),
        tmp_path / "out",
        data=prices,
    )

    def watch(_):
        pytest.fail("a step was taken")

    with pytest.raises(ModelError, match="a plain model cannot hold it"):
        run_baseline(request, on_progress=watch)
    assert not (tmp_path / "out").exists()


def test_an_error_is_no_main_metric():
    with pytest.raises(ConfigError, match="`rmse` is smaller where a task is better") as caught:
        PRICE.with_metric("rmse")
    assert caught.value.hint.startswith("`spearman` can")


def test_a_number_that_float32_does_not_hold_is_named_by_its_row(write):
    path = write("a.csv", "text,price\none,1\ntwo,1e39\n")
    with pytest.raises(
        DataError, match="data row 2 of .* has `1e39`, a number too large for float32"
    ):
        load_data(PRICE, data=path)


def test_answers_that_hardly_differ_are_warned_of(learn, tiny_model, write, caplog):
    rows = [f"good film,{100_000 + 500 * row}" for row in range(60)]
    artifact, _ = learn(tiny_model, data=write("a.csv", "\n".join(["text,price", *rows])), steps=2)
    told = [record.getMessage() for record in caplog.records]
    (warning,) = [
        one for one in told if one.startswith("answers are nearly constant: they vary by 0,")
    ]
    assert warning.endswith("; train longer, or with a larger `head_lr`")
    caplog.clear()
    assess(artifact, "price", data=write("a.csv", "\n".join(["text,price", *rows])))
    assert "nearly constant" in caplog.text
    labels = np.linspace(0, 5, 50)
    assert NUMBERS.nearly_constant(np.full((50, 1), 0.86) + labels[:, None] / 1e3, labels) == (
        "answers are nearly constant: they vary by 0.00147, the targets by 1.47"
    )
    assert NUMBERS.nearly_constant(labels[:, None], labels) is None
    assert TASK_TYPES["classification"].nearly_constant(np.zeros((50, 2)), np.zeros(50)) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["classification", "regression", "multi-label"])
def test_a_loss_that_is_no_number_stops_the_run(
    tiny_model, write, quick, tmp_path, kind, precision
):
    rows = [f"good film {i},{i % 2}" for i in range(24)]
    task = find_task("mine", text_field="text", label_field="y", kind=kind)
    config = quick(head_lr=1e38, lr=1e38, warmup=0.0, precision=precision)
    path = write("a.csv", "\n".join(["text,y", *rows]))
    with pytest.raises(
        ModelError, match=r"training diverged: the loss of step \d+ is (nan|inf)"
    ) as caught:
        fit_task(
            FitRequest(str(tiny_model), task, tmp_path / "out", config, data=path, eval_data=path)
        )
    assert "lower `lr` or `head_lr`" in caught.value.hint
    assert not (tmp_path / "out").exists()
    steps = BaselineConfig(
        steps=9, batch_size=8, max_length=16, lr=1e38, head_lr=1e38, precision=precision
    )
    with pytest.raises(ModelError, match="training diverged"):
        run_baseline(BaselineRequest(str(tiny_model), task, steps, data=path, eval_data=path))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target": 1},
        {"target": {"mean": 1.0}},
        {"target": {"mean": 1.0, "scale": 0.0}},
        {"target": {"mean": "1", "scale": 1.0}},
        {"target": {"mean": 1e39, "scale": 1.0}},
        {"target": {"mean": 1.0, "scale": -2.0}},
        {"target": {"mean": True, "scale": 1.0}},
    ],
)
def test_a_scale_that_is_none_is_refused(learned, config):
    entry = learned[0].entry("price")
    with pytest.raises(ArtifactError, match="target"):
        replace(entry, config=config)
    assert TargetScale.of(replace(entry, requires=(), config=config)) is None
    with pytest.raises(ArtifactError, match="has labels, and a scale"):
        replace(entry, labels=("a", "b"))


def test_the_manifest_is_read_again_as_it_was_written(learned):
    tree = json.loads((learned[0].path / "maskpack.json").read_text())["tasks"]["price"]
    target = TargetScale.of(learned[0].entry("price"))
    assert tree["config"] == {"target": {"mean": target.mean, "scale": target.scale}}
    assert tree["requires"] == ["target-scale"]
