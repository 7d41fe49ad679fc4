"""Tags of words and the entities that they mark, both ways. Pure.

Tags of this project are `O`, and for each kind of entity `B-kind` at its first word and `I-kind` at the others (IOB2, Ramshaw &
Marcus 1995, arXiv cmp-lg/9505040; Tjong Kim Sang & Veenstra 1999). `entities_in` reads other schemes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OUTSIDE = "O"
IGNORED = -100
"""In place of a tag's number where no word begins, as torch's losses have it."""
_BEGIN, _INSIDE = "B", "I"
_FIRST = {_BEGIN, "S", "U"}
_LAST = {"E", "L", "S", "U"}
PARTS = {_INSIDE, "M", *_FIRST, *_LAST}
"""First letters of tags: of IOB1, IOB2 and IO; of BIOES and BMEWO's `S`, `E` and `M`; of BILOU."""


def part_of(tag: str) -> tuple[str, str] | None:
    """Part and kind of a tag; None if it is of no scheme.

    >>> part_of("B-person"), part_of("O"), part_of("NOUN")
    (('B', 'person'), ('O', ''), None)
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    part, line, kind = tag.partition("-")
    return (part, kind) if line and kind and part in PARTS else None


def entities_in(tags: Iterable[str]) -> list[tuple[str, int, int]]:
    """Kind, first and last word of each entity.

    An entity begins at `B`, and at any other tag of it behind `O`, behind another kind, or behind the end of an entity; so all schemes
    are read, and a row that breaks one (`I` behind `O` where only `B` begins) is read as the official scorer of CoNLL reads it.

    >>> entities_in(["B-a", "I-a", "O", "I-b", "B-b"])
    [('a', 0, 1), ('b', 3, 3), ('b', 4, 4)]
    >>> entities_in(["B-a", "E-a", "S-a"])
    [('a', 0, 1), ('a', 2, 2)]

    Raises:
        ValueError: a tag of no scheme.
    """
    found: list[tuple[str, int, int]] = []
    going = False
    for place, tag in enumerate(tags):
        read = part_of(tag)
        if read is None:
            raise ValueError(f"`{tag}` is a tag of no scheme")
        part, kind = read
        if part == OUTSIDE:
            going = False
            continue
        if going and part not in _FIRST and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1], place)
        else:
            found.append((kind, place, place))
        going = part not in _LAST
    return found


def tags_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """The tags of some kinds of entities, in the order of the logits. Inverse of `kinds_of`.

    >>> tags_of(["a", "b"])
    ('O', 'B-a', 'I-a', 'B-b', 'I-b')
    """
    return (OUTSIDE, *(f"{part}-{kind}" for kind in kinds for part in (_BEGIN, _INSIDE)))


def kinds_of(tags: Sequence[str]) -> tuple[str, ...] | None:
    """The kinds of entities whose tags these are; None if they are not, or in another order."""
    kinds = tuple(tag.removeprefix(f"{_BEGIN}-") for tag in tags[1::2])
    return kinds if kinds and tuple(tags) == tags_of(kinds) else None
