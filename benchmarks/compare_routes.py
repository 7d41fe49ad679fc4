"""What `compare.py` compares: the tasks, what is learned of them, and the commands of each tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DATA = {"sst2": "SST-2 --train-rows 6000", "cola": "CoLA", "qnli": "QNLI-split"}
SEEDS = (0, 1, 2)
UNITS = tuple(f"{task}-{seed}" for seed in SEEDS for task in DATA)
COUNTS = (1, 3, 9)  # tasks; three are those of seed 0

OLIVE = {
    "input_model": {"type": "HfModel", "task": "text-classification"},
    "systems": {
        "cpu": {
            "type": "LocalSystem",
            "accelerators": [
                {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]},
            ],
        }
    },
    "target": "cpu",
    "passes": {
        "convert": {"type": "OnnxConversion", "target_opset": 17},
        "fuse": {"type": "OrtTransformersOptimization", "model_type": "bert"},
        "quantize": {"type": "OnnxDynamicQuantization"},
    },
}
"""What `olive run` does to a model here: the three passes of Olive's own BERT example for CPUs."""


@dataclass(frozen=True)
class Training:
    """What is learned from a task's rows.

    Attributes:
        makes: what is there when it is done.
        command: with `{task}`, `{data}` (folder and rows), `{seed}` and `{unit}`.
    """

    makes: str
    command: str


_FIT = (
    "compress fit demo --task {task} --name {unit} --data {data} --epochs 3 --max-length 64 --pooling pooler"
    " --bits 4 --seed {seed}"
)
TRAINING = (
    Training(
        "twins/{unit}/config.json",
        "compress baseline demo --task {task} --data {data} --epochs 3 --max-length 64 --pooling pooler"
        " --method full --seed {seed} -o twins/{unit}",
    ),
    Training(
        "peft/{unit}/merged/config.json",
        "python {here}/peft_lora.py {task} {data} --seed {seed} -o peft/{unit}",
    ),
    Training(
        "artifact/tasks/{unit}.safetensors", _FIT + " --teacher twins/{unit} -o artifact --quiet"
    ),
    Training("untaught/tasks/{unit}.safetensors", _FIT + " --teacher none -o untaught --quiet"),
)


@dataclass(frozen=True)
class Route:
    """A way from what was learned to what ONNX Runtime runs.

    Attributes:
        title: of its row.
        commands: for a task each, or for all at once if `{unit}` is in none of them.
        graph: of a task, below `graphs/ROUTE`.
        with_it: other files there that all tasks need.
        whole: the route of the float graph that this one rounds, if it rounds.
        timed: whether it takes part in the timing.
        adapter: of Olive's, beside the graph.
    """

    title: str
    commands: tuple[str, ...]
    graph: str = "{unit}/model.onnx"
    with_it: tuple[str, ...] = ()
    whole: str | None = None
    timed: bool = True
    adapter: str | None = None


def _folded(artifact: str, compute: str) -> tuple[str, ...]:
    export = f"compress export {artifact} --onnx --task {{unit}} --compute {compute} --no-verify"
    return (f"{export} -o {{out}}/{{unit}}",)


def _optimum(model: str) -> tuple[str, ...]:
    return (f"optimum-cli export onnx --model {model} --task text-classification {{out}}/{{unit}}",)


def _optimum_int8(source: str) -> tuple[str, ...]:
    quantize = f"optimum-cli onnxruntime quantize --onnx_model graphs/{source}/{{unit}}"
    return (f"{quantize} --avx512_vnni --per_channel -o {{out}}/{{unit}}",)


_ORT = (
    'python -c "from onnxruntime.quantization import quantize_dynamic; '
    "quantize_dynamic('graphs/dense/{unit}/model.onnx', '{out}/{unit}/model.onnx')\""
)
_OLIVE_RUN = (
    "{olive} run --config olive.json -m twins/{unit} -t text-classification"
    " -o {out}/{unit} --disable_telemetry"
)
_OLIVE_CAPTURE = (
    "{olive} capture-onnx-graph -m {model} -t text-classification"
    " -a peft/{unit}/adapter -o {out}/{unit}-captured --disable_telemetry"
)
_OLIVE_ADAPTER = (
    "{olive} generate-adapter -m {out}/{unit}-captured -o {out}/{unit} --disable_telemetry"
)
ROUTES = {
    "dense": Route("fine-tuned, fp32 (Optimum)", _optimum("twins/{unit}")),
    "ort": Route("fine-tuned, `quantize_dynamic`", (_ORT,), whole="dense"),
    "optimum": Route(
        "fine-tuned, Optimum int8, per channel",
        _optimum_int8("dense"),
        graph="{unit}/model_quantized.onnx",
        whole="dense",
    ),
    "olive": Route("fine-tuned, Olive int8", (_OLIVE_RUN,), whole="dense"),
    "lora": Route("LoRA r=8 (PEFT), merged, fp32 (Optimum)", _optimum("peft/{unit}/merged")),
    "lora-int8": Route(
        "LoRA r=8, merged, Optimum int8, per channel",
        _optimum_int8("lora"),
        graph="{unit}/model_quantized.onnx",
        whole="lora",
    ),
    "lora-adapters": Route(
        "LoRA r=8, Olive adapters, fp32",
        (_OLIVE_CAPTURE, _OLIVE_ADAPTER),
        adapter="{unit}/adapter_weights.onnx_adapter",
    ),
    "fp32": Route("**maskpack**, folded, fp32", _folded("artifact", "fp32")),
    "int8": Route("**maskpack**, folded, int8", _folded("artifact", "int8"), whole="fp32"),
    "nbits": Route("**maskpack**, folded, nbits", _folded("artifact", "nbits"), whole="fp32"),
    "shared": Route(
        "**maskpack**, shared, int8",
        ("compress export artifact --onnx --layout shared --no-verify -o {out}",),
        graph="{unit}.onnx",
        with_it=("backbone.bin",),
        whole="fp32",
    ),
    "swap": Route(
        "**maskpack**, swap, int8",
        ("compress export artifact --onnx --layout swap --no-verify -o {out}",),
        graph="{unit}.onnx_adapter",
        with_it=("base.onnx", "backbone.bin"),
        whole="fp32",
    ),
    "untaught": Route(
        "maskpack without a teacher, folded, int8",
        _folded("untaught", "int8"),
        timed=False,
    ),
}


def typed(command: str, unit: str, **places: str) -> str:
    """A command for one task."""
    task, _, seed = unit.rpartition("-")
    known = {"unit": unit, "task": task, "seed": seed, "data": f"GLUE/{DATA[task]}"}
    for name, value in (known | places).items():
        command = command.replace(f"{{{name}}}", value)
    return command


def routes(olive: str | None) -> dict[str, Route]:
    """Those that can be run here."""
    return {
        name: route
        for name, route in ROUTES.items()
        if olive or not any("{olive}" in command for command in route.commands)
    }
