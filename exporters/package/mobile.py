"""`.ort` files for ONNX Runtime's mobile builds, by the converter that ONNX Runtime ships.

The fixed style saves the graph as it is after optimisation: masks are folded into the weights and shared
weights are copied in, so that a task is one file. The converter writes a table of the file in the order of a
hash map with a random seed, so two runs over one graph give other bytes, and now and then eight more or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskpack.exporters.session import quiet
from maskpack.formats import ExportError
from maskpack.formats.errors import first_line
from maskpack.formats.files import scratch_folder


def convert(graph: Path) -> bytes:
    """A graph, and the weights beside it, in ONNX Runtime's own format.

    Raises:
        ExportError: the converter refuses it.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import (  # noqa: PLC0415 - sets up logging
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    with scratch_folder() as home, quiet():
        try:
            convert_onnx_models_to_ort(
                graph,
                output_dir=Path(home),
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm",  # leaves out what only x86 gains from
            )
        except Exception as error:  # the runtime's errors share no public base class
            raise ExportError(f"cannot convert `{graph}`: {first_line(error)}") from error
        (made,) = Path(home).glob("*.ort")
        return made.read_bytes()


def required_operators(graphs: Sequence[Path]) -> bytes:
    """What a minimal build of ONNX Runtime must contain for these `.ort` files.

    The converter's own comment names paths of this machine; names of files replace it.
    """
    from onnxruntime.tools.ort_format_model import (  # noqa: PLC0415 - sets up logging
        create_config_from_models,
    )

    with scratch_folder() as home, quiet():
        made = Path(home) / "config"
        create_config_from_models(graphs, made, enable_type_reduction=False)
        lines = made.read_text(encoding="utf-8").splitlines()
    names = ", ".join(sorted(graph.name for graph in graphs))
    kept = [line for line in lines if not line.startswith("#")]
    return "\n".join([f"# operators of {names}", *kept, ""]).encode()
