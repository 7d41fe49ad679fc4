"""What a package holds besides a task's own files: a runnable example, and a page that explains it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files

import onnxruntime

from maskpack.exporters.package.source import TOKENIZER_CONFIG, Source
from maskpack.exporters.package.target import Target
from maskpack.runtime.graph import OLDEST, shown

EXAMPLES = {
    Target.ORT: {"predict.py": "predict.py.txt", "README.md": "ort.md"},
    Target.WEB: {
        "predict.mjs": "predict.mjs",
        "index.html": "index.html",
        "package.json": "package.json",
        "README.md": "web.md",
    },
    Target.MOBILE: {"predict.py": "predict.py.txt", "README.md": "mobile.md"},
}
"""Target -> name in the package -> template."""


def example_files(sources: Sequence[Source], target: Target) -> dict[str, bytes]:
    """The example and its page: name in the package -> bytes."""
    table = {source.config.name: task_files(source, target) for source in sources}
    known = {
        "TASKS": json.dumps(table, indent=2, ensure_ascii=False),
        "TABLE": "\n".join(_row(source, target) for source in sources),
        "FIRST": sources[0].config.name,
        "MADE": f"maskpack {version('maskpack')}, checked in ONNX Runtime {onnxruntime.__version__}",
        "RUNTIME": onnxruntime.__version__,
        "OLDEST": shown(OLDEST),
    }
    return {name: _filled(template, known) for name, template in EXAMPLES[target].items()}


def task_files(source: Source, target: Target) -> dict[str, str]:
    """Role of a file -> its name in the package."""
    place = source.place
    found = {
        "graph": source.graph_name(target),
        "card": source.name(place.config),
        "tokenizer": source.name(place.tokenizer),
    }
    if place.adapter is not None:
        found["adapter"] = source.name(place.adapter)
    if target is Target.WEB:
        found["tokenizer_config"] = source.name(place.tokenizer.with_name(TOKENIZER_CONFIG))
        if source.config.weights is not None:
            found["weights"] = source.name(place.weights)
    return found


def _row(source: Source, target: Target) -> str:
    """A task in the page's table."""
    config = source.config
    labels = ", ".join(config.labels) or "a number"
    weights = (
        "" if config.weights is None or target is Target.MOBILE else f" + `{config.weights[0]}`"
    )
    adapter = source.place.adapter
    own = "" if adapter is None else f" + `{source.name(adapter)}`"
    graph = f"`{source.graph_name(target)}`{weights}{own}"
    return f"| {config.name} | {graph} | {labels} | {config.max_length} |"


def _filled(template: str, known: dict[str, str]) -> bytes:
    """A template with a text for every `@NAME@` in it."""
    text = (
        files("maskpack.exporters.package")
        .joinpath("templates", template)
        .read_text(encoding="utf-8")
    )
    for name, value in known.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()
