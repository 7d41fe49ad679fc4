"""Graphs. Trace, rewrite, write, verify. Start at `export.py`.

The names below are loaded on first use, so that reading an option never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpack.formats.lazy import lazy_names

if TYPE_CHECKING:
    from maskpack.exporters.arithmetic.base import Tolerance
    from maskpack.exporters.bench.unit_costs import MeasuredCosts, unit_costs_of
    from maskpack.exporters.export import export_onnx, export_shared
    from maskpack.exporters.exportable import check_exportable
    from maskpack.exporters.options import (
        Compute,
        CostRequest,
        ExportRequest,
        Layout,
        PackageRequest,
        SharedRequest,
        Target,
    )
    from maskpack.exporters.package.write import Package, write_package
    from maskpack.exporters.report import Report
    from maskpack.exporters.session import make_session, ort_predict
    from maskpack.exporters.verify import Subject

_HOME = {
    "check_exportable": "exportable",
    "export_onnx": "export",
    "export_shared": "export",
    "Compute": "options",
    "CostRequest": "options",
    "ExportRequest": "options",
    "MeasuredCosts": "bench.unit_costs",
    "unit_costs_of": "bench.unit_costs",
    "Layout": "options",
    "SharedRequest": "options",
    "Tolerance": "arithmetic.base",
    "Package": "package.write",
    "write_package": "package.write",
    "Report": "report",
    "make_session": "session",
    "ort_predict": "session",
    "PackageRequest": "options",
    "Target": "options",
    "Subject": "verify",
}

__all__ = [
    "Compute",
    "CostRequest",
    "ExportRequest",
    "Layout",
    "MeasuredCosts",
    "Package",
    "PackageRequest",
    "Report",
    "SharedRequest",
    "Subject",
    "Target",
    "Tolerance",
    "check_exportable",
    "export_onnx",
    "export_shared",
    "make_session",
    "ort_predict",
    "unit_costs_of",
    "write_package",
]


__getattr__ = lazy_names(__name__, _HOME, {})
