"""Texts before and after a vocabulary lost tokens: how often each token is needed, and which texts are cut otherwise."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maskpack.formats.schema import CONFIG
from maskpack.formats.waiting import Counted
from maskpack.models.trimmed_model import fixed_numbers, json_bytes, table_of, trimmed_config
from maskpack.models.trimmed_tokenizer import (
    TrimmedTokenizer,
    Vocabulary,
    Wanted,
    choose,
    trimmed_tokenizer,
)
from maskpack.tasks.data.columns import found_columns, plain_columns, plain_texts
from maskpack.tasks.data.tables import column_names
from maskpack.tasks.data.unlabelled import is_lines, read_unlabelled

_LOG = logging.getLogger(__name__)

_AT_ONCE = 2048  # texts


@dataclass(frozen=True)
class ReadAgain:
    """How texts become tokens with all tokens and with those that stay.

    Attributes:
        name: of the file.
        texts: in it, counted once for each prefix that tasks have.
        equal: texts with the same pieces.
        decoded: texts of which the tokens give back the same text.
        tokens: with those that stay, special ones too.
        tokens_before: with all of them.
        fallen: of `tokens` those that the text did not have before, because a longer piece is gone.
        unknown: of `tokens` those that stand for something unknown.
        unknown_before: the same of `tokens_before`.
    """

    name: str
    texts: int
    equal: int
    decoded: int
    tokens: int
    tokens_before: int
    fallen: int
    unknown: int
    unknown_before: int

    @property
    def equal_share(self) -> float:
        """Share of the texts with the same pieces."""
        return self.equal / self.texts

    @property
    def fallen_share(self) -> float:
        """Share of the tokens that stand for a longer piece that is gone."""
        return self.fallen / self.tokens if self.tokens else 0.0


def read_texts(path: Path, known: Iterable[Sequence[str]] = ()) -> tuple[str, ...]:
    """All texts of a file, of `.txt` a line each, of a table those of its columns of texts.

    Args:
        path: the file.
        known: columns of texts of some tasks: a table that has those of a task is read as that task's.

    Raises:
        DataError: it cannot be read, or holds no text.
        ConfigError: a table without such columns and without columns of plain names.
    """
    columns: Sequence[str] = ("text",)
    if not is_lines(path):
        names = column_names(path)
        own = next((each for each in known if each and set(each) <= set(names)), None)
        plain = plain_texts(names) or (plain_columns(names) or ())[:-1] or found_columns(names)
        columns = own or plain or columns
    return tuple(text for row in read_unlabelled(path, columns) for text in row if text.strip())


def plain_tokenizer(files: Mapping[str, bytes]) -> Any:
    """The tokenizer of a `tokenizer.json`, without the truncation and the padding that it may have been saved with."""
    return bare_tokenizer(Tokenizer.from_buffer(files["tokenizer.json"]))


def bare_tokenizer(tokenizer: Any) -> Any:
    """The same of one that is loaded, in place."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def prefixed(texts: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """Each text behind each prefix."""
    return [before + text for before in prefixes for text in texts]


def trim_tokenizer(
    files: Mapping[str, bytes],
    prefixes: Sequence[str],
    wanted: Wanted,
    texts: Sequence[Sequence[str]],
    whole: Any,
) -> TrimmedTokenizer:
    """Choose the tokens that stay, and make a tokenizer of them.

    Args:
        files: of an artifact, or of a model in memory: `config.json` and the tokenizer's.
        prefixes: what may stand before a text.
        wanted: which tokens are to stay; they are counted here.
        texts: of each file of texts; none: there are none.
        whole: the tokenizer with all tokens, of `plain_tokenizer`.
    """
    config = json.loads(files[CONFIG])
    vocabulary, table = Vocabulary.of(files, fixed_numbers(config)), table_of(config)
    if texts:
        counted = np.zeros(1 + max(vocabulary.numbers), dtype=np.int64)
        for each in texts:
            for ids in ids_of(whole, prefixed(each, prefixes), "counting tokens"):
                counted += np.bincount(np.concatenate(ids), minlength=len(counted))
        counts = {int(one): int(counted[one]) for one in np.flatnonzero(counted)}
        wanted = replace(wanted, counts=counts)
    kept = choose(vocabulary, wanted, table)
    new = {**files, CONFIG: json_bytes(trimmed_config(config, kept))}
    return trimmed_tokenizer(new, vocabulary, kept, whole)


def read_again(name: str, texts: Sequence[str], whole: Any, trimmed: TrimmedTokenizer) -> ReadAgain:
    """Compare how texts are read with all tokens and with those that stay.

    Args:
        name: for the result.
        texts: with their prefixes.
        whole: the tokenizer with all tokens.
        trimmed: the one with fewer.
    """
    fast, old, unknown = bare_tokenizer(trimmed.fast), trimmed.kept.ids, _unknown(whole)
    counts = np.zeros(7, dtype=np.int64)
    counted = Counted(_LOG, f"comparing pieces of `{name}`", len(texts))
    for start in range(0, len(texts), _AT_ONCE):
        part = list(texts[start : start + _AT_ONCE])
        pairs = zip(whole.encode_batch(part), fast.encode_batch(part), strict=True)
        before, after = map(list, zip(*pairs, strict=True))
        decoded = [
            one.decode_batch([each.ids for each in read])
            for one, read in ((whole, before), (fast, after))
        ]
        for own, new, *both in zip(before, after, *decoded, strict=True):
            again = old[np.array(new.ids, dtype=np.int64)]
            same = again.tolist() == own.ids
            fallen = 0 if same else _fallen(own, new, again)
            lost = (int((again == unknown).sum()), own.ids.count(unknown))
            counts += (same, both[0] == both[1], len(again), len(own.ids), fallen, *lost)
        counted.add(len(part))
    return ReadAgain(name, len(texts), *map(int, counts))


def _fallen(own: Any, new: Any, again: NDArray[np.int64]) -> int:
    """Tokens that stand where the whole vocabulary has another one."""
    there = set(zip(own.ids, own.offsets, strict=True))
    return sum(one not in there for one in zip(again.tolist(), new.offsets, strict=True))


def _unknown(tokenizer: Any) -> int:
    """Number of the token for what is unknown; -1: there is none."""
    told = getattr(tokenizer.model, "unk_token", None)
    if told is None:
        tree = json.loads(tokenizer.to_str())["model"]
        return -1 if tree.get("unk_id") is None else int(tree["unk_id"])
    found = tokenizer.token_to_id(told)
    return -1 if found is None else int(found)


def ids_of(tokenizer: Any, texts: Sequence[str], what: str) -> Iterator[list[NDArray[np.int64]]]:
    """Numbers of the tokens of each text, many texts at once."""
    counted = Counted(_LOG, what, len(texts))
    for start in range(0, len(texts), _AT_ONCE):
        part = list(texts[start : start + _AT_ONCE])
        yield [np.array(one.ids, dtype=np.int64) for one in tokenizer.encode_batch(part)]
        counted.add(len(part))
