"""Memory and seconds of `quantize`, `export` and an answer over models of 22 million to 1.1 billion parameters.

python benchmarks/large_models.py make FOLDER --shape 1.1B     # random weights in bfloat16, shard by shard
python benchmarks/large_models.py run WORK --out docs/results/large-models.json

`run` makes each model, and does each step in a process of its own through the command line. A thread reads
`RssAnon` of that process every 10 ms: the largest is the memory that the system can only get back by swapping.
`VmHWM`, which Linux keeps, also counts pages of mapped files, which it can drop. The task has a random mask and head
and was not learned: what is stored and computed does not depend on their values.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

LABELS = ("no", "yes")
FLIPS = 0.01  # share of weights that the mask removes
SHARD = 400_000_000  # bytes
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "llama",
        {
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        | {"intermediate_size": 176, "vocab_size": 32_000},
    ),
    "22M": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
        | {"intermediate_size": 1536},
    ),
    "110M": ("bert", {}),
    "560M": (
        "xlm-roberta",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"intermediate_size": 4096, "vocab_size": 250_002, "max_position_embeddings": 514}
        | {"type_vocab_size": 1},
    ),
    "1.1B": (
        "llama",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
        }
        | {"intermediate_size": 5632, "vocab_size": 32_000, "max_position_embeddings": 2048},
    ),
}
HEADS = {"bert": "classifier", "xlm-roberta": "classifier", "llama": "score"}


def config_of(shape: str) -> Any:
    from transformers import CONFIG_MAPPING

    kind, sizes = SHAPES[shape]
    config = CONFIG_MAPPING[kind](**sizes)
    config.pad_token_id = 0 if kind != "xlm-roberta" else 1
    config.num_labels = len(LABELS)
    return config


def make_model(folder: Path, shape: str) -> None:
    """Write a checkpoint with random weights, as transformers reads one, without holding more than a shard."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    from maskpack.models.load import load_pretrained

    config, rng = config_of(shape), torch.Generator().manual_seed(0)
    auto = AutoModelForCausalLM if config.model_type == "llama" else AutoModelForMaskedLM
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in auto.from_config(config).named_parameters()}
        if (
            config.model_type == "bert"
        ):  # a masked language model has no pooler, MiniLM and BERT have one
            width = config.hidden_size
            shapes["bert.pooler.dense.weight"] = torch.Size((width, width))
            shapes["bert.pooler.dense.bias"] = torch.Size((width,))
    folder.mkdir(parents=True)
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in shapes.items():
        if held and held + 2 * size.numel() > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += 2 * size.numel()
    places = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weights = {name: random_weight(name, shapes[name], rng) for name in names}
        save_file(weights, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    total = 2 * sum(size.numel() for size in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    tree = config.to_dict() | {"torch_dtype": "bfloat16", "dtype": "bfloat16"}
    for name, data in load_pretrained("demo").files.items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(tree))


def random_weight(name: str, size: Any, rng: Any) -> Any:
    import torch

    if len(size) == 1:
        whole = torch.ones(size) if name.endswith("weight") else torch.zeros(size)
    else:
        whole = torch.randn(size, generator=rng).mul_(0.02)
    return whole.to(torch.bfloat16)


def add_random_task(folder: Path) -> None:
    """Add the task `t0` with a random mask and head."""
    import numpy as np

    from maskpack.formats import BitMask, Patch, add_task, open_artifact
    from maskpack.models.build import head_parameters
    from maskpack.tasks.context import described
    from maskpack.tasks.types import TASK_TYPES

    artifact, rng = open_artifact(folder), np.random.default_rng(0)
    masks = {
        name: BitMask.from_bool(rng.random(tensor.shape, dtype=np.float32) >= FLIPS)
        for name, tensor in artifact.backbone.linears.items()
    }
    import torch

    from maskpack.models.build import fresh_classifier

    config = described(artifact.file("config.json"), TASK_TYPES["classification"], LABELS)
    with torch.device("meta"):
        parameters = head_parameters(fresh_classifier(config))
    head = {
        name: rng.normal(0, 0.05, tuple(parameter.shape)).astype(np.float16)
        for name, parameter in parameters.items()
    }
    patch = Patch(masks, head)
    learned = artifact.entry("one").renamed("t0")  # so that the manifest knows columns and labels
    entry = replace(learned, zeros=patch.count.zeros, weights=patch.count.weights)
    add_task(folder, entry, patch)


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Peaks of this process while the block runs, in MiB, and its seconds."""
    from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory

    found: dict[str, float] = {"anon_mib": 0.0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            found["anon_mib"] = max(found["anon_mib"], memory_now().anon)

    forget_peak()
    found["started_anon_mib"] = memory_now().anon
    watcher, began = threading.Thread(target=look, daemon=True), time.perf_counter()
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found["seconds"] = time.perf_counter() - began
        found["rss_mib"] = peak_memory()


def run_stage(out: Path, words: list[str]) -> None:
    """A command of maskpack in this process; peaks to a file."""
    from maskpack.cli.app import main

    sys.argv = ["compress", *words]
    code: object = 0
    with watched() as found:
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
    out.write_text(json.dumps({name: round(value, 1) for name, value in found.items()}))
    sys.exit(code if isinstance(code, int) else 1)


def stage(work: Path, *words: object) -> dict[str, Any]:
    """A command of maskpack in a fresh process: its peaks."""
    out = work / "stage.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "stage", str(out), *map(str, words)]
    print("$ compress", *words, flush=True)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        return {"failed": done.returncode} | (json.loads(out.read_text()) if out.exists() else {})
    found: dict[str, Any] = json.loads(out.read_text())
    print(f"   {found}", flush=True)
    return found


def measure(work: Path, shape: str, computes: list[str], *, gptq: bool) -> dict[str, Any]:
    """All steps over one model."""
    model, artifact = work / "model", work / "artifact"
    for folder in (model, artifact, work / "gptq"):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, __file__, "make", str(model), "--shape", shape], check=True)
    found: dict[str, Any] = {"shape": shape, "parameters": parameters_of(shape)}
    found["model_bytes"] = size_of(model)
    found["quantize"] = stage(work, "quantize", model, "--bits", 4, "-o", artifact)
    if gptq:
        options = ("--bits", 4, "--quantizer", "gptq", "-o", work / "gptq")
        found["quantize_gptq"] = stage(work, "quantize", model, *options)
        shutil.rmtree(work / "gptq", ignore_errors=True)
    found["artifact_bytes"] = size_of(artifact)
    found["fit_step"] = stage(work, "fit", model, *one_step(work, shape), "-o", artifact)
    shutil.rmtree(model)
    subprocess.run([sys.executable, __file__, "task", str(artifact)], check=True)
    for compute in computes:
        out = work / compute
        shutil.rmtree(out, ignore_errors=True)
        words = (artifact, "--onnx", "--task", "t0", "-o", out, "--compute", compute)
        own: dict[str, Any] = {"export": stage(work, "export", *words, "--no-verify")}
        (work / "texts.txt").write_text("a plain film\n")
        own["answer"] = stage(work, "predict", out, "--texts", work / "texts.txt")
        checked = ("--artifact", artifact, "--task", "t0", "--data", work / "rows.tsv")
        loose = ("--max-drop", 100, "--atol", 100, "--rtol", 100)  # weights are random
        own["verify"] = stage(work, "verify", out, *checked, *loose)
        own["files"] = {path.name: path.stat().st_size for path in sorted(out.glob("model*"))}
        found[compute] = own
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(artifact)
    return found


def one_step(work: Path, shape: str) -> list[object]:
    """Options of a run of one step of 8 rows with 64 tokens, in float32, without a teacher.

    At 1.1 billion the scores, gradients and moments of all weights would take 16 GB beside the model's 4: there, as one
    would, the two upper layers are masked.
    """
    rows = [f"{'a plain film and ' * 20}\t{label}" for label in LABELS * 4]
    (work / "rows.tsv").write_text("\n".join(["text\tlabel", *rows, ""]))
    options = ["--task", "one", "--data", work / "rows.tsv", "--eval-data", work / "rows.tsv"]
    options += ["--steps", 1, "--batch-size", 8, "--max-length", 64, "--bits", 4]
    options += ["--teacher", "none", "--precision", "fp32", "--checkpoint-every", 0]
    return options + (["--layers", "20-21"] if shape == "1.1B" else [])


def parameters_of(shape: str) -> int:
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModel.from_config(config_of(shape)).parameters())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    if sys.argv[1] == "stage":
        run_stage(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("folder", type=Path)
    make.add_argument("--shape", choices=SHAPES, default="1.1B")
    task = commands.add_parser("task")
    task.add_argument("folder", type=Path)
    run = commands.add_parser("run")
    run.add_argument("work", type=Path)
    run.add_argument("--shapes", nargs="+", choices=SHAPES, default=["22M", "110M", "560M", "1.1B"])
    run.add_argument("--compute", nargs="+", default=["int8", "nbits", "fp32", "fp16"])
    run.add_argument(
        "--gptq", nargs="*", choices=SHAPES, default=(), help="shapes to quantise with GPTQ as well"
    )
    run.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make_model(args.folder, args.shape)
    elif args.command == "task":
        add_random_task(args.folder)
    else:
        args.work.mkdir(parents=True, exist_ok=True)
        results = []
        for shape in args.shapes:
            results.append(measure(args.work, shape, args.compute, gptq=shape in args.gptq))
            if args.out is not None:
                args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
