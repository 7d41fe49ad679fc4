"""A `tokenizer.json` with fewer tokens: which ones are chosen, and the file with their new numbers.

Always kept are special and added tokens, those that configurations name, and characters or bytes to which unknown texts fall back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from maskpack.formats import ConfigError, ModelError
from maskpack.formats.errors import Hint, first_line, no_panic
from maskpack.formats.extras import needed_for
from maskpack.formats.files import scratch_folder
from maskpack.formats.kept_tokens import KeptTokens
from maskpack.models.load import load_tokenizer
from maskpack.models.pieces import PieceModel, pieces_of, with_parts
from maskpack.models.tokenizer_files import no_room, tokenizer_files

_FILE, _OPTIONS = "tokenizer.json", "tokenizer_config.json"
_READ = (_FILE, _OPTIONS, "special_tokens_map.json", "chat_template.jinja", "config.json")
"""Files that the new tokenizer is loaded from. Others repeat the vocabulary, and transformers writes them again."""


@dataclass(frozen=True)
class Wanted:
    """Which tokens are to stay, beside those that always do.

    Attributes:
        counts: number of a token -> how often the texts have it; None: there are no texts.
        scripts: of Unicode, such as `Latin`: tokens whose letters are all of them are wanted too. Characters of other scripts than
            these and Latin are then no fallback.
        keep: tokens in all: the most frequent ones of the texts, then the first ones of the vocabulary, or of the scripts; None: all
            that are wanted.
    """

    counts: Mapping[int, int] | None = None
    scripts: tuple[str, ...] = ()
    keep: int | None = None


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The content of a `tokenizer.json`.

    Attributes:
        tree: of the file.
        named: numbers of tokens that the model's configuration names.
    """

    tree: Mapping[str, Any]
    named: frozenset[int] = frozenset()

    @classmethod
    def of(cls, files: Mapping[str, bytes], named: Collection[int] = ()) -> Vocabulary:
        """The vocabulary of files of a tokenizer.

        Raises:
            ModelError: there is no `tokenizer.json`, or one of which no token can be left out.
        """
        if _FILE not in files:
            raise ModelError(
                f"there is no `{_FILE}`, and so no vocabulary to make smaller",
                "a model of texts with a fast tokenizer is needed",
            )
        found = cls(json.loads(files[_FILE]), frozenset(named))
        pieces_of(found.tree["model"])
        return found

    @cached_property
    def model(self) -> PieceModel:
        """The kind of its pieces."""
        return pieces_of(self.tree["model"])

    @cached_property
    def pieces(self) -> dict[str, int]:
        """Piece -> number."""
        return self.model.pieces(self.tree["model"])

    @cached_property
    def added(self) -> dict[int, str]:
        """Number -> token, of special tokens and others that were added."""
        return {int(one["id"]): one["content"] for one in self.tree.get("added_tokens") or ()}

    @cached_property
    def numbers(self) -> frozenset[int]:
        """Of all tokens."""
        return frozenset(self.pieces.values()) | self.added.keys()

    def always(self, fits: Callable[[str], bool]) -> set[int]:
        """Numbers of tokens that stay whatever is wanted.

        Args:
            fits: whether a character is one to fall back to.
        """
        told = (set(_numbers_in(self.tree.get("post_processor"))) | self.named) & self.numbers
        padding = {int(one["pad_id"]) for one in (self.tree.get("padding"),) if one}
        model = self.tree["model"]
        return (
            told
            | self.added.keys()
            | self.model.needed(model)
            | (padding & self.numbers)
            | {
                number
                for piece, number in self.pieces.items()
                if (letter := self.model.character(model, piece)) is not None
                and (len(letter) > 1 or self.of_bytes or fits(letter))
            }
        )

    @cached_property
    def of_bytes(self) -> bool:
        """Whether pieces are spelled in bytes, as GPT-2's are."""
        parts = (self.tree.get(part) for part in ("pre_tokenizer", "decoder"))
        return any('"ByteLevel"' in json.dumps(part) for part in parts)

    def text_of(self, piece: str) -> str | None:
        """A piece as a text; None where its bytes are no whole letters."""
        if not self.of_bytes:
            return piece.removesuffix(self.tree["model"].get("end_of_word_suffix") or "")
        table = bytes_by_letter()
        try:
            return bytes(table[letter] for letter in piece).decode()
        except (KeyError, UnicodeDecodeError):
            return None


_EVERYWHERE = ("Latin",)
"""Scripts whose letters texts in every script have, in names, units and addresses."""


def choose(vocabulary: Vocabulary, wanted: Wanted, table: int) -> KeptTokens:
    """The tokens that stay.

    Args:
        vocabulary: of the tokenizer.
        wanted: which.
        table: rows of the table of embeddings.

    Raises:
        ConfigError: more tokens are needed than may stay, an unknown script, or all tokens are needed.
    """
    fits = _in_scripts(wanted.scripts)
    names = {number: piece for piece, number in vocabulary.pieces.items()}
    parts = vocabulary.model.parts(vocabulary.tree["model"], vocabulary.pieces)
    always = vocabulary.always(
        _in_scripts((*wanted.scripts, *_EVERYWHERE) if wanted.scripts else ())
    )
    ranked = _ranked(vocabulary, wanted, fits)
    if wanted.keep is None:
        ids = always | with_parts(ranked, names, parts)
    else:
        ids = _filled(always, ranked, wanted.keep, lambda one: with_parts([one], names, parts))
    kept = KeptTokens.of(ids, table)
    if len(kept.rows) >= table:
        raise ConfigError(
            f"all {len(vocabulary.numbers):,} tokens are needed, none would be dropped",
            Hint("give fewer `texts` or `scripts`, or a smaller `keep`"),
        )
    return kept


def _ranked(vocabulary: Vocabulary, wanted: Wanted, fits: Callable[[str], bool]) -> list[int]:
    """Numbers of the tokens that are wanted, the first one first."""
    counts = wanted.counts or {}
    found = set(counts) & vocabulary.numbers
    if wanted.scripts:
        for piece, number in vocabulary.pieces.items():
            text = vocabulary.text_of(piece)
            if text is not None and fits(text):
                found.add(number)
    elif wanted.counts is None or wanted.keep is not None:
        found |= vocabulary.numbers
    return sorted(found, key=lambda number: (-counts.get(number, 0), number))


def _filled(
    always: set[int], ranked: Sequence[int], keep: int, whole: Callable[[int], set[int]]
) -> set[int]:
    """Tokens that always stay, and as many of the others, with all their parts, as there is room for."""
    if keep < len(always):
        raise ConfigError(
            f"{keep:,} tokens are to stay, {len(always):,} are needed: special and added tokens, and characters to fall back to",
            Hint("give a `keep` of {least} or more", least=len(always)),
        )
    ids = set(always)
    for number in ranked:
        more = whole(number) - ids
        if len(ids) + len(more) <= keep:
            ids |= more
    return ids


def _in_scripts(scripts: Sequence[str]) -> Callable[[str], bool]:
    """A function: whether all letters of a text are of these scripts; without any, every text is.

    Raises:
        ConfigError: Unicode has no such script.
    """
    if not scripts:
        return lambda _: True
    with needed_for("choosing tokens by their script"):
        import regex  # noqa: PLC0415 - a package of the extra `fit`
    own = []
    for name in (*scripts, "Common", "Inherited"):
        try:
            own.append(regex.compile(rf"\p{{Script={name}}}").pattern)
        except regex.error as error:
            raise ConfigError(
                f"`{name}` is no script of Unicode",
                "its names are English, such as Latin, Cyrillic, Greek, Arabic, Devanagari, Han, Hangul",
            ) from error
    pattern = regex.compile(rf"(?:[^\p{{L}}\p{{M}}]|{'|'.join(own)})*")
    return lambda text: pattern.fullmatch(text) is not None


def bytes_by_letter() -> dict[str, int]:
    r"""The letters by which byte-level vocabularies spell bytes: printable ones stand for themselves, others from U+0100 on.

    >>> table = bytes_by_letter()
    >>> table["a"], table["\u0120"], len(table)
    (97, 32, 256)
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(own)]
    return {chr(byte): byte for byte in own} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


def renumbered(tree: Mapping[str, Any], kept: KeptTokens) -> dict[str, Any]:
    """The content of a `tokenizer.json` with the tokens that stay, under their new numbers."""
    model, padding = tree["model"], tree.get("padding")
    if padding is not None:
        padding = {**padding, "pad_id": kept.new(padding["pad_id"]) or 0}
    return {
        **tree,
        "padding": padding,
        "added_tokens": [
            {**one, "id": kept.new(int(one["id"]))} for one in tree.get("added_tokens") or ()
        ],
        "post_processor": _processor(tree.get("post_processor"), kept),
        "model": pieces_of(model).trimmed(model, kept),
    }


def _numbers_in(processor: Any) -> Iterator[int]:
    """Numbers of tokens that a post-processor puts around texts."""
    for one in (processor or {}).get("processors", ()):
        yield from _numbers_in(one)
    for token in ((processor or {}).get("special_tokens") or {}).values():
        yield from token["ids"]
    for name in ("sep", "cls"):
        if isinstance((processor or {}).get(name), list):
            yield processor[name][1]


def _processor(processor: Any, kept: KeptTokens) -> Any:
    """A post-processor with new numbers; inverse order of what `_numbers_in` finds."""
    if processor is None:
        return None
    changed: dict[str, Any] = dict(processor)
    if "processors" in processor:
        changed["processors"] = [_processor(one, kept) for one in processor["processors"]]
    if processor.get("special_tokens"):
        changed["special_tokens"] = {
            name: {**token, "ids": [kept.new(number) for number in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            changed[name] = [processor[name][0], kept.new(processor[name][1])]
    return changed


@dataclass(frozen=True, eq=False)
class TrimmedTokenizer:
    """A tokenizer with fewer tokens.

    Attributes:
        kept: the tokens that stay.
        files: of the tokenizer, as transformers saves it; no configuration of the model.
        fast: the same, loaded.
    """

    kept: KeptTokens
    files: Mapping[str, bytes]
    fast: Any = field(repr=False)


def trimmed_tokenizer(
    files: Mapping[str, bytes], vocabulary: Vocabulary, kept: KeptTokens, whole: Any
) -> TrimmedTokenizer:
    """Files of a tokenizer with the tokens that stay, loaded once to see that each has its number.

    Args:
        files: of the old one, and `config.json` of the new model.
        vocabulary: of the old one.
        kept: the tokens that stay.
        whole: the old one, loaded.

    Raises:
        ModelError: a library numbers its tokens otherwise.
    """
    used = {name: files[name] for name in _READ if name in files}
    used[_FILE] = json.dumps(renumbered(vocabulary.tree, kept), ensure_ascii=False).encode()
    if _OPTIONS in used:
        used[_OPTIONS] = _options(used[_OPTIONS], kept)
    written = tokenizer_files(_loaded(used))
    try:
        with no_panic():
            fast = Tokenizer.from_buffer(written[_FILE])
    except Exception as error:  # the library raises bare `Exception`
        raise ModelError(
            f"the trimmed `{_FILE}` cannot be read: {first_line(error)}",
            "report it with the tokenizer; its pieces may need others in a way of their own",
        ) from error
    for new, old in enumerate(kept.ids.tolist()):
        if fast.id_to_token(new) != whole.id_to_token(old):
            raise ModelError(
                f"the token {old}, `{whole.id_to_token(old)}`, should have the number {new} now, where the tokenizer has "
                f"`{fast.id_to_token(new)}`",
                "report it with the tokenizer; its vocabulary has gaps or names a token twice",
            )
    return TrimmedTokenizer(kept, written, fast)


def _loaded(files: Mapping[str, bytes]) -> Any:
    """The tokenizer of some files; its padding stays as it is."""
    try:
        with scratch_folder() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            return load_tokenizer(folder)
    except OSError as error:
        raise no_room(error) from error


def _options(data: bytes, kept: KeptTokens) -> bytes:
    """`tokenizer_config.json` with new numbers."""
    tree = json.loads(data)
    decoder = tree.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        found = ((kept.new(int(number)), token) for number, token in decoder.items())
        tree["added_tokens_decoder"] = {
            str(number): token for number, token in found if number is not None
        }
    return json.dumps(tree, indent=2, ensure_ascii=False).encode()


_NUMBERED = ("pad_index", "bos_index", "eos_index", "unk_index", "mask_index")


def named_in(config: Mapping[str, Any]) -> Iterator[int]:
    """Numbers of tokens that a `config.json` or `generation_config.json` names.

    >>> list(named_in({"pad_token_id": 1, "eos_token_id": [2, 3], "hidden_size": 8}))
    [1, 2, 3]
    """
    for key, value in config.items():
        if key.endswith("_token_id") or key in _NUMBERED:
            yield from (one for one in _listed(value) if type(one) is int and one >= 0)


def with_new_numbers(config: Mapping[str, Any], kept: KeptTokens) -> dict[str, Any]:
    """The same configuration with new numbers; one of a token that is not there becomes None."""
    changed = dict(config)
    for key, value in config.items():
        if not (key.endswith("_token_id") or key in _NUMBERED):
            continue
        new = [kept.new(one) for one in _listed(value) if type(one) is int and one >= 0]
        if new:
            changed[key] = new if isinstance(value, list) else new[0]
    return changed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
