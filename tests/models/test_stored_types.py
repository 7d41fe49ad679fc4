"""Types in which checkpoints store their weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from maskpack.formats import ModelError
from maskpack.models.load import load_pretrained
from maskpack.models.mapped import give_back, weights_of
from maskpack.models.stored import stored_type

FILE = "model.safetensors"


@pytest.fixture
def folder(tiny_models, tmp_path):
    """A tiny model that may be changed."""
    shutil.copytree(tiny_models["bert"], tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, change):
    weights = load_file(folder / FILE)
    save_file({n: change(n, w) for n, w in weights.items()}, folder / FILE, {"format": "pt"})


def types_of(pretrained):
    return {parameter.dtype for parameter in pretrained.model.parameters()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_half_type_is_kept_and_its_values_are_those_of_float32(folder, dtype):
    rewrite(folder, lambda _, weight: weight.to(dtype))
    assert stored_type(str(folder), revision=None) == dtype
    half = load_pretrained(str(folder))
    assert types_of(half) == {dtype}
    rewrite(folder, lambda _, weight: weight.float())
    whole = load_pretrained(str(folder))
    assert types_of(whole) == {torch.float32}
    assert half.weights_sha256() == whole.weights_sha256()
    for (name, one), (other, two) in zip(
        weights_of(half.model), weights_of(whole.model), strict=True
    ):
        assert name == other
        assert one.dtype == two.dtype == torch.float32
        assert torch.equal(one, two)


def test_the_shards_of_an_index_tell_too(folder):
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(
        folder, max_shard_size="20KB"
    )
    (folder / FILE).unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert stored_type(str(folder), revision=None) == torch.bfloat16
    assert types_of(load_pretrained(str(folder))) == {torch.bfloat16}


def test_several_types_are_read_as_float32(folder):
    rewrite(folder, lambda name, weight: weight.half() if "0" in name else weight.bfloat16())
    assert stored_type(str(folder), revision=None) == torch.float32
    assert types_of(load_pretrained(str(folder))) == {torch.float32}


def test_a_pickle_tells_nothing(folder):
    torch.save({n: w.half() for n, w in load_file(folder / FILE).items()}, folder / "x.bin")
    (folder / FILE).unlink()
    (folder / "x.bin").rename(folder / "pytorch_model.bin")
    assert stored_type(str(folder), revision=None) == torch.float32
    assert types_of(load_pretrained(str(folder))) == {torch.float32}


@pytest.mark.parametrize("content", [b"", b"{", json.dumps({"weight_map": 3}).encode()])
def test_a_broken_index_is_left_to_whoever_loads_it(folder, content):
    (folder / FILE).unlink()
    (folder / f"{FILE}.index.json").write_bytes(content)
    assert stored_type(str(folder), revision=None) == torch.float32


def test_weights_without_a_pooler_keep_their_type(folder):
    weights = {n: w for n, w in load_file(folder / FILE).items() if not n.startswith("pooler")}
    digests = []
    for kind in (torch.float32, torch.bfloat16):
        halves = {n: w.bfloat16().to(kind) for n, w in weights.items()}
        save_file(halves, folder / FILE, {"format": "pt"})
        pretrained = load_pretrained(str(folder))
        assert types_of(pretrained) == {kind}
        digests.append(pretrained.weights_sha256())
    assert digests[0] == digests[1]


def test_new_embeddings_are_made_in_float32(folder):
    rewrite(folder, lambda _, weight: weight.bfloat16())
    assert types_of(load_pretrained(str(folder), resize_embeddings=True)) == {torch.float32}


def test_a_value_that_is_not_finite_is_refused_in_a_half_type_too(folder):
    def spoil(name, weight):
        weight = weight.bfloat16()
        if name.endswith("layer.1.output.dense.weight"):
            weight[1, 2] = float("nan")
        return weight

    rewrite(folder, spoil)
    with pytest.raises(ModelError, match=r"layer\.1\.output\.dense\.weight.* not finite"):
        load_pretrained(str(folder))


def test_pages_that_are_given_back_can_be_read_again(tmp_path):
    save_file({"a": torch.arange(2**20).float()}, tmp_path / "file")
    mapped, own = load_file(tmp_path / "file")["a"], torch.arange(2**20).float()
    for tensor in (mapped, own, mapped[::2]):
        before = tensor.clone()
        give_back(tensor)
        assert torch.equal(tensor, before)
