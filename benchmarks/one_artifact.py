"""A classifier, a tagger, an embedder and a model for questions in one artifact: the same answers from every layout and every library.

    python benchmarks/one_artifact.py ARTIFACT docs/results/one-artifact.json TASK=FILE... [--node node_modules]

The artifact is exported folded, shared and swap (fp32). The first hundred texts of each task's FILE are answered from each layout
by `Session`, and from the folded graph by what people use: transformers' `pipeline` over Optimum's `ORTModelFor...` classes, and
sentence-transformers' ONNX backend. With `--node` a web package of the shared layout answers in Node.js too. Equal are labels and places in
texts; of scores and vectors the largest difference is written.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from maskpack.exporters import Tolerance
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import ExportRequest, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import TaskEntry, open_artifact
from maskpack.runtime import Session
from maskpack.tasks.evaluation.evaluate import evaluation_split

ROWS = 100
EXACT = Tolerance.of("fp32")
SCRIPT = """
import { readFileSync } from "node:fs";
import { load } from "./predict.mjs";
const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = {};
for (const [task, texts] of Object.entries(given)) {
  const own = await load(task);
  found[task] = [];
  for (const row of texts) {
    const answer = await own.answer(...[row].flat());
    found[task].push(answer.vector ?? answer);
  }
}
console.log(JSON.stringify(found));
"""


def ours(session: Session, entry: TaskEntry, texts: Sequence[Any]) -> list[Any]:
    """Answers of a session as `facts` has them."""
    if entry.kind == "retrieval":
        return [row.tolist() for row in session.embed(texts, task=entry.name)]
    return [answer.to_dict() for answer in session.predict(texts, task=entry.name)]


def theirs(folder: Path, entry: TaskEntry, texts: Sequence[Any]) -> list[Any]:
    """Answers of the libraries that people use, in the same form."""
    import optimum.onnxruntime as ort
    import transformers
    from sentence_transformers import SentenceTransformer

    if entry.kind == "retrieval":
        kwargs = {"file_name": "model.onnx", "provider": "CPUExecutionProvider"}
        model = SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs=kwargs)
        return [row.tolist() for row in model.encode(list(texts))]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    classes = {
        "classification": (ort.ORTModelForSequenceClassification, {"truncation": True}),
        "token-classification": (
            ort.ORTModelForTokenClassification,
            {"aggregation_strategy": "first"},
        ),
        "question-answering": (ort.ORTModelForQuestionAnswering, {}),
    }
    loaded, options = classes[entry.kind]
    name = entry.kind if entry.kind != "classification" else "text-classification"
    pipe = transformers.pipeline(name, model=loaded.from_pretrained(folder), tokenizer=tokenizer)
    if entry.kind == "question-answering":
        stride = entry.config["stride"]
        how = {"max_seq_len": entry.max_length, "max_answer_len": 30, "doc_stride": stride}
        asked = [pipe(question=one, context=context, **how) for one, context in texts]
        return [{**one, "text": one["answer"]} for one in asked]
    found = [pipe(text, **options) for text in texts]
    if entry.kind == "classification":
        return [{"label": one["label"], "score": one["score"]} for (one,) in found]
    return [{"entities": [{**one, "label": one["entity_group"]} for one in each]} for each in found]


def told(answer: Any) -> Any:
    """What must be equal of an answer."""
    if isinstance(answer, list):
        return None
    if "entities" in answer:
        return [(one["start"], one["end"], one["label"]) for one in answer["entities"]]
    return answer["label"] if "label" in answer else (answer["start"], answer["end"])


def scores(answer: Any) -> list[float]:
    """The numbers of an answer."""
    if isinstance(answer, list):
        return answer
    return [one["score"] for one in answer.get("entities", [answer])]


def compared(first: Sequence[Any], second: Sequence[Any]) -> dict[str, Any]:
    """How many answers are equal, and the largest difference of the scores of those."""
    same = [told(one) == told(other) for one, other in zip(first, second, strict=True)]
    far = [
        float(np.abs(np.subtract(scores(one), scores(other))).max(initial=0.0))
        for one, other, equal in zip(first, second, same, strict=True)
        if equal
    ]
    return {"same": sum(same), "rows": len(same), "difference": max(far, default=None)}


def in_one_window(folder: Path, entry: TaskEntry, texts: Sequence[Any]) -> list[bool]:
    """Which rows are read whole. Of more windows transformers compares probabilities that each window has for itself, ours are of all."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [len(tokenizer(*row)["input_ids"]) <= entry.max_length for row in texts]


def in_node(folder: Path, modules: str, given: dict[str, Any]) -> dict[str, Any]:
    """Answers of a web package."""
    (folder / "node_modules").symlink_to(modules)
    (folder / "check.mjs").write_text(SCRIPT)
    (folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        ["node", "check.mjs", "given.json"], cwd=folder, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    arguments = [each for each in sys.argv[1:] if each != "--node"]
    modules = arguments.pop() if "--node" in sys.argv else None
    artifact, out = open_artifact(Path(arguments[0])), Path(arguments[1])
    data = {name: Path(path) for name, _, path in (each.partition("=") for each in arguments[2:])}
    work = Path(tempfile.mkdtemp())
    for layout in ("shared", "swap"):
        export_shared(
            SharedRequest(artifact.path, (), work / layout, "fp32", EXACT, data=data, layout=layout)
        )
    texts, folded = {}, {}
    for name, path in data.items():
        entry = artifact.entry(name)
        split = evaluation_split(entry, data=path)
        assert split is not None
        rows = list(dict.fromkeys(split.texts))[:ROWS]
        texts[name] = [row[0] if entry.kind != "question-answering" else row for row in rows]
        export_onnx(ExportRequest(artifact.path, name, work / name, "fp32", EXACT, data=path))
        folded[name] = ours(Session(work / name), entry, texts[name])
    results: dict[str, Any] = {}
    for name in data:
        entry = artifact.entry(name)
        results[name] = {"type": entry.kind} | {
            layout: compared(folded[name], ours(Session(work / layout), entry, texts[name]))
            for layout in ("shared", "swap")
        }
        found = theirs(work / name, entry, texts[name])
        results[name]["libraries"] = compared(folded[name], found)
        if entry.kind == "question-answering":
            whole = in_one_window(work / name, entry, texts[name])
            both = [list(compress(each, whole)) for each in (folded[name], found)]
            results[name]["libraries, one window"] = compared(*both)
        print(name, results[name], flush=True)
    if modules is not None:
        write_package(PackageRequest(work / "shared", work / "web", Target.WEB))
        answered = in_node(work / "web", modules, texts)
        for name in data:
            results[name]["node"] = compared(folded[name], answered[name])
            print(name, "node", results[name]["node"], flush=True)
    sizes = {
        path.name: path.stat().st_size
        for path in sorted((work / "shared").rglob("*"))
        if path.is_file()
    }
    out.write_text(
        json.dumps({"tasks": results, "shared": sizes}, indent=1) + "\n", encoding="utf-8"
    )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
