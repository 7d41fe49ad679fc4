"""Execution providers, where ONNX Runtime computes: the one place that reads their names.

The CPU is always the last of them: what no other provider takes, it computes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from maskpack.formats.errors import ConfigError

_LOG = logging.getLogger(__name__)

Provider = str | tuple[str, Mapping[str, Any]]
"""A provider's name, or its name and ONNX Runtime's options for it. `cuda` is `CUDAExecutionProvider`."""

CPU = "CPUExecutionProvider"
_ENDING = CPU.removeprefix("CPU").casefold()
_PACKAGES = {name: name for name in ("migraphx", "openvino", "rocm", "webgpu")}
_PACKAGES |= {"cuda": "gpu", "dml": "directml", "tensorrt": "gpu"}
"""Short name -> the last part of the package whose ONNX Runtime has it; the one for macOS has `coreml`."""


def find_providers(wanted: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Providers with their full names and options, the CPU last; what it returns, it also takes.

    Args:
        wanted: in order of preference. Upper and lower case are alike, `ExecutionProvider` may be left out.

    Raises:
        ConfigError: one of them is not installed.
    """
    import onnxruntime  # noqa: PLC0415 - `compress --help` reads the names above

    installed = {_short(name): name for name in onnxruntime.get_available_providers()}
    found: dict[str, dict[str, Any]] = {}
    for one in (*wanted, CPU):
        name, options = (one, {}) if isinstance(one, str) else one
        short = _short(name)
        if short not in installed:
            known = ", ".join(sorted(installed))
            raise ConfigError(
                f"no execution provider `{name}` is installed, there are: {known}",
                f"`pip uninstall onnxruntime`, then `pip install onnxruntime-{_PACKAGES[short]}`"
                if short in _PACKAGES
                else "install an ONNX Runtime that has it, or choose another one",
            )
        found.setdefault(installed[short], dict(options))
    return list(found.items())


def _short(name: str) -> str:
    return name.casefold().removesuffix(_ENDING)


def report_start(wanted: Sequence[tuple[str, Any]], running: Sequence[str]) -> None:
    """Log where a graph runs: a warning if a provider did not start, as without its libraries or its device.

    Args:
        wanted: from `find_providers`.
        running: what a session's `get_providers` says.
    """
    _LOG.debug("ONNX Runtime runs on %s", ", ".join(running))
    for name, _ in wanted:
        if name not in running:
            _LOG.warning(
                "`%s` is installed and did not start, `%s` runs in its place", name, running[0]
            )
