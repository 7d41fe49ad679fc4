"""Hints in words of commands.

Hints of lower floors name arguments of the Python interface. A hint that names an argument or a function has its counterpart
here, with the same fields; other hints are shown unchanged.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

from maskpack.formats.errors import Hint
from maskpack.formats.schema import MANIFEST, PACKED_KIND

_AN_ARTIFACT = "give the folder that `compress fit -o` wrote"
_AN_EXPORT = "give the folder that `compress export --onnx -o` wrote"
_COLUMNS = "`--text-field` and `--label-field`"
_DATA = "give it with `--data PATH`"
_DENSE = "give the dense model with `--artifact ARTIFACT` or `--against MODEL`"

HINTS: dict[str, str] = {
    # the model and its training
    "`list_families` says which are supported": "`compress families` says which are supported",
    "quantise without it (`refine` 0), give 4 bits, or use a machine with more memory": "quantise without it "
    "(`--refine 0`), give `--bits 4`, or use a machine with more memory",
    "the teacher `{own}` is trained first{other}": "`--teacher {own}` trains one first{other}",
    "give a `max_length` of {longest}": "give `--max-length {longest}`",
    "export it in the `shared` layout, whose weights lie in a file of their own": "export it with `--layout shared`, "
    "whose weights lie in a file of their own",
    "its commits in the local cache: {commits}; give one as `revision`": "its commits in the local cache: "
    "{commits}; give one with `--revision`",
    "leave `layers`, `trunk` and `modules` out, or start without that task": "leave `--layers`, `--trunk` and `--modules` "
    "out, or start without that task",
    "leave `estimator` and `init` out, or give the estimator fixed": "leave `--estimator` and `--init` out, or give "
    "`--estimator fixed`",
    "leave `teacher_states` out": "leave `--teacher-states` out",
    "give the model that was trained with them, or `resize_embeddings` to give each the mean of all "
    "embeddings, which no training changes": "give the model that was trained with them, or "
    "`--resize-embeddings` to give each the mean of all embeddings, which no training changes",
    "give another model; for torch alone it can be learned with `fit_task`": "give another model; for "
    "torch alone learn it with `--skip-export-check`",
    "give `sparsity`": "give `--sparsity`",
    "give `schedule` restarts and `cycles`, such as 3": "give `--schedule restarts --cycles 3`",
    "leave `snapshots` or `cycles` out": "leave `--snapshots` or `--cycles` out",
    "give `trunk` as a number": "give `--trunk` as a number",
    "learn it with `pooling` {own} to let transformers read it": "learn it with `--pooling {own}` to let transformers read it",
    "`pooling` names another": "`--pooling` names another",
    "leave `init` out": "leave `--init` out",
    "give `sparsity` {zeros}": "give `--sparsity {zeros}`",
    "use the estimator threshold, topk, fixed or maskllm": "give `--estimator threshold`, `topk`, `fixed` or `maskllm`",
    "give `pattern` 2:4 and `sparsity` 0.5": "give `--pattern 2:4 --sparsity 0.5`",
    "use the init magnitude": "give `--init magnitude`",
    "leave it out with `modules`, or use the pattern weight": "leave it out with `--modules`, or give `--pattern weight`",
    "use the init snip": "give `--init snip`",
    "give `keep_units` or `speedup`": "give `--keep-units` or `--speedup`",
    "give `speedup`": "give `--speedup`",
    "give a smaller `speedup`, or more kinds of `units`": "give a smaller `--speedup`, or more kinds of `--units`",
    "measure one with `unit_costs_of`": "measure one with `compress costs`",
    "measure one of this model with `unit_costs_of`, or leave `unit_costs` out": "measure one of this model with "
    "`compress costs`, or leave `--unit-costs` out",
    "give `units`": "give `--units`",
    "leave `units` out": "leave `--units` out",
    "`windows` reads all of it": "`--windows` reads all of it",
    "learn it with a larger `max_length`": "learn it with a larger `--max-length`",
    "give `windows`": "give `--windows`",
    "give `texts`": "give `--texts`",
    "give `images`": "give `--images`",
    "leave `windows` out": "leave `--windows` out",
    "leave `pair_field` out": "leave `--pair-field` out",
    "mask all linears of a layer, or leave `units` out": "mask all linears of a layer, or leave `--units` out",
    "name the artifact to write as `out`": "name the artifact to write with `--out`",
    "leave `teacher` out": "leave `--teacher` out",
    "leave `calibrate` out": "leave `--calibrate` out",
    "give {enough} training rows or more, or leave `calibrate` out": "give {enough} training rows or more, or leave "
    "`--calibrate` out",
    "give {enough} training rows or more, or leave `threshold` out": "give {enough} training rows or more, or leave "
    "`--threshold` out",
    "leave `threshold` out": "leave `--threshold` out",
    "give more training rows, or leave `threshold` out": "give more training rows, or leave `--threshold` out",
    "leave `class_weight` out": "leave `--class-weight` out",
    "name it as `base`": "name it with `--base`",
    "name one with a pooler as `base`": "name one with a pooler with `--base`",
    "give its rows as `data`, with labels or without, or `texts` for all tasks": "give its rows with "
    "`--data TASK=PATH`, with labels or without, or `--texts FILE` for all tasks",
    "leave `teacher` at its default, or leave `texts` out": "leave `--teacher` at its default, or leave "
    "`--texts` out",
    "leave `teacher` at its default, or leave the rows out with `unlabelled` skip": "leave `--teacher` at its "
    "default, or leave the rows out with `--unlabelled skip`",
    "its columns: {columns}; choose `text_field`": "its columns: {columns}; choose with `--text-field`",
    "lower `lr` or `head_lr`": "lower `--lr` or `--head-lr`",
    "lower `lr` or `head_lr`; in a regression look for numbers far from all others": "lower `--lr` or `--head-lr`; "
    "in a regression look for numbers far from all others",
    "use the method `head`": "use `--method head`",
    "use the method `lora`": "use `--method lora`",
    "start over without `resume`": "start over without `--resume`",
    "repeat the first run's options, or start over without `resume`": "repeat the first command's "
    "options, or start over without `--resume`",
    "repeat the same request, with `replace` if it left a task": "repeat the same command, with `--replace` if it left a task",
    "repeat the same request with `resume` to go on": "repeat the same command with `--resume` to go on",
    "leave `random` out, or choose another `out`": "leave `--random` out, or choose another place with `-o`",
    "give a `rewind` below {steps}": "give a `--rewind` below {steps}",
    "give fewer `rounds`": "give fewer `--rounds`",
    "leave `bits` out, or choose another `out`": "leave `--bits` out, or choose another place with `-o`",
    "give `{model}`, or another `out`": "give `{model}`, or another place with `-o`",
    "give the folder of a fully fine-tuned baseline, or another one with a head": "give a folder of "
    "`compress baseline --method full -o`, or another one with a head",
    "run a sweep first": "run `compress sweep FILE.yaml` first",
    "give a file that a sweep writes": "give a file that `compress sweep` writes",
    # data
    "give its `data`": _DATA,
    "give a path as `data`, or `hub:NAME` for a data set of the Hub": f"{_DATA}, or a data set of the "
    "Hub with `--data hub:NAME`",
    "check name and network, or give local files as `data`": "check name and network, or give local "
    "files with `--data PATH`",
    "choose another `text_field`": "choose with `--text-field`",
    "choose another `label_field`": "choose another `--label-field`",
    "choose another `label_field`; a number is of the kind `regression`": "choose the label's column "
    "with `--label-field`; for a number give `--regression`",
    "choose another `label_field`, or other rows": "choose another `--label-field`, or other rows",
    "choose another `label_field`: a text that is its own label teaches nothing": "choose the label's column "
    "with `--label-field`: a text that is its own label teaches nothing",
    "if they are none, choose another `label_field`; a number is of the kind `regression`": "if they are none, "
    "choose the label's column with `--label-field`; for a number give `--regression`",
    "give it one, leave the row out, or learn with `unlabelled` skip": "give it one, leave the row out, or "
    "learn with `--unlabelled skip`",
    "a task of the kind `multi-label` may have several labels a row": "give `--multi-label` if a row "
    "may have several labels",
    "give `text_field` and `label_field`": f"give {_COLUMNS}",
    "for your own data give `text_field` and `label_field`": f"for your own data give {_COLUMNS}",
    "{meant}known: {known}; for your own data give `text_field` and `label_field`": "{meant}known: "
    f"{{known}}; for your own data give {_COLUMNS}",
    "{meant}its columns: {columns}; choose `text_field` and `label_field`, or rename them": "{meant}its "
    f"columns: {{columns}}; choose with {_COLUMNS} (`fit`, `baseline`, `predict`), or rename them",
    "{before}`{data}` has the columns {columns}; choose `text_field` and `label_field`{after}": "{before}"
    f"`{{data}}` has the columns {{columns}}; choose with {_COLUMNS}{{after}}",
    " of a task of your own; the known task is `{name}`": " of a task of your own; for the known task "
    "give `--task {name}`",
    "too few rows to hold some out: give `eval_data`": "too few rows to hold some out: give `--eval-data`",
    "`eval_data` gives rows of your own": "`--eval-data` gives rows of your own",
    "give more as `eval_data`": "give more with `--eval-data`",
    "a `max_length` of {enough} would hold {held}": "`--max-length {enough}` would hold {held}",
    "is something else than this separator of labels needed?": "is something else than "
    "`--label-separator` needed?",
    "train longer, or with a larger `head_lr`": "train longer with `--epochs`, or with a larger `--head-lr`",
    "judge by the metric `macro_f1`": "judge by `--metric macro_f1`",
    "label more rows, or try several seeds and more epochs": "label more rows, or try several `--seed` "
    "and more `--epochs`",
    "learn it again": "learn it again with `compress fit --replace`",
    "`prefix` gives another, or none": "`--prefix TEXT` gives another, `--prefix ''` none",
    "give one as `prefix`, if it was meant for such texts": "give one with `--prefix`, if it was meant for such "
    "texts",
    "give another folder as `cache`, or `off`": "give another folder with `--cache`, or `--cache off`",
    "leave `pair_prefix` out": "leave `--pair-prefix` out",
    "leave `stride` out": "leave `--stride` out",
    "leave `prefix` out": "leave `--prefix` out",
    "give a folder of images as `calibration`": "give a folder of images with `--calibration`",
    "leave `label_field` out": "leave `--label-field` out",
    "leave the row out, or learn with `unlabelled` skip": "leave the row out, or learn with `--unlabelled skip`",
    "give all texts as `data`, and leave `texts` out": "give all texts with `--data`, and leave `--texts` out",
    "a larger `max_length` or `stride` may hold them": "a larger `--max-length` or `--stride` may hold them",
    "give the column of the second as `pair_field`": "give the column of the second with `--pair-field`",
    # artifacts
    "restore the artifact from a copy, or make it again": "restore the artifact from a copy, or make it "
    "again with `compress fit`",
    "restore the file from a copy, or make the artifact again": "restore the file from a copy, or make "
    "the artifact again with `compress fit`",
    "if somebody changed the artifact just now, try again; else restore the file from a copy, or make the "
    "artifact again": "if somebody changed the artifact just now, try again; else restore the file from a "
    "copy, or make the artifact again with `compress fit`",
    "a diff of the two names the files": "`compress diff` names the files",
    "choose another place": "choose another place with `-o`",
    "free some space, or choose another place": "free some space, or choose another place with `-o`",
    "rename one": "rename one with `compress rename`",
    "choose another `name`, or `replace` it": "choose another `--name`; `fit` and `unpack` also take "
    "`--replace`",
    "a check lists all that is wrong": "`compress check` lists all that is wrong",
    "tell whoever published it, or give another `revision`": "tell whoever published it, or give another "
    "`--revision`",
    "a plain model is learned on by its id": "a plain model goes to `compress fit` by its id",
    # vocabularies
    "give `texts`, `scripts` or `keep`": "give `--text`, `--script` or `--keep`",
    "give a larger `keep`": "give a larger `--keep`",
    "give a `keep` of {least} or more": "give `--keep {least}` or more",
    "make it smaller with the same texts, and compare with that": "make it smaller with the same texts, `compress vocab`, and "
    "compare with that",
    "give fewer `texts` or `scripts`, or a smaller `keep`": "give less with `--text` or `--script`, or a smaller `--keep`",
    # graphs
    "export the task first": "make it with `compress export --onnx`",
    "export them in the `shared` layout": "export them with `--layout shared`",
    "export it in the `swap` layout, which keeps zeros in their places": "export it with `--layout swap`, which keeps "
    "zeros in their places",
    "learn such tasks with masks on the upper `layers` alone, or export them in the `shared` layout": "learn such tasks "
    "with `--layers` or `--trunk`, or export them with `--layout shared`",
    "export it in the `shared` layout": "export it with `--layout shared`",
    "export in the `folded` or the `shared` layout": "export with `--layout folded` or `--layout shared`",
    "export in the `folded` layout, or in `int8` or `fp32` arithmetic": "export with `--layout folded`, or with "
    "`--compute int8` or `fp32`",
    "export in `int8` or `fp32` arithmetic": "export with `--compute int8` or `fp32`",
    "choose `int8` or `fp32` arithmetic, or the `shared` layout": "`--compute int8` or `fp32`, or "
    "`--layout shared`",
    "give the task another name": "give the task another name: `compress rename`",
    "package it for the target `ort`, or give the graph tokens of your own": "package it with "
    "`--target ort`, or give the graph tokens of your own",
    "name one as `task`: {names}": "name one with `--task`: {names}",
    "give the dense model as `artifact` or `against`": _DENSE,
    "give `against` or `artifact`": "give `--against` or `--artifact`",
    "give a float32 graph, a fine-tuned folder, or leave `against` out": "give a float32 graph, a "
    "fine-tuned folder, or leave `--against` out",
    "compare graphs of one model and one task: name the right one as `against`": "compare graphs of one "
    "model and one task: name the right one with `--against`",
    "if it has no so many positions: give smaller `lengths`": "if it has no so many positions: give a "
    "smaller `--length`",
    "`threads` sets it": "`--threads` sets it",
    "killed? it may have run out of memory: give smaller `batches` or `lengths`": "killed? it may have "
    "run out of memory: give a smaller `--batch` or `--length`",
}
"""Hint of a lower floor, with fields -> the same in words of commands."""

_LARGEST_HEADER = 1 << 20  # bytes that are read; the header of a packed task has some kilobytes
_ZIPPED = (b"PK\x03\x04", b"\x1f\x8b")
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".parquet"}
_GRAPHS = {".onnx", ".ort", ".onnx_adapter"}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def shell_word(text: str) -> str:
    """A text as one word of a command, as the shell of this system reads it."""
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)


class PathKind(StrEnum):
    """Kinds of files and folders, in words for an error."""

    NOTHING = "there is no such file or folder"
    ARTIFACT = "it is an artifact"
    EXPORT = "it is an exported task"
    MOBILE = "it is a package for phones"
    MODEL = "it is a plain model"
    ARCHIVE = "it is an archive"
    PATCH = "it is a packed task"
    GRAPH = "it is a single graph"
    TABLE = "it is a file of rows"
    OTHER = "it is something else"


_INSTEAD_OF_ARTIFACT = {
    PathKind.NOTHING: _AN_ARTIFACT,
    PathKind.EXPORT: "`compress predict {path}` answers with it; give the artifact that it was made from",
    PathKind.MOBILE: "its `predict.py` answers; give the artifact that it was made from",
    PathKind.MODEL: "learn a mask over it: `compress fit {path} --task TASK -o artifact`",
    PathKind.ARCHIVE: "unpack it; `compress predict` answers with the folder in a package",
    PathKind.PATCH: "add it to an artifact with its backbone: `compress unpack {path} ARTIFACT`",
    PathKind.GRAPH: "`compress predict {parent}` answers with it; give the artifact that it was made from",
    PathKind.TABLE: "learn an artifact from it: `compress fit demo --data {path} -o artifact`",
}
_INSTEAD_OF_EXPORT = {
    PathKind.NOTHING: _AN_EXPORT,
    PathKind.ARTIFACT: "make graphs of it: `compress export {path} --onnx --task TASK -o OUT`; "
    "`compress tasks {path}` names its tasks",
    PathKind.MOBILE: "its `predict.py` answers; `compress package --target ort` makes what this reads",
    PathKind.MODEL: "learn a mask over it with `compress fit {path}`, then `compress export --onnx`",
    PathKind.ARCHIVE: "unpack it, and give the folder that was in it",
    PathKind.PATCH: "add it to an artifact with its backbone: `compress unpack {path} ARTIFACT`; "
    "then `compress export ARTIFACT --onnx`",
    PathKind.GRAPH: "give the folder that it lies in: `{parent}`",
    PathKind.TABLE: "give the folder that `compress export --onnx -o` wrote; rows go to `--data`",
}

INSTEAD: dict[str, tuple[dict[PathKind, str], str]] = {
    "give the folder of an artifact": (_INSTEAD_OF_ARTIFACT, _AN_ARTIFACT),
    "give the folder of an exported task, or one that holds several of them": (
        _INSTEAD_OF_EXPORT,
        f"{_AN_EXPORT}, or one that holds several of them",
    ),
}
"""Hint of a lower floor -> words for each kind of path that was given by mistake, and for any other."""


def in_commands(hint: Hint | None) -> str | None:
    """A hint in words of commands, None of none.

    >>> in_commands(Hint("give a `max_length` of {longest}", longest=512))
    'give `--max-length 512`'
    """
    if hint is None:
        return None
    if hint.text not in INSTEAD:
        return str(Hint(HINTS[hint.text], **hint.fields)) if hint.text in HINTS else str(hint)
    words, usual = INSTEAD[hint.text]
    if "path" not in hint.fields:
        return usual
    path = Path(str(hint.fields["path"]))
    kind = path_kind(path)
    if kind not in words:
        return usual
    return f"{kind}; {words[kind]}".format(path=path, parent=path.parent)


def path_kind(path: Path) -> PathKind:
    """The kind of a path, from its name and first bytes."""
    try:
        if path.is_dir():
            return _folder(path)
        return _file(path) if path.exists() else PathKind.NOTHING
    except OSError:  # a name too long, a folder that is locked
        return PathKind.OTHER


def _folder(path: Path) -> PathKind:
    if (path / MANIFEST).is_file():
        return PathKind.ARTIFACT
    if any(path.glob("*.onnx")) or any(path.glob("*/model.onnx")):
        return PathKind.EXPORT
    if any(path.glob("*.ort")):
        return PathKind.MOBILE
    weights = any(next(path.glob(pattern), None) for pattern in _WEIGHTS)
    return PathKind.MODEL if weights and (path / "config.json").is_file() else PathKind.OTHER


def _file(path: Path) -> PathKind:
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    if endings & _TABLES:  # also `rows.csv.gz`
        return PathKind.TABLE
    if endings & _GRAPHS:
        return PathKind.GRAPH
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_ZIPPED):
            return PathKind.ARCHIVE
        header = file.read(min(int.from_bytes(start, "little"), _LARGEST_HEADER))
    return PathKind.PATCH if PACKED_KIND.encode() in header else PathKind.OTHER
