from __future__ import annotations

import shutil

import numpy as np
import pytest

from maskpack.compressor import fit_task
from maskpack.formats import open_artifact
from maskpack.tasks.evaluation import evaluate


@pytest.mark.parametrize("bits", [2, 1])
@pytest.mark.parametrize("refine", [0, 4])
@pytest.mark.parametrize("estimator", ["threshold", "bernoulli"])
def test_few_bits_are_learned_on_stored_and_scored_as_stored(
    bits, refine, estimator, request_for, sentiment
):
    extra = {"sparsity": 0.1} if estimator == "bernoulli" else {}
    request = request_for(
        bits=bits, refine=refine, estimator=estimator, margin=0.8, train_scales=True, **extra
    )
    result = fit_task(request)
    artifact = open_artifact(request.out)
    assert result.bits == artifact.manifest.scheme.bits == bits
    assert all(t.zero_free and t.bits == bits for t in artifact.backbone.linears.values())
    levels = {2: {-3, -1, 1, 3}, 1: {-1, 1}}[bits]
    found = np.concatenate([t.codes.ravel() for t in artifact.backbone.linears.values()])
    assert set(np.unique(found).tolist()) == levels
    for tensor in artifact.backbone.embeddings.values():
        assert (tensor.bits, tensor.zero_free) == (8, False)
    own = artifact.patch("sst2").over(artifact.backbone)
    zeros = sum(int((tensor.codes == 0).sum()) for tensor in own.linears.values())
    assert zeros == result.zeros  # every zero is the mask's work
    assert evaluate.assess(artifact, "sst2", data=sentiment).scores == result.scores


@pytest.mark.parametrize("bits", [2, 1])
def test_fewer_bits_make_a_smaller_backbone_with_the_same_bytes_each_time(
    bits, request_for, snapshot
):
    options = {"bits": bits, "refine": 3, "bits_override": {"encoder.layer.0.*": 4}}
    first, second = request_for("one", **options), request_for("two", **options)
    result = fit_task(first)
    fit_task(second)
    assert snapshot(first.out) == snapshot(second.out)
    wide = fit_task(request_for("wide", bits=8))
    assert result.backbone_bytes < wide.backbone_bytes
    widths = {name: t.bits for name, t in open_artifact(first.out).backbone.linears.items()}
    assert {widths[name] for name in widths if ".layer.0." in name} == {4}
    assert {widths[name] for name in widths if ".layer.0." not in name} == {bits}


def test_a_second_task_is_learned_on_the_stored_codes(request_for, tmp_path):
    request = request_for(bits=1, refine=2)
    fit_task(request)
    before = (request.out / "backbone.safetensors").read_bytes()
    shutil.copytree(request.out, tmp_path / "copy")
    fit_task(request_for(bits=1, refine=2, name="again"))
    assert (request.out / "backbone.safetensors").read_bytes() == before
    patches = [open_artifact(request.out).patch(name) for name in ("sst2", "again")]
    for name, mask in patches[0].masks.items():
        assert np.array_equal(mask.packed, patches[1].masks[name].packed)
