"""Commands over inputs of `fuzz_inputs.py`, called in this process: exit codes, and what they say."""

from __future__ import annotations

import io
import json
import logging
import random
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from fuzz_models import write_model
from fuzz_tables import put, random_table
from fuzz_whole import Kit

from maskpack.cli import app
from maskpack.formats import ConfigError, DataError


def cli_case(rng: random.Random, folder: Path, kit: Kit) -> str:
    """A command in this process: its exit code, and what it says."""
    artifact, out = kit.exported()
    way = rng.choice(("predict", "predict", "lines", "eval", "fit", "quantize", "doctor", "verify"))
    table = random_table(rng, tame=way == "fit" and rng.random() < 0.5)
    data = put(table, rng, folder, "rows")
    fields = (
        ["--text-field", table.texts[0], "--label-field", table.label] if rng.random() < 0.6 else []
    )
    words = {
        "predict": ["predict", out, "--data", data, *fields],
        "lines": ["predict", out, "--texts", data],
        "eval": ["eval", artifact, "--data", data],
        "verify": ["verify", out, "--artifact", artifact, "--data", data],
        "doctor": ["doctor", rng.choice((artifact, out, folder))],
    }.get(way, [])
    if way in {"fit", "quantize"}:
        write_model(rng, kit.root, folder / "model", changes=rng.choice((0, 1, 1)))
        words = ["quantize", folder / "model", "-o", folder / "made", "--bits", "4", "--group", "8"]
    if way == "fit":
        words[0] = "fit"
        words += ["--data", data, *fields, "--steps", "1", "--batch-size", "8", "--max-length", "8"]
        words += [
            "--teacher",
            "none",
            "--precision",
            "fp32",
            "--task",
            "own",
            "--skip-export-check",
        ]
    code, said, errors = call([str(word) for word in words])
    if code not in {0, 1, 2} or "Traceback" in errors:
        raise AssertionError(f"exit {code} of {words}: {errors[-1500:]}")
    if words[0] == "predict":
        for line in said.splitlines():
            json.loads(line)
    if code == 2:
        raise AssertionError(f"wrong usage of our own: {words}: {errors[-500:]}")
    if code and "error:" not in errors:
        raise AssertionError(f"exit {code} of {words} without a word")
    if code:
        raise {"predict": DataError, "eval": DataError}.get(words[0], ConfigError)(
            errors.strip()[-200:]
        )
    return "worked"


def call(words: list[str]) -> tuple[int, str, str]:
    """Exit code and streams of `compress WORDS`."""
    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)
    ]
    before, sys.argv = sys.argv, ["compress", *words]
    code = 0
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            app.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0) if not isinstance(leaving.code, str) else 1
    finally:
        sys.argv = before
        ours = logging.getLogger("maskpack")
        ours.handlers = [one for one in ours.handlers if isinstance(one, logging.NullHandler)]
    out, errors = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return code, out, errors
