"""Outlier channels are divided before they are rounded, and their weights make up for it."""

from dataclasses import replace

import numpy as np
import pytest

from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.formats import BitMask, QuantTensor, create_artifact, open_artifact
from maskpack.formats.channels import channel_weights, divisor_of


def test_even_channels_are_left_alone():
    assert divisor_of(np.array([1.0, 1.5, 1.9, 1.2], np.float32)) is None


def test_a_dead_input_is_left_alone():
    assert divisor_of(np.zeros(4, np.float32)) is None


def test_an_outlier_is_divided_by_less_than_it_stands_out_and_the_others_by_nothing_less_than_1():
    divisor = divisor_of(np.array([1.0, 30.0, 0.5, 1.0, 1.0], np.float32))
    assert divisor[1] == pytest.approx(30**0.7, rel=1e-5)
    assert divisor[[0, 2, 3, 4]].tolist() == [1, 1, 1, 1]


def test_division_and_weights_cancel():
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 8)).astype(np.int8)
    tensor = QuantTensor(codes, rng.uniform(0.01, 0.02, (6, 1)).astype(np.float16), 8, 8)
    mask = BitMask.from_bool(rng.random((6, 8)) < 0.9)
    divisor = np.array([1, 1, 7, 1, 2, 1, 1, 1], np.float32)
    weights = channel_weights(mask.apply(tensor), divisor)
    found = (weights.codes.T * weights.scales[:, None]) / divisor
    step = weights.scales[:, None] / divisor
    assert (np.abs(found - mask.apply(tensor).dequantize()) <= step / 2 + 1e-6).all()
    assert not weights.codes.T[~mask.to_bool()].any()


@pytest.fixture
def outlier_artifact(tiny_artifact, tmp_path):
    """The tiny artifact with one channel of a LayerNorm forty times as loud."""
    old = open_artifact(tiny_artifact)
    name = "encoder.layer.0.attention.output.LayerNorm.weight"
    loud = old.backbone.dense[name].copy()
    loud[3] *= 40
    manifest, task = old.manifest, "sst2"
    files = {file: old.file(file) for file in manifest.files}
    backbone = replace(old.backbone, dense={**old.backbone.dense, name: loud})
    first = (old.entry(task), old.patch(task))
    path = tmp_path / "loud"
    create_artifact(
        path, backbone, source=manifest.source, scheme=manifest.scheme, files=files, first=first
    )
    return path


def test_a_loud_channel_no_longer_drowns_the_others(
    outlier_artifact, sentiment, tmp_path, monkeypatch
):
    tolerance = Tolerance(atol=None, max_drop=100.0)

    def relative(compute):
        request = ExportRequest(
            outlier_artifact, "sst2", tmp_path / compute, compute, tolerance, sentiment
        )
        return export_onnx(request).accuracy.relative

    monkeypatch.setitem(ARITHMETICS, "undivided", replace(ARITHMETICS["int8"], divides=False))
    assert relative("int8") < 0.8 * relative("undivided")
