"""Floor 2: graphs. Trace, rewrite, write, verify. Start at `export.py`.

The names below are loaded on first use, so that reading an option never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskpack.exporters.export import export_onnx, export_shared
    from maskpack.exporters.options import (
        Compute,
        ExportRequest,
        Layout,
        SharedRequest,
        Tolerance,
    )
    from maskpack.exporters.package.target import PackageRequest, Target
    from maskpack.exporters.package.write import Package, write_package
    from maskpack.exporters.report import Report
    from maskpack.exporters.session import make_session, ort_predict
    from maskpack.exporters.verify import Subject

_HOME = {
    "export_onnx": "export",
    "export_shared": "export",
    "Compute": "options",
    "ExportRequest": "options",
    "Layout": "options",
    "SharedRequest": "options",
    "Tolerance": "options",
    "Package": "package.write",
    "write_package": "package.write",
    "Report": "report",
    "make_session": "session",
    "ort_predict": "session",
    "PackageRequest": "package.target",
    "Target": "package.target",
    "Subject": "verify",
}

__all__ = [
    "Compute",
    "ExportRequest",
    "Layout",
    "Package",
    "PackageRequest",
    "Report",
    "SharedRequest",
    "Subject",
    "Target",
    "Tolerance",
    "export_onnx",
    "export_shared",
    "make_session",
    "ort_predict",
    "write_package",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
