"""Fine-tuned models of images: adopted and carried over, with labels, from images alone, and at few bits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from image_kit import make_image_model, write_images

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.compressor.refit import RefitRequest, refit_tasks
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.run import backbone_folder, shared_backbone
from maskpack.formats import ConfigError, DataError, ModelError, check_artifact, open_artifact
from maskpack.models.base_model import ancestry, find_base
from maskpack.models.load import load_finetuned
from maskpack.tasks import find_task
from maskpack.tasks.data.unlabelled import read_unlabelled

KIND = "image-classification"


def task_of_pets():
    return find_task("pets", text_field="image", label_field="label", kind=KIND)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "pets", train=20, dev=8)


@pytest.fixture(scope="module")
def photos(pets, tmp_path_factory):
    """The training images in one folder, without classes."""
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((pets / "train").rglob("*.*")):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_image_model("vit", tmp_path_factory.mktemp("base") / "vit")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, base, pets):
    """The ViT, fine-tuned on the pets."""
    out = tmp_path_factory.mktemp("tuned") / "pets"
    config = BaselineConfig(steps=80, batch_size=16, precision="fp32", lr=1e-3, head_lr=1e-2)
    run_baseline(BaselineRequest(str(base), task_of_pets(), config, out, data=pets))
    return out


@pytest.fixture
def learn(quick):
    """A function: options of a short run that the checkpoint teaches."""
    return lambda **options: quick(teacher=None, **{"steps": 40, "margin": 0.5, **options})


def test_a_pooling_of_texts_is_refused(base, pets, quick, tmp_path):
    asked = FitRequest(str(base), task_of_pets(), tmp_path / "a", quick(pooling="mean"), data=pets)
    with pytest.raises(ConfigError, match="`pooling` makes one vector of a text's tokens"):
        fit_task(asked)


@pytest.mark.parametrize("bits", [4, 2])
def test_a_model_is_adopted_from_images_without_labels(
    bits, tuned, base, pets, photos, learn, tmp_path
):
    request = AdoptRequest(
        {"pets": str(tuned)},
        tmp_path / "a",
        str(base),
        learn(bits=bits, refine=20 if bits == 2 else 0),
        texts=photos,
        eval_data={"pets": pets / "validation"},
    )
    (task,) = adopt_models(request).tasks
    assert check_artifact(tmp_path / "a") == []
    assert not task.labelled
    assert task.ancestry.equal_rows is None
    assert 0 < task.ancestry.distance < 0.5
    assert task.result.original["accuracy"] == 1.0
    assert (task.result.train_rows, task.result.score) == (40, 1.0)
    artifact = open_artifact(tmp_path / "a")
    assert artifact.manifest.scheme.bits == bits
    assert artifact.entry("pets").labels == ("cat", "dog")


def test_labels_are_used_where_there_are_any_and_images_beside_them(
    tuned, base, pets, photos, learn, tmp_path
):
    request = AdoptRequest(
        {"pets": str(tuned)}, tmp_path / "a", str(base), learn(), data={"pets": pets}, texts=photos
    )
    (task,) = adopt_models(request).tasks
    assert task.labelled
    assert task.result.train_rows == 80
    assert open_artifact(tmp_path / "a").entry("pets").data["unlabelled_rows"] == 40


def test_a_table_of_images_needs_no_labels(tuned, base, photos, learn, tmp_path):
    names = sorted(path.name for path in photos.iterdir())
    table = photos.parent / "rows.csv"
    table.write_text("image\n" + "".join(f"{photos.name}/{name}\n" for name in names))
    assert read_unlabelled(table, ("image",), images=True) == read_unlabelled(
        photos, ("image",), images=True
    )
    request = AdoptRequest(
        {"pets": str(tuned)}, tmp_path / "a", str(base), learn(), data={"pets": table}
    )
    (task,) = adopt_models(request).tasks
    assert (task.labelled, task.result.train_rows, task.result.eval_rows) == (False, 36, 4)
    table.write_text("image\nnone.png\n")
    with pytest.raises(DataError, match=r"data row 1 of .* names the image `none.png`"):
        adopt_models(replace(request, out=tmp_path / "b"))


def test_another_base_and_another_reading_are_refused(tuned, base, photos, learn, tmp_path):
    def adopt(model, onto):
        adopt_models(
            AdoptRequest({"pets": str(model)}, tmp_path / "a", str(onto), learn(), texts=photos)
        )

    deit = make_image_model("deit", tmp_path / "deit")
    with pytest.raises(ModelError, match="has another architecture than `deit`"):
        adopt(tuned, deit)
    other = shutil.copytree(tuned, tmp_path / "other")
    processor = other / "preprocessor_config.json"
    tree = json.loads(processor.read_text())
    processor.write_text(json.dumps({**tree, "image_mean": [0.1, 0.5, 0.5]}))
    with pytest.raises(ModelError, match="read images otherwise") as caught:
        adopt(other, base)
    assert "`other` and `vit`" in str(caught.value).replace(f"{tmp_path.as_posix()}/", "")
    processor.write_text(json.dumps({**tree, "processor_class": "Whole"}))
    adopt(other, base)


def test_the_base_is_found_by_its_weights(tuned, base, tmp_path):
    tuned = shutil.copytree(tuned, tmp_path / "tuned")
    tree = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**tree, "_name_or_path": str(base)}))
    name, found = find_base([str(tuned)], auto_class="AutoModelForImageClassification")
    assert (name, found.tokenizer) == (str(base), None)
    model = load_finetuned(str(tuned), auto_class="AutoModelForImageClassification")
    assert set(ancestry(found, model, "tuned").layers) == {
        *("embeddings", "layer 0", "layer 1"),
    }


@pytest.mark.parametrize("labelled", [True, False])
def test_tasks_of_images_go_to_fewer_bits(labelled, base, pets, photos, learn, quick, tmp_path):
    config = quick(bits=8, steps=60, margin=0.5, head_lr=1e-2, teacher="none")
    fit_task(FitRequest(str(base), task_of_pets(), tmp_path / "old", config, data=pets))
    request = RefitRequest(
        tmp_path / "old",
        str(base),
        tmp_path / "new",
        learn(bits=2, refine=20),
        data={"pets": pets if labelled else photos},
        eval_data={} if labelled else {"pets": pets / "validation"},
    )
    result = refit_tasks(request)
    assert check_artifact(tmp_path / "new") == []
    (task,) = result.tasks
    assert (task.labelled, result.bits) == (labelled, 2)
    assert task.result.score == 1.0
    assert open_artifact(tmp_path / "new").entry("pets").data["refitted_from"] == "vit"


def test_images_without_labels_are_taught_beside_a_fit(base, pets, photos, quick, tmp_path):
    config = quick(teacher="twin")
    request = FitRequest(str(base), task_of_pets(), tmp_path / "a", config, data=pets, texts=photos)
    assert fit_task(request).train_rows == 80
    with pytest.raises(ConfigError, match="`texts` without labels are learned from a teacher"):
        fit_task(
            FitRequest(
                str(base),
                task_of_pets(),
                tmp_path / "b",
                quick(teacher="none"),
                data=pets,
                texts=photos,
            )
        )


def test_backbones_of_a_sweep_are_calibrated_on_the_tasks_images(base, pets, tmp_path):
    files, tasks = sorted((pets / "train").glob("*/*")), {}
    for name, some in (("pets", files), ("fewer", files[::2])):
        table = tmp_path / f"{name}.csv"
        table.write_text(
            "".join(["image,label\n", *(f"{one},{one.parent.name}\n" for one in some)])
        )
        columns = {"text_field": "image", "label_field": "label", "type": KIND}
        tasks[name] = {"data": str(table), **columns}
    methods = {"mask": {"bits": [8, 2], "refine": 2, "teacher": "none"}}
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"models": [str(base)], "tasks": tasks, "methods": methods}))
    runs = read_plan(plan).runs
    places = {(run.arm.label, run.task.name): backbone_folder(run) for run in runs}
    assert places["mask bits=8", "pets"] == places["mask bits=8", "fewer"]
    assert places["mask bits=2", "pets"] != places["mask bits=2", "fewer"]
    narrow = next(run for run in runs if run.arm.label == "mask bits=2")
    made = shared_backbone(narrow, on_progress=lambda _: None)
    assert open_artifact(made).manifest.scheme.bits == 2
