"""The ways of a case of `fuzz_inputs.py` through the product: a table, a tokenizer, a model, a whole run."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_models import copy_model, write_model
from fuzz_parts import fresh
from fuzz_tables import Table, put, random_table, random_text
from fuzz_tokenizers import BASES, write_tokenizer
from safetensors.torch import load_file

from maskpack.cli.asked import Columns, rows_of
from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.prepare import prepare
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.exportable import check_exportable
from maskpack.formats import open_artifact
from maskpack.models.load import load_classifier, load_pretrained
from maskpack.runtime import Session
from maskpack.runtime.task import TaskConfig
from maskpack.runtime.tokens import TextReader, load_tokenizer
from maskpack.tasks.batches import Encoded, predict_all, torch_predict
from maskpack.tasks.context import ModelContext, preprocess_splits, restore_task
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.splits import Split, TaskData, load_data, load_dev
from maskpack.tasks.data_warnings import find_warnings
from maskpack.tasks.evaluation.evaluate import assess, encode_for
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.pretrained_head import find_head
from maskpack.tasks.probes import as_texts, difference_of, encoded_by
from maskpack.tasks.task import Task, find_task
from maskpack.tasks.texts import TextPreprocessor

REFUSED = "an export would be refused"
"""How `fit` says that a device would read texts otherwise."""

QUICK = {"bits": 4, "group": 8, "batch_size": 8, "precision": "fp32", "teacher": "none", "steps": 2}


class DifferenceError(Exception):
    """Two ways of the product that should agree do not, and nothing says so."""


@dataclass
class Kit:
    """What cases share.

    Attributes:
        root: folder of models, and of what was learned once.
        classifiers: kind -> its model in memory.
        export: an exported task, once there is one.
    """

    root: Path
    classifiers: dict[str, Any] = field(default_factory=dict)
    export: Path | None = None

    def classifier(self, kind: str) -> Any:
        """The model of an architecture, loaded once."""
        if kind not in self.classifiers:
            self.classifiers[kind] = load_classifier(str(self.root / kind), outputs=2)
        return self.classifiers[kind]

    def exported(self) -> tuple[Path, Path]:
        """An artifact and an export of a task on texts."""
        artifact, out = self.root / "learned", self.root / "exported"
        if not out.exists():
            rng, folder = random.Random(0), fresh(self.root / "source")
            copy_model(self.root, "bert", folder)
            write_tokenizer(rng, folder, "wordpiece", changes=0)
            table = random_table(random.Random(1), tame=True)
            table.ending, table.texts, table.header = ".csv", ("text",), ["text", "label"]
            table.rows = [["good film", "good"], ["bad food", "bad"]] * 12
            data = put(table, rng, self.root, "rows")
            task = find_task("own", text_field="text", label_field="label")
            config = FitConfig(**{**QUICK, "max_length": 16})
            fit_task(FitRequest(str(folder), task, artifact, config, data=data))
            export_onnx(
                ExportRequest(artifact, "own", out, "fp32", Tolerance(atol=1e-3, max_drop=5.0))
            )
        return artifact, out


@contextmanager
def heard() -> Iterator[list[str]]:
    """The product's log of a while."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener, ours = Listener(), logging.getLogger("maskpack")
    ours.addHandler(listener)
    try:
        yield lines
    finally:
        ours.removeHandler(listener)


def table_case(rng: random.Random, folder: Path, kit: Kit) -> str:
    """Read a table as training does, again as evaluation does, and as `predict` does."""
    del kit
    table = random_table(rng)
    path = put(table, rng, folder, "train")
    data, eval_data = _places(table, path, rng, folder)
    options = _options(table, rng)
    task = task_of_said(
        Said(rng.choice(("own", "tickets", "x")), rng.random() < 0.5, data, options)
    )
    found = load_data(task, data=data, eval_data=eval_data)
    find_warnings(found)
    again = load_data(task, data=data, eval_data=eval_data)
    if (found.train.sha256(), found.dev.sha256()) != (again.train.sha256(), again.dev.sha256()):
        raise DifferenceError("two readings of a table differ")
    if eval_data is None:
        dev = load_dev(task, found.labels, data=data, sha256=found.dev.sha256())
        if dev.sha256() != found.dev.sha256():
            raise DifferenceError("evaluation reads other rows than training held out")
    if data.is_file():
        _compare_rows(table, task, found, data, eval_data)
    return "worked"


def _places(table: Table, path: Path, rng: random.Random, folder: Path) -> tuple[Path, Path | None]:
    kind = rng.random()
    if kind < 0.6:
        return path, None
    other = random_table(rng)
    if rng.random() < 0.8:
        other.texts, other.label, other.header, other.rows = (
            table.texts,
            table.label,
            table.header,
            list(table.rows),
        )
    stem = rng.choice(("dev", "validation", "test"))
    second = put(other, rng, folder, stem)
    return (path, second) if kind < 0.75 else (folder, None)


def _options(table: Table, rng: random.Random) -> TaskOptions:
    if not table.tame and rng.random() < 0.3:
        return TaskOptions(regression=rng.random() < 0.15)
    kinds = {
        "lists": "multi-label",
        "listed": "multi-label",
        "floats": "regression",
        "large": "regression",
        "no numbers": "regression",
    }
    usual = kinds.get(table.notes[0], "classification")
    kind = (
        usual
        if table.tame or rng.random() < 0.85
        else rng.choice(("classification", "multi-label", "regression"))
    )
    separator = rng.choice((None, ",", "|", " ")) if kind == "multi-label" else None
    return TaskOptions(
        text_field=table.texts[0],
        pair_field=table.texts[1] if table.texts[1:] else None,
        label_field=table.label,
        regression=kind == "regression",
        multi_label=kind == "multi-label",
        label_separator=separator,
    )


def _compare_rows(
    table: Table, task: Task, found: TaskData, path: Path, eval_data: Path | None
) -> None:
    """The rows of training against those that were meant, and those that `predict` reads."""
    rows = [*found.train.texts, *([] if eval_data else found.dev.texts)]
    config = TaskConfig(
        "own", task.kind, tuple(found.labels), 16, (0, ""), columns=(*task.texts, task.label)
    )
    asked = rows_of(
        path, Columns(task.texts[0], (*task.texts, None)[1], task.label, task.separator), config
    )
    answered = [text if isinstance(text, tuple) else (text,) for text, _ in asked]
    if sorted(rows) != sorted(answered):
        raise DifferenceError("`predict` reads other texts of a table than training")
    if task.kind == "classification" and (
        odd := [one for _, one in asked if one not in found.labels]
    ):
        raise DifferenceError(f"`predict` expects {odd[0]!r}, which is no label of the task")
    if (
        not table.damaged
        and table.texts == task.texts
        and len(set(table.header)) == len(table.header)
    ):
        meant = table.wanted()
        if sorted(meant) != sorted(rows):
            odd = sorted(set(meant) ^ set(rows))
            raise DifferenceError(
                f"a table is read as other texts than were written: {odd[:1]!r:.200}"
            )


def tokenizer_case(rng: random.Random, folder: Path, kit: Kit) -> str:
    """Cut texts as training, evaluation and a device do, with a tokenizer that was changed."""
    base = rng.choice(list(BASES))
    kind = rng.choice(BASES[base][2])
    model = fresh(folder / "model")
    for name in ("config.json",):
        (model / name).write_bytes((kit.root / kind / name).read_bytes())
    write_tokenizer(rng, model, base, changes=rng.choice((0, 1, 1, 2, 3)))
    pretrained = load_pretrained(str(model), classifier=kit.classifier(kind))
    return compare_tokens(ModelContext.of_pretrained(pretrained), rng, folder)


def compare_tokens(training: ModelContext, rng: random.Random, folder: Path) -> str:
    """Tokens of random texts on all three ways; a difference must have been told by `fit`."""
    width, length = rng.choice((1, 1, 2)), rng.choice((8, 16, 16, 60))
    texts = tuple(tuple(random_text(rng) for _ in range(width)) for _ in range(10))
    split = Split(texts, np.arange(len(texts)) % 2)
    columns = ("text", "text_pair")[:width]
    data = TaskData(Task("own", texts=columns), ("a", "b"), split, split.take(np.arange(2)))
    with heard() as lines:
        mine, _ = preprocess_splits(training, data, None, length)
    evaluation = ModelContext.of_files(training.files)
    preprocessor = evaluation.preprocessor()
    assert isinstance(preprocessor, TextPreprocessor)
    preprocessor.save(fresh(folder / "device"))
    config = TaskConfig(
        "own",
        "regression",
        (),
        length,
        preprocessor.pad,
        pad_left=preprocessor.pad_left,
        texts=width,
        truncation_left=preprocessor.truncation_left,
        split_special_tokens=preprocessor.split_special_tokens,
    )
    reader = TextReader.of(load_tokenizer(folder / "device" / "tokenizer.json"), config)
    device = encoded_by(reader, split, types=mine.types is not None)
    told = any(REFUSED in line for line in lines)
    others: Sequence[tuple[str, Encoded]] = (
        ("evaluation", preprocessor.encode(split, max_length=length)),
        ("a device", device),
    )
    for name, other in others:
        found = difference_of(texts, other, mine)
        if found is not None and not told:
            raise DifferenceError(
                f"{name} reads texts otherwise than training, and nothing says so: {found}"
            )
        if (other.pad, other.pad_left) != (mine.pad, mine.pad_left) and not told:
            raise DifferenceError(f"{name} pads otherwise than training")
    return "worked, and a difference told" if told else "worked"


def model_case(rng: random.Random, folder: Path, kit: Kit) -> str:
    """Load a model folder that was changed; its weights are those of its file."""
    kind, notes = write_model(rng, kit.root, folder / "model", changes=rng.choice((0, 1, 1, 1, 2)))
    place = str(folder / "model")
    rows = Split((("good",), ("bad",)), np.array([1, 0]))
    data = TaskData(Task("own", texts=("text",)), ("bad", "good"), rows, rows)
    if rng.random() < 0.02:
        check_exportable(place)
    if rng.random() < 0.4:
        return _prepare(folder, place)
    finding = find_head(place, data)
    pretrained = load_pretrained(place, classifier=finding.classifier)
    context = ModelContext.of_pretrained(pretrained)
    preprocess_splits(context, data, None, 8)
    if kind not in {"gpt2", "xlnet"} and not {"files", "shards", "pickled"} & set(notes):
        _compare_weights(pretrained.model, folder / "model" / "model.safetensors")
    if rng.random() < 0.1:
        return compare_tokens(context, rng, folder)
    return "worked"


def _prepare(folder: Path, place: str) -> str:
    """Everything before the first step of a run."""
    data = folder / "rows.csv"
    data.write_text("text,label\n" + "good,good\nbad,bad\n" * 8)
    task = find_task("own", text_field="text", label_field="label")
    config = FitConfig(**{**QUICK, "max_length": 8})
    run = prepare(FitRequest(place, task, folder / "artifact", config, data=data))
    if run.classifier(0) is None:
        raise DifferenceError("no classifier")
    return "worked"


def _compare_weights(model: Any, file: Path) -> None:
    stored = load_file(file)
    for name, value in model.named_parameters():
        if name.startswith("pooler."):
            continue
        ends = [value for key, value in stored.items() if key == name or key.endswith(f".{name}")]
        if not ends:
            raise DifferenceError(f"`{name}` was loaded, and the file has nothing of it")
        if not any(torch.equal(one.float(), value.detach()) for one in ends):
            raise DifferenceError(f"`{name}` has other values in memory than in its file")


def whole_case(rng: random.Random, folder: Path, kit: Kit) -> str:
    """Learn two steps, export, answer with the runtime; compare with torch and with what was recorded."""
    base = rng.choice(list(BASES))
    kind = rng.choice(BASES[base][2])
    model = fresh(folder / "model")
    copy_model(kit.root, kind, model)
    write_tokenizer(rng, model, base, changes=rng.choice((0, 0, 1)))
    table = random_table(rng, tame=rng.random() < 0.85)
    data = put(table, rng, folder, "rows")
    task = task_of_said(Said("own", True, data, _options(table, rng)))
    artifact, out, length = folder / "artifact", folder / "exported", rng.choice((8, 16, 60))
    config = FitConfig(**{**QUICK, "max_length": length, "seed": rng.randrange(3)})
    fit_task(FitRequest(str(model), task, artifact, config, data=data))
    compute = rng.choice(("fp32", "fp32", "int8"))
    tolerance = Tolerance(atol=1e-3 if compute == "fp32" else 10.0, max_drop=100.0)
    report = export_onnx(ExportRequest(artifact, "own", out, compute, tolerance, data=data))
    if report is not None and not report.ok:
        if not any("is read otherwise" in line for line in report.findings):
            raise DifferenceError(f"a sound graph is refused: {report.findings[0]:.200}")
        return "worked, and a difference told"
    _compare_answers(artifact, out, data, rng, exact=compute == "fp32")
    return "worked"


def _compare_answers(
    artifact: Path, out: Path, data: Path, rng: random.Random, *, exact: bool
) -> None:
    opened, session = open_artifact(artifact), Session(out, threads=1)
    entry = opened.entry("own")
    width = session.config().texts or 1
    texts = tuple(tuple(random_text(rng) for _ in range(width)) for _ in range(12))
    split = Split(texts, np.zeros(len(texts), dtype=np.int64))
    encoded = encode_for(ModelContext.of_artifact(opened), entry, split)
    mine = predict_all(torch_predict(restore_task(opened, "own")), encoded)
    theirs = session.logits(as_texts(texts), batch_size=4)
    if exact and not np.allclose(mine, theirs, atol=1e-3, rtol=1e-3):
        raise DifferenceError(f"answers are {float(np.abs(mine - theirs).max()):.3g} apart")
    answers = session.predict(as_texts(texts), batch_size=4)
    if entry.labels and entry.kind == "classification" and exact:
        wanted = [entry.labels[place] for place in theirs.argmax(axis=1)]
        if [one.label for one in answers] != wanted:
            raise DifferenceError("labels are not those of the logits")
    found = assess(opened, "own", data=data)
    if not found.same_data:
        raise DifferenceError("evaluation does not find the rows that training held out")
    if any(
        not np.isclose(found.scores[name], value, atol=1e-6) for name, value in entry.scores.items()
    ):
        raise DifferenceError("scores are not those that training recorded")
