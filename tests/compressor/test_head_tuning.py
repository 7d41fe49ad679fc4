"""What changes the head after training: by hand, for every family, and from a run's options to its artifact."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.config import FitConfig
from maskpack.compressor.fit import fit_run, learn, prepare
from maskpack.compressor.training.head_tuning import divided
from maskpack.formats import ConfigError, Interrupted, ModelError, open_artifact
from maskpack.models.build import (
    LastLinear,
    classifier_config,
    head_parameters,
    last_linear,
    model_class,
)
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import restore_task
from maskpack.tasks.evaluation.calibration import SOFTMAX
from maskpack.tasks.task import Kind, find_task

COLUMNS = {"text_field": "text", "label_field": "label"}
FAMILIES = ("bert", "roberta", "electra", "albert", "distilbert", "deberta-v2", "modernbert")
FAMILIES += ("xlnet", "gpt2", "llama")
LAST = LastLinear("w", "b")
TEXTS = ("the film", "food was", "we this", "story it")


def noisy_rows(rows: int, seed: int) -> list[dict[str, str]]:
    """Two labels; a word says which in 85 % of the rows."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        word = ("bad", "good")[(row % 2) ^ int(rng.random() < 0.15)]
        filler = f"word{rng.integers(18)} word{rng.integers(18)} word{rng.integers(18)}"
        found.append({"text": f"{filler} {word}", "label": ("no", "yes")[row % 2]})
    return found


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Folder with such rows."""
    folder = tmp_path_factory.mktemp("noisy")
    for name, rows, seed in (("train", 300, 0), ("dev", 200, 1)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, noisy_rows(rows, seed))))
    return folder


@pytest.fixture
def noisy_request(noisy, tiny_model, quick, tmp_path):
    """A function: a request to learn them, for so short a time that the model is not sure enough."""

    def make(out: str, **options):
        usual = {"steps": 150, "head_lr": 1e-2, "margin": 0.5, "dropout": 0.0, "train_norm": True}
        task = find_task("noisy", **COLUMNS)
        return FitRequest(
            str(tiny_model),
            task,
            tmp_path / out,
            quick(**{**usual, **options}),
            data=noisy / "train.jsonl",
            eval_data=noisy / "dev.jsonl",
        )

    return make


def half(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float16)


def test_a_divided_head_is_rounded_to_float16_and_the_rest_of_it_stays():
    head = {"dense.weight": half(1.0), "w": half(1.0, 3.0), "b": half(-6.0)}
    found = divided(head, LAST, 3.0)
    assert found["w"].tolist() == half(1.0 / 3.0, 1.0).tolist()
    assert found["b"].tolist() == [-2.0]
    assert found["dense.weight"] is head["dense.weight"]
    assert all(value.dtype == np.float16 for value in found.values())
    assert divided({"w": half(4.0)}, LastLinear("w", None), 2.0)["w"].tolist() == [2.0]
    with pytest.raises(ModelError, match="`w` of the tuned head does not fit"):
        divided({"w": half(60_000.0)}, LastLinear("w", None), 0.5)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("outputs", [3, 32])  # 32 is the hidden size: other linears have it too
def test_the_last_linear_of_every_family_gives_the_logits(kind, outputs, family_models):
    base = AutoConfig.from_pretrained(family_models(kind))
    base.pad_token_id = 0
    config = classifier_config(
        base.to_json_string(use_diff=False).encode(),
        [f"l{i}" for i in range(outputs)],
        problem_type="single_label_classification",
        auto_class="AutoModelForSequenceClassification",
    )
    torch.manual_seed(0)
    model = model_class(config)._from_config(config).eval()
    last = last_linear(model)
    ids = torch.tensor([[2, 6, 7, 3], [2, 16, 17, 3]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for name in filter(None, (last.weight, last.bias)):
            head_parameters(model)[name].div_(4.0)
        assert torch.equal(model(input_ids=ids).logits, before / 4.0)
    assert (last.bias is None) == (kind in {"gpt2", "llama"})


def test_probabilities_of_a_run_that_is_not_sure_enough_fit_better(noisy_request):
    request = noisy_request("tuned", calibrate="temperature")
    run = prepare(request)
    assert (len(run.train), len(run.held_out)) == (270, 30)
    untuned = learn(run, on_progress=lambda _: None).patch
    result = fit_run(run)
    effect = result.tuning.temperature
    assert effect.temperature < 0.8
    assert effect.nll_after < effect.nll_before
    assert effect.ece_after < effect.ece_before
    artifact = open_artifact(request.out)
    patch = artifact.patch("noisy")
    for name, value in untuned.head.items():
        wanted = value.astype("f8") / effect.temperature
        if name not in {run.shapes.last.weight, run.shapes.last.bias}:
            wanted = value
        np.testing.assert_array_equal(patch.head[name], wanted.astype("f2"))
    for name, mask in untuned.masks.items():
        assert np.array_equal(mask.packed, patch.masks[name].packed)
    logits = predict_all(torch_predict(restore_task(artifact, "noisy")), run.dev)
    assert SOFTMAX.nll(logits, run.dev.labels) == pytest.approx(effect.nll_after, rel=1e-6)
    tree = json.loads(result.to_json())
    assert tree["tuning"]["temperature"]["temperature"] == effect.temperature
    assert tree["tuning"]["rows"] == 30
    assert artifact.entry("noisy").training["tuning"] == {
        "held_out_rows": 30,
        "temperature": effect.temperature,
    }


def test_answers_stay_the_same(noisy_request):
    result = fit_task(noisy_request("tuned", calibrate="temperature"))
    changed = result.tuning.temperature.changed
    assert changed == 0  # none of these rows is a tie within the rounding
    assert result.scores == result.tuning.scores_before


def test_a_stopped_run_is_tuned_as_one_that_was_not(noisy_request, stop_at, snapshot):
    options = {"calibrate": "temperature", "checkpoint_every": 7, "steps": 40}
    whole, broken = (noisy_request(out, **options) for out in ("w", "b"))
    fit_task(whole)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(30))
    torch.manual_seed(77)
    fit_task(replace(broken, resume=True))
    assert snapshot(broken.out) == snapshot(whole.out)


def test_held_out_rows_without_an_error_leave_the_temperature_at_1(
    quick, tiny_model, write, caplog
):
    lines = [f"word{row % 18} {('bad', 'good')[row % 2]},{row % 2}" for row in range(240)]
    data = write("easy.csv", "\n".join(["text,label", *lines, ""]))
    config = quick(steps=150, head_lr=1e-2, margin=0.5, calibrate="temperature")
    task = find_task("easy", **COLUMNS)
    result = fit_task(FitRequest(str(tiny_model), task, data.parent / "a", config, data=data))
    assert result.tuning.temperature.temperature == 1.0
    assert result.tuning.temperature.nll_after == result.tuning.temperature.nll_before
    assert "have no best temperature between 0.1 and 10" in caplog.text


def test_too_few_rows_are_refused_with_numbers(request_for):
    message = "`calibrate` needs 20 held-out rows, a tenth of the 96 training rows is 9"
    with pytest.raises(ConfigError, match=message) as caught:
        fit_task(request_for(calibrate="temperature"))
    assert "give 200 training rows or more" in str(caught.value.hint)


def test_a_number_has_no_temperature(noisy_request, write):
    numbers = write("numbers.csv", "text,label\n" + "the film,1.5\nfood,2.5\n" * 200)
    task = find_task("numbers", kind=Kind.REGRESSION, **COLUMNS)
    request = replace(noisy_request("a", calibrate="temperature"), task=task, data=numbers)
    with pytest.raises(ConfigError, match="`calibrate` fits probabilities, and `numbers` is a"):
        fit_task(replace(request, eval_data=None))


def test_without_the_option_nothing_is_held_out_and_records_are_as_before(noisy_request):
    run = prepare(noisy_request("a"))
    assert run.held_out is None
    assert not {"calibrate"} & FitConfig().record().keys()
    assert FitConfig(calibrate="temperature").record()["calibrate"] == "temperature"
