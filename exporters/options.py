"""What an export and a package can be told. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from maskpack.exporters.arithmetic import ARITHMETICS, find_arithmetic
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.layouts import LAYOUTS, find_layout
from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options
from maskpack.runtime.providers import Provider

if TYPE_CHECKING:
    from maskpack.tasks.data.splits import Split


class Compute(StrEnum):
    """Names of the arithmetics in `ARITHMETICS` that this release brings."""

    INT8 = "int8"
    FP32 = "fp32"
    FP16 = "fp16"
    NBITS = "nbits"


class Layout(StrEnum):
    """Names of the layouts in `LAYOUTS` that this release brings."""

    FOLDED = "folded"
    SHARED = "shared"
    SWAP = "swap"
    TRUNK = "trunk"


class Target(StrEnum):
    """Who runs the graphs of a package."""

    ORT = "ort"
    WEB = "web"
    MOBILE = "mobile"


OPSET = 18
"""The opset that graphs are made in, which has all they use; read by ONNX Runtime 1.17 and later."""

IR_VERSION = 8
"""What ONNX Runtime 1.17 reads; newer onnx packages would stamp one it refuses."""


@dataclass(frozen=True)
class ToleranceOptions(Options):
    """How far a graph may be from the masked torch model, where the arithmetic's own limits do not fit."""

    atol: Annotated[
        float | None,
        Opt(
            "Largest difference of a logit.",
            within="(0, inf)",
            default="0.0001 for fp32, else none",
        ),
    ] = None
    rtol: Annotated[
        float | None,
        Opt(
            "Largest error of the logits over their size.",
            within="(0, inf)",
            default="0.02 for fp16, 0.25 for int8 and nbits, none for fp32",
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        Opt(
            "Largest loss of the metric, in points.",
            within="[0, inf)",
            default="0.5, for int8 and nbits at least 2 rows, for fp16 1",
        ),
    ] = None

    def over(self, compute: str) -> Tolerance:
        """The tolerance of an arithmetic with these limits in place of its own."""
        return Tolerance.of(compute, **asdict(self))


@dataclass(frozen=True)
class GraphOptions(Options):
    """What a graph is made of, and whether it is verified."""

    layout: Annotated[
        str,
        Opt(
            "folded: a graph that stands alone; shared: tasks over one weight file; "
            "swap: one graph for all tasks, an adapter each; trunk: tasks share a pass over their lower layers.",
            one_of=LAYOUTS,
        ),
    ] = Layout.FOLDED
    packed: Annotated[
        bool,
        Opt(
            "Keep 4, 2 and 1 bits so narrow in the weight file; unpacked needs less memory, unless a device materializes.",
            flag="packed/--unpacked",
        ),
    ] = False
    trunk_layers: Annotated[
        int | None,
        Opt(
            "Layers of the trunk layout's trunk.",
            within="[1, inf)",
            default="as many as all tasks leave alone",
        ),
    ] = None
    compute: Annotated[
        str,
        Opt(
            "int8: integer arithmetic, fastest on a CPU; fp32: exact; fp16: half precision, for GPUs; nbits: blocks "
            "of 4 bits: the smallest file, nearer to exact than int8, slower.",
            one_of=ARITHMETICS,
        ),
    ] = Compute.INT8
    opset: Annotated[
        int,
        Opt(
            "Version of the standard operators, 17 to 24; above 20 ONNX Runtime 1.17 does not read it.",
            within="[17, 24]",
        ),
    ] = OPSET
    fused: Annotated[
        bool,
        Opt(
            "In int8 and nbits graphs: let ONNX Runtime's own attention operator compute batches without padding.",
            flag="fused-attention/--plain-attention",
        ),
    ] = True
    cut_positions: Annotated[
        bool,
        Opt(
            "Of a folded graph: leave out rows of positions that no text of the task reaches; it then reads no longer input.",
            flag="cut-positions/--all-positions",
        ),
    ] = False
    verify: Annotated[bool, Opt("Compare with the masked torch model.")] = True


@dataclass(frozen=True)
class ExportRequest:
    """What to export and where to.

    Attributes:
        artifact: folder that `compress fit` wrote.
        task: one of its tasks.
        out: folder to make.
        compute: arithmetic of the linears.
        tolerance: for the verdict that follows.
        data: evaluation data, if the task's does not ship with the package.
        reference: a fine-tuned model, folder or hub id, to compare with as well.
        verify: whether to verify; without it the folder is written unchecked.
        opset: version of the standard operators.
        fused: whether batches without padding take ONNX Runtime's attention operator, where the arithmetic is for CPUs.
        rows: evaluation rows in place of `data`.
        vocab: files of texts: the graph and its tokenizer hold the tokens that these need, see `trim_vocabulary`; none: all.
        cut_positions: whether rows of positions behind the task's `max_length` are left out; the graph reads no longer input then.
    """

    artifact: Path
    task: str
    out: Path
    compute: str
    tolerance: Tolerance
    data: Path | None = None
    reference: str | None = None
    verify: bool = GraphOptions.verify
    opset: int = GraphOptions.opset
    fused: bool = GraphOptions.fused
    rows: Split | None = None
    vocab: tuple[Path, ...] = ()
    cut_positions: bool = GraphOptions.cut_positions


@dataclass(frozen=True)
class SharedRequest:
    """Which tasks to export over one file of weights, and where to.

    Attributes:
        artifact: folder that `compress fit` wrote.
        tasks: some of its tasks; none: all of them.
        out: folder to make.
        compute: arithmetic of the linears.
        tolerance: for the verdicts that follow.
        data: task -> its evaluation data, where that does not ship with the package.
        verify: whether to verify.
        packed: whether codes of 4, 2 and 1 bits stay so narrow in `backbone.bin`; graphs unpack them,
            which takes some 25 bytes a weight while a session is made.
        layout: `shared`, a graph a task; `swap`, one graph for all; or `trunk`, a graph a task on top of one for all.
        opset: version of the standard operators.
        fused: as of `ExportRequest`.
        trunk_layers: of the `trunk` layout: layers of the trunk; None: as many as all tasks leave alone.
        vocab: as of `ExportRequest`, of the texts of all tasks.
    """

    artifact: Path
    tasks: tuple[str, ...]
    out: Path
    compute: str
    tolerance: Tolerance
    data: Mapping[str, Path] = field(default_factory=dict)
    verify: bool = GraphOptions.verify
    packed: bool = GraphOptions.packed
    layout: str = Layout.SHARED
    opset: int = GraphOptions.opset
    fused: bool = GraphOptions.fused
    trunk_layers: int | None = GraphOptions.trunk_layers
    vocab: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not find_layout(self.layout).several:
            raise ConfigError(
                f"a {self.layout} graph has its weights to itself",
                f"layouts: {', '.join(name for name, layout in LAYOUTS.items() if layout.several)}",
            )
        arithmetic, layout = find_arithmetic(self.compute), find_layout(self.layout)
        if self.trunk_layers is not None and not layout.trunk:
            raise ConfigError(
                f"`trunk_layers` is {self.trunk_layers}, the {self.layout} layout has no trunk",
                f"layouts: {', '.join(name for name, one in LAYOUTS.items() if one.trunk)}",
            )
        if arithmetic.folded_only:
            raise ConfigError(
                f"{self.compute} graphs hold their masked weights, the {self.layout} layout masks shared ones",
                "export in the `folded` layout, or in `int8` or `fp32` arithmetic",
            )
        if layout.masks_as_inputs and not arithmetic.masks_as_inputs:
            raise ConfigError(
                f"{self.compute} arithmetic reads constant weights, the {self.layout} layout masks "
                "them in every run",
                "choose `int8` or `fp32` arithmetic, or the `shared` layout",
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"a task is named twice: {', '.join(self.tasks)}")


ARCHIVES = (".zip", ".tar.gz")
"""Endings of archives that can be written."""

_OTHER_ARCHIVES = {".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}


@dataclass(frozen=True)
class PackageRequest:
    """What to package and where to.

    Attributes:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        out: folder to make, or an archive if it ends in `.zip` or `.tar.gz`.
        target: who runs it.
        tasks: some of the folder's tasks; none: all of them.
        gzip: whether the example gets its files under gzip, where they get smaller; for `web` alone.
    """

    folder: Path
    out: Path
    target: Target
    tasks: tuple[str, ...] = ()
    gzip: bool = False

    def __post_init__(self) -> None:
        if self.gzip and self.target is not Target.WEB:
            raise ConfigError(
                f"files of a package for {self.target} are not compressed one by one",
                f"write an archive, which is compressed as a whole: {', '.join(ARCHIVES)}",
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"a task is named twice: {', '.join(self.tasks)}")
        if self.out.suffix in _OTHER_ARCHIVES and not self.out.name.endswith(ARCHIVES):
            raise ConfigError(
                f"`{self.out.name}` is of no known kind", f"kinds: {', '.join(ARCHIVES)}"
            )


@dataclass(frozen=True, kw_only=True)
class BenchGrid(Options):
    """Which shapes a benchmark measures, and how long."""

    batches: Annotated[
        tuple[int, ...], Opt("Texts or images in a run, with commas.", flag="batch")
    ] = (1, 8)
    lengths: Annotated[
        tuple[int, ...], Opt("Tokens in a text, with commas; images have one size.", flag="length")
    ] = (
        16,
        128,
    )
    threads: Annotated[tuple[int, ...], Opt("Threads of an operator, with commas.")] = (1, 2)
    runs: Annotated[
        int,
        Opt("Largest number of runs of each graph on each shape, and of loads.", within="[1, inf)"),
    ] = 21
    seconds: Annotated[
        float,
        Opt("No run on a shape begins after so many; three are always made.", within="(0, inf)"),
    ] = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batches", "lengths", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ConfigError(
                    f"`{name}` are {', '.join(map(str, values)) or 'none'}, "
                    "expected different numbers of 1 or more",
                    "like 1,8",
                )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Batch and length of every cell, the largest last."""
        return sorted(
            ((batch, length) for batch in self.batches for length in self.lengths),
            key=lambda shape: (shape[0] * shape[1], shape),
        )


@dataclass(frozen=True, kw_only=True)
class CostOptions(Options):
    """How the costs of units are measured."""

    batch: Annotated[int, Opt("Texts or images in a run.", within="[1, inf)")] = 1
    length: Annotated[int, Opt("Tokens in a text; images have one size.", within="[2, inf)")] = 128
    threads: Annotated[int, Opt("Threads of an operator.", within="[1, inf)")] = 1
    compute: Annotated[str, Opt("Arithmetic of the graphs.", one_of=ARITHMETICS)] = Compute.INT8
    runs: Annotated[int, Opt("Runs of each graph, three times.", within="[1, inf)")] = 51


@dataclass(frozen=True, kw_only=True)
class CostRequest(CostOptions):
    """Of which model to measure the costs of units.

    Attributes:
        model: folder, hub id or alias of a model, or an artifact.
    """

    model: str


@dataclass(frozen=True)
class BenchRequest(BenchGrid):
    """What to measure.

    Attributes:
        folder: an exported folder, of one task or several.
        task: which of them; None where there is one.
        beside: exported folders of the same task, to be measured too.
        against: the dense model: a fine-tuned folder, a hub id or a float32 `.onnx` file. None: the
            task of `artifact` without quantisation, or else the exported graph with float weights.
        artifact: where the folder came from.
        texts: file of texts for the errors, one a line; None: random tokens.
        images: instead, of a task of images: files, or folders with images; none: noise.
        providers: execution providers that all graphs run on, see `maskpack.runtime.Session`.
    """

    folder: Path
    task: str | None = None
    beside: tuple[Path, ...] = ()
    against: str | None = None
    artifact: Path | None = None
    texts: Path | None = None
    images: tuple[Path, ...] = ()
    providers: tuple[Provider, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against is not None and self.artifact is not None:
            raise ConfigError("expected one dense model", "give `against` or `artifact`")
