"""Vocabularies of tokenizers as `tokenizer.json` holds them: which pieces need which, and the same with fewer of them.

Three kinds can lose pieces, because what they do not know falls back to smaller pieces. A text all of whose pieces stay is
cut as before:

* `WordPiece` takes the longest piece that fits (Schuster & Nakajima 2012). With fewer pieces the longest is the same one, if it stays.
* `BPE` merges the pair of the lowest rank first (Sennrich et al. 2016, arXiv 1508.07909). All merges on the way to a piece that stays
  are there (`_Bpe.parts`), and a merge that was not chosen before is not chosen among fewer.
* `Unigram` takes the most probable cut (Kudo 2018, arXiv 1804.10959). That cut is still there, and no other became more probable: the
  price of an unknown character hangs on the least probable piece, which therefore stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any, Protocol

from maskpack.formats import ModelError
from maskpack.formats.kept_tokens import KeptTokens

Tree = Mapping[str, Any]
"""A part of `tokenizer.json`."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how a piece of one byte is spelled


Parts = Callable[[str], frozenset[int]]
"""See `PieceModel.parts`."""


class PieceModel(Protocol):
    """What differs between kinds of vocabularies. `tree` is `model` of a `tokenizer.json`."""

    def pieces(self, tree: Tree) -> dict[str, int]:
        """Piece -> its number."""

    def needed(self, tree: Tree) -> frozenset[int]:
        """Numbers of pieces without which others would be cut otherwise; fallbacks are not among them."""

    def character(self, tree: Tree, piece: str) -> str | None:
        """The one character or byte that a piece stands for, to which unknown texts fall back; None of a longer piece."""

    def parts(self, tree: Tree, pieces: Mapping[str, int]) -> Parts:
        """A function: the pieces that a piece is made of on its way, itself left out."""

    def trimmed(self, tree: Tree, kept: KeptTokens) -> dict[str, Any]:
        """The same with the pieces that stay, under their new numbers."""


def _none(piece: str) -> frozenset[int]:
    del piece
    return frozenset()


def _renumbered(vocab: Mapping[str, int], kept: KeptTokens) -> dict[str, int]:
    """Pieces that stay, in their order."""
    found = ((piece, kept.new(number)) for piece, number in vocab.items())
    return {piece: number for piece, number in found if number is not None}


def _single(piece: str, *, prefix: str = "", suffix: str = "") -> str | None:
    """The character of a piece of one, what stands before or behind pieces within a word left out.

    >>> _single("##a", prefix="##"), _single("a</w>", suffix="</w>"), _single("ab"), _single("<0x0A>")
    ('a', 'a', None, '<0x0A>')
    """
    if _BYTE.fullmatch(piece):
        return piece
    bare = piece if len(piece) == 1 else piece.removeprefix(prefix).removesuffix(suffix)
    return bare if len(bare) == 1 else None


class _WordPiece:
    """The longest piece that fits, from the left; a word of which a character is unknown is unknown as a whole."""

    def pieces(self, tree: Tree) -> dict[str, int]:
        return dict(tree["vocab"])

    def needed(self, tree: Tree) -> frozenset[int]:
        return _found(tree["vocab"], tree.get("unk_token"))

    def character(self, tree: Tree, piece: str) -> str | None:
        return _single(piece, prefix=tree.get("continuing_subword_prefix") or "")

    def parts(self, tree: Tree, pieces: Mapping[str, int]) -> Parts:
        del tree, pieces
        return _none

    def trimmed(self, tree: Tree, kept: KeptTokens) -> dict[str, Any]:
        return {**tree, "vocab": _renumbered(tree["vocab"], kept)}


class _Bpe:
    """Pairs that are merged by rank, from characters or bytes on."""

    def pieces(self, tree: Tree) -> dict[str, int]:
        return dict(tree["vocab"])

    def needed(self, tree: Tree) -> frozenset[int]:
        return _found(tree["vocab"], tree.get("unk_token"))

    def character(self, tree: Tree, piece: str) -> str | None:
        prefix, suffix = _ends(tree)
        return _single(piece, prefix=prefix, suffix=suffix)

    def parts(self, tree: Tree, pieces: Mapping[str, int]) -> Parts:
        prefix, suffix = _ends(tree)
        ranks = {pair: rank for rank, pair in enumerate(_merges(tree))}

        def of(piece: str) -> frozenset[int]:
            way = _way(piece, ranks, prefix, suffix)
            return frozenset(pieces[one] for one in way if one in pieces)

        return of

    def trimmed(self, tree: Tree, kept: KeptTokens) -> dict[str, Any]:
        vocab, (prefix, _) = _renumbered(tree["vocab"], kept), _ends(tree)
        merges = [
            merge
            for merge, (left, right) in zip(tree["merges"], _merges(tree), strict=True)
            if {left, right, _joined(left, right, prefix)} <= vocab.keys()
        ]
        return {**tree, "vocab": vocab, "merges": merges}


def _ends(tree: Tree) -> tuple[str, str]:
    """What stands before pieces within a word, and behind the last one."""
    return tree.get("continuing_subword_prefix") or "", tree.get("end_of_word_suffix") or ""


def _merges(tree: Tree) -> Iterator[tuple[str, str]]:
    """Pairs in the order of their ranks; older files write a pair as one text."""
    for merge in tree["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _joined(left: str, right: str, prefix: str) -> str:
    return left + right.removeprefix(prefix)


def _way(
    piece: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str
) -> Iterator[str]:
    """Characters and pieces that merging passes through on its way to a piece.

    Within a text the same merges make it: one across its border would have made another piece.

    >>> ranks = {("b", "c"): 0, ("a", "bc"): 1}
    >>> list(_way("abc", ranks, "", ""))
    ['a', 'b', 'c', 'bc', 'abc']
    """
    bare = piece.removeprefix(prefix).removesuffix(suffix)
    first = prefix if prefix and piece.startswith(prefix) else ""
    parts = [(prefix if place else first) + letter for place, letter in enumerate(bare)]
    if parts and suffix and piece.endswith(suffix):
        parts[-1] += suffix
    yield from parts
    while True:
        found = [
            (ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks
        ]
        if not found:
            return
        _, best = min(found)
        parts[best : best + 2] = [_joined(parts[best], parts[best + 1], prefix)]
        yield parts[best]


class _Unigram:
    """The most probable cut; pieces have logarithms of probabilities, and their place in a list is their number."""

    def pieces(self, tree: Tree) -> dict[str, int]:
        return {piece: number for number, (piece, _) in enumerate(tree["vocab"])}

    def needed(self, tree: Tree) -> frozenset[int]:
        scores = [score for _, score in tree["vocab"]]
        least = scores.index(min(scores))  # an unknown character costs 10 more than this one
        unknown = tree.get("unk_id")
        return frozenset({least} if unknown is None else {least, unknown})

    def character(self, tree: Tree, piece: str) -> str | None:
        del tree
        return _single(piece)

    def parts(self, tree: Tree, pieces: Mapping[str, int]) -> Parts:
        del tree, pieces
        return _none

    def trimmed(self, tree: Tree, kept: KeptTokens) -> dict[str, Any]:
        vocab, unknown = tree["vocab"], tree.get("unk_id")
        inside = [vocab[number] for number in kept.ids.tolist() if number < len(vocab)]
        return {**tree, "vocab": inside, "unk_id": None if unknown is None else kept.new(unknown)}


PIECES: dict[str, PieceModel] = {"WordPiece": _WordPiece(), "BPE": _Bpe(), "Unigram": _Unigram()}
"""Kind of a vocabulary as `tokenizer.json` spells it -> what is done with it."""


def pieces_of(tree: Tree) -> PieceModel:
    """The kind of vocabulary of `model` in a `tokenizer.json`.

    Raises:
        ModelError: one without pieces to fall back to, or an unknown one.
    """
    kind = str(tree.get("type"))
    if kind not in PIECES:
        raise ModelError(
            f"the vocabulary of the tokenizer is of the type `{kind}`, from which no token can be left out",
            f"types that fall back to smaller pieces: {', '.join(PIECES)}",
        )
    return PIECES[kind]


def _found(vocab: Mapping[str, int], *names: str | None) -> frozenset[int]:
    return frozenset(vocab[name] for name in names if name is not None and name in vocab)


def with_parts(piece_ids: Collection[int], names: Mapping[int, str], parts: Parts) -> set[int]:
    """Numbers of pieces and of all that they are made of.

    Args:
        piece_ids: the pieces.
        names: number -> piece; a token that is no piece of the vocabulary has none.
        parts: of `PieceModel.parts`.
    """
    found = set(piece_ids)
    for number in piece_ids:
        if number in names:
            found |= parts(names[number])
    return found
