"""Benchmarks of tasks that read images and of tasks that fill masks: what graphs get, and what their errors are over."""

from __future__ import annotations

import numpy as np
import pytest
from image_kit import make_image_model, write_images

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import SharedRequest, Tolerance, export_shared
from maskpack.exporters.bench.reference import PEERS
from maskpack.exporters.bench.run import REFERENCE, BenchRequest, bench
from maskpack.formats import ConfigError, DataError
from maskpack.runtime import Session
from maskpack.tasks import find_task

SMALL = {"batches": (1, 3), "lengths": (8,), "threads": (1,), "runs": 1}


def figures(result):
    return {variant.name: variant for variant in result.variants}


@pytest.fixture(scope="module")
def pets(tmp_path_factory, quick):
    """Images, an artifact of two tasks on them, and its int8 and fp32 graphs in the shared layout."""
    root = tmp_path_factory.mktemp("pets")
    images, model = write_images(root / "images"), make_image_model("vit", root / "model")
    for name in ("pets", "again"):
        task = find_task(name, text_field="image", label_field="label", kind="image-classification")
        fit_task(FitRequest(str(model), task, root / "a", quick(steps=40), data=images))
    for compute in ("int8", "fp32"):
        tolerance = Tolerance(None, 1.0)
        request = SharedRequest(root / "a", (), root / compute, compute, tolerance, verify=False)
        export_shared(request)
    return images, root / "a", root / "int8", root / "fp32"


def test_graphs_of_images_are_measured_on_noise_and_on_images(pets):
    images, artifact, int8, fp32 = pets
    result = bench(BenchRequest(int8, "pets", beside=(fp32,), artifact=artifact, **SMALL))
    assert [one.name for one in result.variants] == [REFERENCE, *PEERS, "int8", "fp32"]
    assert (result.rows, result.inputs) == (32 + 33, "random pixels")
    for variant in result.variants:
        assert [(c.batch, c.length) for c in variant.cells] == [(1, 64), (3, 64)]
    found = figures(result)
    assert found["fp32"].error.relative < 1e-5
    assert 1e-4 < found["int8"].error.relative < 0.5
    assert [row.tasks for row in result.tasks] == [1, 2]
    assert [row.tasks for row in result.together] == [2, 2]

    folder = images / "validation"
    given = {"artifact": artifact, "images": (folder,)}
    result = bench(BenchRequest(int8, "pets", beside=(fp32,), **given, **SMALL))
    assert (result.rows, result.inputs) == (16, "16 images")
    paths = sorted(folder.rglob("*.*"))
    logits = {
        name: Session(one).logits(paths, task="pets")
        for name, one in (("int8", int8), ("fp32", fp32))
    }
    assert figures(result)["int8"].error.same == 1
    largest = np.abs(logits["int8"] - logits["fp32"]).max()
    assert figures(result)["fp32"].error.max_diff < 1e-4
    assert figures(result)["int8"].error.max_diff == pytest.approx(largest, rel=0.5)


def test_what_is_no_row_of_such_a_task_is_refused(pets, tmp_path):
    int8 = pets[2]
    (tmp_path / "texts").write_text("a\n")
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="`pets` reads images, not texts") as caught:
        bench(BenchRequest(int8, "pets", texts=tmp_path / "texts", **SMALL))
    assert caught.value.hint == "give `images`"
    with pytest.raises(DataError, match="holds no image"):
        bench(BenchRequest(int8, "pets", images=(int8,), **SMALL))
    with pytest.raises(Exception, match="is no image that Pillow reads"):
        bench(BenchRequest(int8, "pets", images=(tmp_path / "no.png",), **SMALL))


@pytest.fixture(scope="module")
def letters(tmp_path_factory, tiny_model, quick):
    """Texts, and an int8 and an fp32 graph of a task that fills masks."""
    root = tmp_path_factory.mktemp("letters")
    words = ("good", "film", "was", "great", "the", "story")
    rng = np.random.default_rng(0)
    rows = [" ".join([words[rng.integers(6)]] * int(rng.integers(4, 12))) for _ in range(120)]
    (root / "train.txt").write_text("\n".join(rows) + "\n")
    (root / "dev.txt").write_text("\n".join(rows[:20]) + "\n")
    task = find_task("letters", text_field="text", kind="fill-mask")
    config = quick(steps=60, max_length=16, head_lr=0.03)
    fit_task(FitRequest(str(tiny_model), task, root / "a", config, data=root))
    for compute in ("int8", "fp32"):
        tolerance = Tolerance(None, 1.0)
        request = SharedRequest(root / "a", (), root / compute, compute, tolerance, verify=False)
        export_shared(request)
    return root / "dev.txt", root / "a", root / "int8", root / "fp32"


@pytest.mark.parametrize("named", [True, False])
def test_errors_of_fills_are_over_tokens_that_are_hidden(letters, named):
    texts, artifact, int8, fp32 = letters
    given = {"texts": texts} if named else {}
    result = bench(BenchRequest(int8, beside=(fp32,), artifact=artifact, **given, **SMALL))
    assert (result.rows, result.inputs) == ((20, "dev.txt") if named else (65, "random tokens"))
    found = figures(result)
    assert found["fp32"].error.relative < 1e-5
    assert found["fp32"].error.same == 1
    assert 1e-4 < found["int8"].error.relative < 0.5
    assert found["int8"].error.same > (0.9 if named else 0.5)
    if named:
        lines = texts.read_text().splitlines()
        kept = [Session(one).hidden(lines) for one in (int8, fp32)]
        chosen = kept[0][1][..., 0] >= 0
        # what metrics keep of the same tokens: the most probable one, and the right one's logit
        best = [one[0][..., 1][chosen] for one in kept]
        assert found["int8"].error.same == pytest.approx(np.mean(best[0] == best[1]), abs=0.1)
