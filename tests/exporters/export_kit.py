"""Requests that the tests of exports share."""

from __future__ import annotations

import json
import shutil

import onnxruntime
import pytest
from without_vnni import has_vnni

from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.options import Compute, SharedRequest
from maskpack.runtime.graph import EXACT_PRODUCTS

ROW_KINDS = (
    *("bert", "albert"),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("roberta", "electra", "distilbert")),
)
"""Artifacts with a scale a row. Of the slow ones test_export_families.py has a graph among the others."""

KINDS = (*ROW_KINDS, "grouped")


def shared_request(artifact, out, compute="int8", tasks=(), **options):
    """A request for tasks over one backbone.bin, with narrow codes; the metric may drop freely.

    Untrained encoders sit on the fence: one argmax may differ. The logits are what counts.
    """
    kind = Compute(compute)
    tolerance = Tolerance.of(kind, max_drop=100.0)
    return SharedRequest(artifact, tasks, out, kind, tolerance, **{"packed": True, **options})


def of_older_release(folder, out):
    """A copy of an exported folder whose configurations do not say how many texts a row has."""
    shutil.copytree(folder, out)
    for path in out.glob("*.json"):
        tree = json.loads(path.read_text())
        if tree.get("format") == "maskpack-task":
            del tree["texts"]
            path.write_text(json.dumps(tree))
    return out


def exact_options():
    """Options of a plain session with the products that ours have, on x86 without VNNI too; see docs/deploy.md.

    Elsewhere the entry changes no product, and a graph of ALBERT cannot be opened with it (ONNX Runtime 1.31).
    """
    options = onnxruntime.SessionOptions()
    if not has_vnni():
        options.add_session_config_entry(*EXACT_PRODUCTS)
    return options
