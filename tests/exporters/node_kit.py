"""Node for tests of web packages: scripts beside a package's predict.mjs, and their answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = os.environ.get("MASKPACK_NODE_MODULES", "")
needs_node = pytest.mark.skipif(
    not (shutil.which("node") and Path(MODULES, "onnxruntime-web").is_dir()),
    reason="needs node, and MASKPACK_NODE_MODULES with onnxruntime-web and @huggingface/tokenizers",
)


def in_node(folder, script, given):
    """What a module beside predict.mjs prints, as JSON."""
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(MODULES)
    (folder / "check.mjs").write_text(script)
    (folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run(
        ["node", "check.mjs", "given.json"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
