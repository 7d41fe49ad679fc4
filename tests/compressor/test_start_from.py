"""A task goes on from the mask and head of another, or of its own earlier self."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import fit_task
from maskpack.compressor.fit import loss_of, masked_model_of
from maskpack.compressor.prepare import prepare
from maskpack.formats import ArtifactError, ConfigError, open_artifact
from maskpack.models.build import head_parameters

IDLE = {"margin": 50.0, "head_lr": 1e-12, "dense_lr": 1e-12}  # no score travels so far


def patches(out, *names):
    artifact = open_artifact(out)
    return [artifact.patch(name) for name in names]


def test_a_run_that_changes_nothing_ends_where_it_started(request_for):
    parts = {"train_bias": True, "train_norm": True, "train_scales": True, "margin": 0.4}
    first = request_for(name="first", **parts)
    fit_task(first)
    again = request_for(name="again", steps=2, **{**parts, **IDLE})
    result = fit_task(replace(again, start=(first.out, "first")))
    old, new = patches(first.out, "first", "again")
    assert old.count.zeros > 0
    for name, mask in old.masks.items():
        np.testing.assert_array_equal(new.masks[name].to_bool(), mask.to_bool())
    for part in ("head", "dense", "gains"):
        for name, value in getattr(old, part).items():
            np.testing.assert_allclose(getattr(new, part)[name], value, rtol=2e-3, atol=1e-6)
    artifact = open_artifact(first.out)
    assert result.scores == artifact.entry("first").scores
    assert artifact.entry("again").data["started_from"] == "first"


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.2},
        {"estimator": "fixed", "sparsity": 0.2},
        {"estimator": "topk", "sparsity": 0.4, "init": "soft-magnitude"},
        {"estimator": "movement", "sparsity": 0.4},
        {"pattern": "2:4", "sparsity": 0.5},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_where_weights_are_ranked_a_run_begins_at_the_mask_too(request_for, options):
    own = {"pattern": "2:4", "sparsity": 0.5, "seed": 3} if "pattern" in options else {}
    first = request_for(name="first", margin=0.3, **own)
    fit_task(first)
    again = replace(request_for(name="again", **options), start=(first.out, "first"))
    run = prepare(again, on_progress=lambda _: None)
    masked = masked_model_of(run, loss_of(run, None))
    for callback in masked.callbacks:
        callback.on_step_begin(0)
    (old,) = patches(first.out, "first")
    assert old.count.zeros > 0
    for name, layer in masked.layers.items():
        np.testing.assert_array_equal(layer.keep().numpy(), old.masks[name].to_bool())


def test_a_removed_weight_can_return(request_for):
    first = request_for(name="first", margin=0.3)
    fit_task(first)
    again = request_for(name="again", margin=0.3, seed=3)
    fit_task(replace(again, start=(first.out, "first")))
    old, new = patches(first.out, "first", "again")
    back = sum(
        int((~mask.to_bool() & new.masks[name].to_bool()).sum()) for name, mask in old.masks.items()
    )
    gone = sum(
        int((mask.to_bool() & ~new.masks[name].to_bool()).sum()) for name, mask in old.masks.items()
    )
    assert back > 0
    assert gone > 0


def test_a_task_replaces_itself(request_for):
    first = request_for()
    fit_task(first)
    more = request_for(steps=3, replacing=True)
    fit_task(replace(more, start=(first.out, "sst2")))
    assert open_artifact(first.out).entry("sst2").data["started_from"] == "sst2"


def test_another_task_is_no_start(request_for, tmp_path):
    first = request_for()
    fit_task(first)
    rows = tmp_path / "other.tsv"
    rows.write_text("sentence\tlabel\n" + "it was fine\tx\nit was bad\ty\nso so\tz\n" * 20)
    from maskpack.tasks import find_task

    other = find_task("own", text_field="sentence", label_field="label")
    request = replace(request_for(name="own"), task=other, data=rows, start=(first.out, "sst2"))
    with pytest.raises(ConfigError, match="`sst2` is a classification of negative, positive"):
        fit_task(request)
    with pytest.raises(ArtifactError, match="nope"):
        fit_task(replace(request, start=(first.out, "nope")))


@pytest.fixture
def domain(request_for, tmp_path, quick):
    """An artifact with the mask of a domain, learned from texts without labels, and a request of a classifier over it."""
    from maskpack.tasks import find_task

    rows = tmp_path / "domain.txt"
    words = ("good", "film", "was", "great", "the", "story", "sad", "food")
    lines = (" ".join(words[(row + place) % 8] for place in range(9)) for row in range(80))
    rows.write_text("\n".join(lines) + "\n")
    own = request_for(name="domain")
    task = find_task("domain", text_field="text", kind="fill-mask")
    first = replace(own, task=task, data=rows, config=quick(margin=0.2, max_length=16))
    fit_task(first)
    return first


def test_a_task_starts_from_the_mask_of_a_domain(domain, request_for):
    """With its own head, whose labels have nothing to do with the domain's."""
    later = replace(request_for(name="later", **IDLE), start=(domain.out, "domain"))
    run = prepare(later)
    masked = masked_model_of(run, loss_of(run, None))
    zeros = open_artifact(domain.out).patch("domain").masks
    assert sum(int((~mask.to_bool()).sum()) for mask in zeros.values()) > 100
    for name, layer in masked.layers.items():
        kept = layer.keep().numpy()
        wanted = zeros[name].to_bool() if name in zeros else np.ones_like(kept)
        np.testing.assert_array_equal(kept, wanted)
    assert not any("pooler" in name for name in zeros), "what fills masks has no pooler"
    fit_task(later)
    artifact = open_artifact(domain.out)
    assert artifact.entry("later").kind == "classification"
    assert artifact.entry("later").data["started_from"] == "domain"
    new = artifact.patch("later")
    for name, mask in zeros.items():
        np.testing.assert_array_equal(new.masks[name].to_bool(), mask.to_bool())
    assert set(new.head) == set(head_parameters(run.classifier(0))), "the head is a classifier's"


def test_a_domain_goes_on_from_itself_with_its_head(domain):
    again = replace(domain, start=(domain.out, "domain"), replace=True)
    idle = replace(again, config=replace(again.config, steps=1, **IDLE))
    fit_task(idle)
    assert open_artifact(domain.out).entry("domain").data["started_from"] == "domain"


def test_a_classifier_is_no_start_of_a_domain(domain, request_for):
    fit_task(request_for(name="sst2"))
    with pytest.raises(ConfigError, match="`sst2` is a classification") as caught:
        fit_task(replace(domain, start=(domain.out, "sst2"), replace=True))
    assert caught.value.hint == "start from a task of the same labels, or of the type fill-mask"
