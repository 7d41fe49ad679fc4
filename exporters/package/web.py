"""Which tokenizers a web package can promise: those that its JavaScript library reads as Rust does.

The library, @huggingface/tokenizers, was compared with Rust's on the parts of tokenizer.json that are
listed here. It only approximates `Precompiled` (SentencePiece's character map), takes no word for whole
(`single_word`), and counts token types after `RobertaProcessing` otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from maskpack.exporters.package.source import TOKENIZER_CONFIG, Source
from maskpack.formats import ExportError

KNOWN = {
    "model": {"WordPiece", "BPE"},
    "normalizer": {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Sequence"},
    "pre_tokenizer": {"BertPreTokenizer", "ByteLevel", "Sequence"},
    "post_processor": {
        *("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")
    },
}
"""Part of tokenizer.json -> kinds of it that the library builds faithfully."""

_FRAMES = {"BertProcessing", "RobertaProcessing", "TemplateProcessing"}  # put texts between marks
_AGAIN = "export the task again"
_ELSEWHERE = "package it with `--target ort`, or give the graph tokens of your own"


def check_tokenizer(source: Source, inputs: Collection[str]) -> None:
    """Raise ExportError unless the example can cut texts as the task's tokenizer does.

    Args:
        source: the task.
        inputs: names of what its graph takes.
    """
    path = source.place.tokenizer
    if not path.with_name(TOKENIZER_CONFIG).is_file():
        raise ExportError(f"no `{TOKENIZER_CONFIG}` beside `{path}`", _AGAIN)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(tree, inputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"`{path}` is damaged: {error!r}", _AGAIN) from error
    if problem is not None:
        raise ExportError(f"web packages cannot cut texts as `{path}` does: {problem}", _ELSEWHERE)


def _problem(tree: dict[str, Any], inputs: Collection[str]) -> str | None:
    """What of a tokenizer the library would read otherwise, if anything."""
    kinds = {part: set(_kinds(tree[part])) for part in KNOWN}
    for part, known in KNOWN.items():
        if kinds[part] - known:
            return f"its {part} is `{min(kinds[part] - known)}`"
    frames = kinds["post_processor"] & _FRAMES
    if not frames:
        return "its post_processor puts no marks round a text"
    if "RobertaProcessing" in frames and "token_type_ids" in inputs:
        return "`RobertaProcessing` with a graph that takes `token_type_ids`"
    words = [token["content"] for token in tree["added_tokens"] if token["single_word"]]
    return f"`{words[0]}` is a `single_word`" if words else None


def _kinds(part: dict[str, Any] | None) -> Iterator[str]:
    """Kinds of a part of tokenizer.json and of the parts in it."""
    if part is None:
        return
    yield str(part["type"])
    for inner in ("normalizers", "pretokenizers", "processors"):
        for one in part.get(inner, ()):
            yield from _kinds(one)
