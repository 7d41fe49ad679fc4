from __future__ import annotations

import pytest

from maskpack.compressor.quantization.backbone import load_or_quantize
from maskpack.formats import ArtifactError, open_artifact
from maskpack.formats.codec import encode_backbone


def test_a_new_ground_and_that_of_an_artifact_cannot_be_told_apart(
    tiny_model, tiny_artifact, quick, tmp_path
):
    new = load_or_quantize(str(tiny_model), tmp_path / "nothing", quick())
    old = load_or_quantize(str(tiny_model), tiny_artifact, quick())
    assert encode_backbone(new.backbone) == encode_backbone(old.backbone)
    assert (new.source, new.scheme, new.longest) == (old.source, old.scheme, old.longest)
    assert dict(new.files) == dict(old.files)
    assert new.tokenizer.get_vocab() == old.tokenizer.get_vocab()
    assert new.artifact is None
    assert old.artifact.manifest == open_artifact(tiny_artifact).manifest


def test_its_size_is_that_of_the_file_it_becomes(tiny_model, tiny_artifact, quick):
    prepared = load_or_quantize(str(tiny_model), tiny_artifact, quick())
    assert prepared.backbone_bytes() == (tiny_artifact / "backbone.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("kind", "token_types", "longest"),
    [
        ("bert", True, 64),
        ("roberta", False, 65),
        ("electra", True, 64),
        ("distilbert", False, 64),
        ("albert", True, 64),
    ],
)
def test_a_ground_knows_what_its_encoder_reads(
    kind, token_types, longest, tiny_models, quick, tmp_path
):
    prepared = load_or_quantize(str(tiny_models[kind]), tmp_path / "a", quick())
    assert (prepared.token_types, prepared.longest) == (token_types, longest)


def test_a_group_asked_for_later_does_not_change_the_backbone(tiny_model, tiny_artifact, quick):
    prepared = load_or_quantize(str(tiny_model), tiny_artifact, quick(group=32))
    assert prepared.scheme.group == 16


def test_another_architecture_is_refused(tiny_models, tiny_artifact, quick):
    with pytest.raises(ArtifactError, match="was made from `bert` with other weights"):
        load_or_quantize(str(tiny_models["electra"]), tiny_artifact, quick())
