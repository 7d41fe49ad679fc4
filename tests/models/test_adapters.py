"""Adapters of PEFT as MODEL: merged, with the head they were saved with."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import MissingPackageError, ModelError
from maskpack.models.load import load_classifier, load_finetuned, load_pretrained
from maskpack.tasks import find_task
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.pretrained_head import find_head

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # PEFT's own call
IDS = torch.tensor([[2, 5, 9, 14, 3]])


def adapt(base, folder, *, targets, head=True, outputs=2, **options):
    """Save a random adapter over a model; return the logits of the adapted model."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=outputs)
    task = "SEQ_CLS" if head else None
    options |= {"fan_in_fan_out": "c_attn" in targets, "init_lora_weights": False}
    config = peft.LoraConfig(task_type=task, target_modules=targets, **options)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    with torch.no_grad():
        return adapted(IDS).logits


@pytest.fixture
def adapter(tiny_model, tmp_path):
    folder = tmp_path / "adapter"
    logits = adapt(tiny_model, folder, targets=["query", "value"])
    assert not (folder / "config.json").exists(), "as PEFT saves it"
    return folder, logits


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("bert", ["query", "value"]),
        ("roberta", ["query"]),
        ("gpt2", ["c_attn"]),
        ("llama", ["q_proj"]),
    ],
)
@pytest.mark.parametrize("outputs", [2, 3])
def test_a_merged_adapter_computes_what_peft_does(family_models, tmp_path, kind, targets, outputs):
    base = family_models(kind)
    logits = adapt(base, tmp_path / "a", targets=targets, outputs=outputs)
    model = load_finetuned(str(tmp_path / "a")).eval()
    assert not any("lora" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, logits, atol=1e-4)


def test_an_adapter_is_another_encoder_than_its_base(adapter, tiny_model):
    folder, _ = adapter
    merged, base = load_pretrained(str(folder)), load_pretrained(str(tiny_model))
    assert merged.name == "adapter"
    assert merged.weights_sha256() != base.weights_sha256()
    assert json.loads(merged.files["config.json"])["model_type"] == "bert"


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_fresh_head_over_an_adapter_has_as_many_outputs_as_asked_for(adapter, outputs):
    model = load_classifier(str(adapter[0]), outputs=outputs)
    assert model(IDS).logits.shape == (1, outputs)
    wanted = load_pretrained(str(adapter[0])).model.encoder.layer[1].attention.self.query.weight
    assert torch.equal(model.bert.encoder.layer[1].attention.self.query.weight, wanted)


def test_an_adapter_of_the_encoder_alone_is_merged_without_a_head(tiny_model, tmp_path, sentiment):
    from transformers import AutoModel

    torch.manual_seed(3)
    config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModel.from_pretrained(tiny_model), config).eval()
    adapted.save_pretrained(tmp_path / "a")
    model = load_pretrained(str(tmp_path / "a")).model.eval()  # the tokenizer is that of the base
    with torch.no_grad():
        left, right = model(IDS).last_hidden_state, adapted(IDS).last_hidden_state
    assert torch.allclose(left, right, atol=1e-5)
    assert find_head(str(tmp_path / "a"), load_data(find_task("sst2"), data=sentiment)).head is None


@pytest.mark.parametrize("move", [False, True])
def test_the_base_may_be_named_relative_to_the_adapter(adapter, tiny_model, move):
    folder, logits = adapter
    tree = json.loads((folder / "adapter_config.json").read_text())
    if move:
        shutil.copytree(tiny_model, folder / "base")
        tree["base_model_name_or_path"] = "base"
        (folder / "adapter_config.json").write_text(json.dumps(tree))
    with torch.no_grad():
        assert torch.allclose(load_finetuned(str(folder))(IDS).logits, logits, atol=1e-4)


def test_a_checkpoint_of_an_adapter_is_found_in_the_folder_of_a_training(adapter, tmp_path):
    shutil.copytree(adapter[0], tmp_path / "run" / "checkpoint-7")
    assert load_finetuned(str(tmp_path / "run")).config.num_labels == 2


def test_a_fit_starts_from_the_head_of_an_adapter_and_an_adapter_teaches(
    adapter, sentiment, tmp_path, quick, caplog
):
    folder = str(adapter[0])
    with caplog.at_level("INFO"):
        result = fit_task(
            FitRequest(
                folder,
                find_task("sst2"),
                tmp_path / "out",
                quick(steps=2, teacher=folder),
                data=sentiment,
            )
        )
    assert any("brings a head" in message for message in caplog.messages)
    assert result.original is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_model_name_or_path": None}, "does not say of which model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "`/nowhere/at/all`, and there is no such"),
        ({"peft_type": "PROMPT_TUNING"}, "kind PROMPT_TUNING, which changes no weight"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(adapter, change, words):
    file = adapter[0] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=words) as caught:
        load_pretrained(str(adapter[0]))
    assert caught.value.hint


def test_an_adapter_of_another_model_is_refused(adapter, family_models):
    file = adapter[0] / "adapter_config.json"
    tree = json.loads(file.read_text()) | {
        "base_model_name_or_path": str(family_models("distilbert"))
    }
    file.write_text(json.dumps(tree))
    with pytest.raises(ModelError):
        load_pretrained(str(adapter[0]))


def test_an_adapter_beside_the_weights_of_a_whole_model_is_refused(adapter, tiny_model):
    shutil.copy(tiny_model / "model.safetensors", adapter[0])
    with pytest.raises(ModelError, match="an adapter and the weights of a whole model"):
        load_pretrained(str(adapter[0]))


def test_without_peft_the_extra_is_named(adapter, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackageError, match="needs the package peft") as caught:
        load_finetuned(str(adapter[0]))
    assert caught.value.hint == 'pip install "maskpack[lora]"'


def test_an_adapter_of_the_hub_is_fetched_and_merged(adapter, monkeypatch, tmp_path):
    from maskpack.models import hub_files

    folder, logits = adapter
    commit = tmp_path / "snapshots" / ("0" * 40)
    shutil.copytree(folder, commit)

    def cached(location, name, **_):
        assert location == "me/adapter-on-hub"
        return str(commit / name) if (commit / name).is_file() else None

    monkeypatch.setattr(hub_files, "cached_file", cached)
    with torch.no_grad():
        model = load_finetuned("me/adapter-on-hub").eval()
        assert torch.allclose(model(IDS).logits, logits, atol=1e-4)
