"""Tests that need exact products of int8 where ONNX Runtime has none: on x86 without VNNI, see docs/deploy.md.

The layout `swap`, weights that several nodes read (ALBERT, DeBERTa), and `.ort` files are multiplied there with sums that overflow.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

REASON = "int8 products of this kind overflow on x86 without VNNI (docs/deploy.md)"

_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_X86 = {"x86_64", "amd64", "i686"}
_TESTS = re.compile(
    r"test_package_swap\.py::"
    r"|test_swap\.py::(?!.*fp32)"
    r"|test_narrow_embeddings\.py::.*\[4-swap-int8\]"
    r"|test_package_gzip\.py::.*\[swap\]"
    r"|test_package_web\.py::test_(a_graph_of_all_tasks|a_second_task_of_one_graph|a_damaged_file_of_inputs)"
    r"|test_export_families\.py::.*(swap-int8|albert-.*int8)\]"
    r"|test_(attention|export_several_labels|large_graphs|opset|shared|trimmed_graphs)\.py::.*\[swap\]"
    r"|test_materialize\.py::.*\[sst2-swap"
    r"|test_export_folder\.py::test_optimum_loads.*\[albert\]"
    r"|test_simulated_rounding\.py::.*\[(albert|deberta)"
    r"|test_package\.py::test_(the_python_example_answers|tasks_with_removed_units).*mobile"
    r"|test_trunk\.py::.*(int8-mobile|deberta-v2-int8)"
)


def needs_vnni(test: str) -> bool:
    """Whether a test, by its id, needs them."""
    return _TESTS.search(test) is not None


def has_vnni(flags: str | None = None) -> bool:
    """Whether this machine has them; of systems that do not tell it is taken to be so."""
    if platform.machine().lower() not in _X86:
        return True
    told = Path("/proc/cpuinfo")
    if flags is None and not told.is_file():
        return True
    return not _EXACT.isdisjoint((flags or told.read_text()).split())
