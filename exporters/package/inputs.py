"""What devices read, as packages hold it: texts and images. One line in `PACKAGED` for each, under its name in `READERS` of the runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskpack.exporters.options import Target
from maskpack.exporters.session import Feeds
from maskpack.formats import ExportError
from maskpack.models.families import IMAGES, TEXT
from maskpack.models.inputs import PIXELS
from maskpack.runtime.images import IMAGES as ENDINGS
from maskpack.runtime.images import PROCESSOR
from maskpack.runtime.readers import image_reader
from maskpack.runtime.task import TOKENIZER, TaskConfig, TaskFiles
from maskpack.runtime.tokens import load_tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class PackagedInputs:
    """What packages of tasks have that read texts, or images.

    Attributes:
        inputs: names of inputs that the examples feed; they cannot run a graph with more inputs.
        what: these inputs in a word.
        files: target -> role of a file that says how rows are read -> its name.
        companions: names of files that go with them if they are there.
        templates: target -> name in the package -> template.
        modules: of the runtime, with numpy alone, of which programs in Python get copies whatever the task's type.
        values: values of templates beside those of every package.
        size: what a row is cut to, or resized to.
        probes: batches to compare graphs on, the same in every call.
        check_web: raises ExportError unless the example in JavaScript reads rows as the task does, whose graph takes the named inputs.
    """

    inputs: tuple[str, ...]
    what: str
    files: Mapping[Target, Mapping[str, str]]
    templates: Mapping[Target, Mapping[str, str]]
    size: Callable[[TaskFiles, TaskConfig], str]
    probes: Callable[[TaskFiles, TaskConfig], list[Feeds]]
    check_web: Callable[[TaskFiles, TaskConfig, Collection[str]], None]
    companions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    values: Mapping[str, str] | None = None


_SHAPES = ((1, 1), (1, 7), (3, 33), (2, 128))
"""Rows and tokens of a probe; each row is a token shorter than the one before."""

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def _probes_of_texts(files: TaskFiles, config: TaskConfig) -> list[Feeds]:
    """Random tokens of a task, padded, not longer than its texts may be.

    Raises:
        ExportError: its tokenizer cannot be loaded.
    """
    # tokens that were added, such as one for padding, may have no embedding
    vocabulary = load_tokenizer(files.tokenizer).get_vocab_size(with_added_tokens=False)
    rng = np.random.default_rng(0)
    probes = []
    for rows, width in _SHAPES:
        size = min(width, config.max_length)
        ids = rng.integers(0, vocabulary, (rows, size), dtype=np.int64)
        kept = np.maximum(size - np.arange(rows), 1)[:, None]
        attention = (np.arange(size) < kept).astype(np.int64)
        ids[attention == 0] = config.pad[0]
        types = rng.integers(0, 2, ids.shape, dtype=np.int64) * attention
        probes.append(dict(zip(_TOKENS, (ids, attention, types), strict=True)))
    return probes


_BATCHES = (1, 3)
"""Images of a probe."""


def _probes_of_images(files: TaskFiles, config: TaskConfig) -> list[Feeds]:
    """Noise in the size that a task's graph reads.

    Raises:
        ExportError: what says how images are read is missing or damaged.
    """
    rule, rng = image_reader(files, config, {}).rule, np.random.default_rng(0)
    noise = (rng.integers(0, 256, (rows, *rule.size, 3), dtype=np.uint8) for rows in _BATCHES)
    return [{PIXELS: rule.values(pixels)} for pixels in noise]


def _size_of_texts(files: TaskFiles, config: TaskConfig) -> str:
    del files
    return str(config.max_length)


def _size_of_images(files: TaskFiles, config: TaskConfig) -> str:
    height, width = image_reader(files, config, {}).rule.size
    return f"{width} x {height}"


KNOWN = {
    "model": {"WordPiece", "BPE"},
    "normalizer": {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Sequence"},
    "pre_tokenizer": {"BertPreTokenizer", "ByteLevel", "Sequence"},
    "post_processor": {
        *("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")
    },
}
"""Part of tokenizer.json -> kinds of it for which the library gives the same tokens."""

_DECODERS = {"WordPiece", "ByteLevel"}
"""Decoders of tokenizer.json with which the library gives the same text of tokens."""

_FRAMES = {"BertProcessing", "RobertaProcessing", "TemplateProcessing"}  # put texts between marks
_AGAIN = "export the task again"
_ELSEWHERE = "package it for the target `ort`, or give the graph tokens of your own"


def check_tokenizer(files: TaskFiles, config: TaskConfig, inputs: Collection[str]) -> None:
    """Raise ExportError unless the example gives the tokens of the task's tokenizer.

    Args:
        files: of the task.
        config: of the task.
        inputs: names of what its graph takes.
    """
    path = files.tokenizer
    if config.split_special_tokens:
        raise ExportError(
            "web packages read the text of special tokens as these tokens, "
            f"`{config.name}` reads it as any other text",
            _ELSEWHERE,
        )
    if not path.with_name(TOKENIZER_CONFIG).is_file():
        raise ExportError(f"no `{TOKENIZER_CONFIG}` beside `{path}`", _AGAIN)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(tree, inputs)
        if problem is None and config.decoder.fills and tree["decoder"]["type"] not in _DECODERS:
            problem = f"its decoder is `{tree['decoder']['type']}`"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"`{path}` is damaged: {error!r}", _AGAIN) from error
    if problem is not None:
        raise ExportError(f"web packages cannot cut texts as `{path}` does: {problem}", _ELSEWHERE)


def _problem(tree: dict[str, Any], inputs: Collection[str]) -> str | None:
    """The part of a tokenizer for which the library gives other tokens, if any."""
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


def _nothing_to_check(files: TaskFiles, config: TaskConfig, inputs: Collection[str]) -> None:
    """The example's own code reads images, whatever their rule."""
    del files, config, inputs


_MODULES_OF_TEXTS = ("graphs", "fills", "words", "windows")
_TEXT_FILES = {"tokenizer": TOKENIZER}
_IMAGE_FILES = {"processor": PROCESSOR}

PACKAGED: Mapping[str, PackagedInputs] = {
    TEXT: PackagedInputs(
        inputs=_TOKENS,
        what="tokens",
        files={
            Target.ORT: _TEXT_FILES,
            Target.WEB: {**_TEXT_FILES, "tokenizer_config": TOKENIZER_CONFIG},
            Target.MOBILE: _TEXT_FILES,
        },
        templates={
            Target.ORT: {"predict.py": "predict.py.txt", "README.md": "ort.md"},
            Target.WEB: {
                "predict.mjs": "predict.mjs",
                **{f"{name}.mjs": f"{name}.mjs" for name in _MODULES_OF_TEXTS},
                "index.html": "index.html",
                "package.json": "package.json",
                "README.md": "web.md",
            },
            Target.MOBILE: {"predict.py": "predict.py.txt", "README.md": "mobile.md"},
        },
        size=_size_of_texts,
        probes=_probes_of_texts,
        check_web=check_tokenizer,
        companions=(  # what transformers may write beside tokenizer.json
            TOKENIZER_CONFIG,
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.txt",
            "vocab.json",
            "merges.txt",
            "spiece.model",
            "sentencepiece.bpe.model",
        ),
    ),
    IMAGES: PackagedInputs(
        inputs=(PIXELS,),
        what="images",
        files=dict.fromkeys(Target, _IMAGE_FILES),
        templates={
            Target.ORT: {"predict.py": "predict-images.py.txt", "README.md": "ort-images.md"},
            Target.WEB: {
                "predict.mjs": "predict-images.mjs",
                "graphs.mjs": "graphs.mjs",
                "pixels.mjs": "pixels.mjs",
                "index.html": "index-images.html",
                "package.json": "package-images.json",
                "README.md": "web-images.md",
            },
            Target.MOBILE: {"predict.py": "predict-images.py.txt", "README.md": "mobile-images.md"},
        },
        size=_size_of_images,
        probes=_probes_of_images,
        check_web=_nothing_to_check,
        modules=("pixels",),
        values={"ENDINGS": json.dumps(ENDINGS)},
    ),
}
"""What a device reads -> what packages of tasks have that read it."""
