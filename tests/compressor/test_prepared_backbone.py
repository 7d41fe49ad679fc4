from __future__ import annotations

import pytest

from maskpack.compressor.quantization.backbone import load_or_quantize
from maskpack.compressor.types import FitRequest
from maskpack.formats import ArtifactError, open_artifact
from maskpack.formats.codec import encode_backbone
from maskpack.tasks import find_task


def prepared(model, out, config):
    request = FitRequest(str(model), find_task("sst2"), out, config)
    return load_or_quantize(request)


def test_a_new_ground_and_that_of_an_artifact_cannot_be_told_apart(
    tiny_model, tiny_artifact, quick, tmp_path
):
    new = prepared(tiny_model, tmp_path / "nothing", quick())
    old = prepared(tiny_model, tiny_artifact, quick())
    assert encode_backbone(new.backbone) == encode_backbone(old.backbone)
    assert (new.source, new.scheme) == (old.source, old.scheme)
    assert new.context.longest == old.context.longest
    assert dict(new.context.files) == dict(old.context.files)
    first, second = (each.context.preprocessor() for each in (new, old))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    assert first.token_types == second.token_types
    assert new.artifact is None
    assert old.artifact.manifest == open_artifact(tiny_artifact).manifest


def test_its_size_is_that_of_the_file_it_becomes(tiny_model, tiny_artifact, quick):
    old = prepared(tiny_model, tiny_artifact, quick())
    assert old.backbone_bytes() == (tiny_artifact / "backbone.safetensors").stat().st_size


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
    context = prepared(tiny_models[kind], tmp_path / "a", quick()).context
    assert (context.preprocessor().token_types, context.longest) == (token_types, longest)


def test_a_group_asked_for_later_does_not_change_the_backbone(tiny_model, tiny_artifact, quick):
    old = prepared(tiny_model, tiny_artifact, quick(group=32))
    assert old.scheme.group == 16


def test_another_architecture_is_refused(tiny_models, tiny_artifact, quick):
    with pytest.raises(ArtifactError, match="was made from `bert` with other weights"):
        prepared(tiny_models["electra"], tiny_artifact, quick())
