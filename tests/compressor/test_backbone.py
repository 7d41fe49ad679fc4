"""A backbone before any task: its shape from a configuration, its artifact, baselines that start there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from maskpack.compressor import fit
from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.baseline import run_baseline
from maskpack.compressor.config import BaselineConfig, FitConfig
from maskpack.compressor.quantization.backbone import load_or_quantize, make_backbone
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.compressor.types import BaselineRequest, FitRequest
from maskpack.formats import ArtifactError, ConfigError, check_artifact
from maskpack.models.build import (
    build_classifier,
    head_parameters,
    parameter_shapes,
)
from maskpack.models.load import load_pretrained
from maskpack.tasks.context import described
from maskpack.tasks.task import find_task
from maskpack.tasks.types import TASK_TYPES


def test_a_shape_names_what_a_backbone_holds(tiny_models):
    for path in tiny_models.values():
        pretrained = load_pretrained(str(path))
        backbone = quantize_model(pretrained.model, scheme_of(BackboneConfig(bits=4)))
        config = described(
            pretrained.files["config.json"], TASK_TYPES["classification"], ("a", "b")
        )
        shape = parameter_shapes(config)
        assert shape.linears == {name: t.shape for name, t in backbone.linears.items()}
        assert shape.dense == {name: value.size for name, value in backbone.dense.items()}
        head = head_parameters(build_classifier(backbone, config, seed=0))
        assert shape.head_bytes == sum(2 * parameter.numel() for parameter in head.values())


def test_a_backbone_alone_is_a_sound_artifact_that_fits_learn_on(tiny_model, tmp_path):
    config = BackboneConfig(bits=2, group=16, refine=2)
    artifact = make_backbone(str(tiny_model), tmp_path / "a", config)
    assert artifact.manifest.tasks == {}
    assert check_artifact(tmp_path / "a") == []
    assert artifact.manifest.scheme.quantizer == "mse, refined"
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", FitConfig(bits=2))
    prepared = load_or_quantize(request)
    for name, tensor in artifact.backbone.linears.items():
        np.testing.assert_array_equal(prepared.backbone.linears[name].codes, tensor.codes)
    with pytest.raises(ArtifactError, match="already exists"):
        make_backbone(str(tiny_model), tmp_path / "a", config)


def test_a_baseline_starts_from_the_backbone_it_is_given(tiny_model, sentiment, tmp_path):
    backbone = BackboneConfig(bits=1, group=16, refine=2)
    make_backbone(str(tiny_model), tmp_path / "a", backbone)
    config = BaselineConfig(
        method="head", bits=1, group=16, refine=2, steps=2, batch_size=8, max_length=16
    )

    def run(path):
        task = find_task("sst2")
        return run_baseline(
            BaselineRequest(str(tiny_model), task, config, data=sentiment, backbone=path)
        )

    shared, alone = run(tmp_path / "a"), run(None)
    assert shared.scores == alone.scores
    assert (shared.bits, shared.backbone_bytes) == (1, alone.backbone_bytes)


@pytest.mark.parametrize("options", [{"layers": "9"}, {"modules": "nothing"}, {"target_bytes": 5}])
def test_what_cannot_be_is_refused_before_anything_is_quantised(
    options, tiny_model, sentiment, tmp_path
):
    """The model has no weights: whoever loaded it to quantise it would say so."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    request = fit.FitRequest(
        str(model),
        find_task("sst2"),
        tmp_path / "a",
        FitConfig(bits=2, **options),
        data=sentiment,
    )
    with pytest.raises(ConfigError):
        fit.prepare(request)


def test_an_override_is_quantised_as_its_width_wants(tiny_model):
    base = load_pretrained(str(tiny_model)).model
    config = BackboneConfig(bits=8, bits_override={"*.layer.0.*": 2})
    linears = quantize_model(base, scheme_of(config)).linears
    for name, tensor in linears.items():
        assert tensor.zero_free == (".layer.0." in name)
        assert tensor.bits == (2 if ".layer.0." in name else 8)
