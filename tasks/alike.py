"""Labels that look alike but are not the same text: composed and decomposed accents, letters that nobody sees, look-alikes."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_TWINS = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοⅼ",  # noqa: RUF001
    "ABESIJKMHOPCTYXaesijopcyxdqwABEZHIKMNOPTYXol",
)
"""Letters of Cyrillic and Greek that are drawn as Latin ones."""
_UNSEEN = {
    "Cc",
    "Cf",
}  # control and format characters: soft hyphens, joiners, marks of direction and byte order


def look_of(text: str) -> str:
    r"""A text as a reader sees it: texts that look alike have one look.

    >>> look_of("Caf\u00e9") == look_of("Cafe\u0301 \u200b"), look_of("p\u0430y") == look_of("Pay")
    (True, True)
    """
    shown = "".join(
        " " if letter.isspace() else letter
        for letter in unicodedata.normalize("NFKC", text)
        if letter.isspace() or unicodedata.category(letter) not in _UNSEEN
    )
    return re.sub(" +", " ", shown.translate(_TWINS)).strip().casefold()


def alike(texts: Iterable[str]) -> list[list[str]]:
    """Groups of different texts that look alike, in the order of the texts.

    >>> alike(["a", "b", "A", "c"])
    [['a', 'A']]
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        groups[look_of(text)].append(text)
    return [group for group in groups.values() if len(group) > 1]


def spelled(text: str) -> str:
    r"""A text with what a reader does not see, or takes for another letter, written as a code.

    >>> spelled("pay\u200b"), spelled("p\u0430y "), spelled("Cafe\u0301"), spelled("a\u00a0b")
    ('pay\\u200b', 'p\\u0430y ', 'Cafe\\u0301', 'a\\xa0b')
    """
    return "".join(ascii(letter)[1:-1] if _odd(letter) else letter for letter in text)


def _odd(letter: str) -> bool:
    unseen = unicodedata.category(letter) in _UNSEEN or (letter.isspace() and letter != " ")
    return unseen or bool(unicodedata.combining(letter)) or ord(letter) in _TWINS
