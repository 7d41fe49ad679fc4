"""Answers as words, and how alike two answers are, by the definition of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250; 2018, 1806.03822).

Letter case, punctuation of ASCII, the English articles and the number of blanks do not count.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def words_in(answer: str) -> list[str]:
    """The words of an answer that count.

    >>> words_in("The  U.S. Army, an army")
    ['us', 'army', 'army']
    """
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def same_words(given: str, right: str) -> float:
    """1 if both answers have the same words in the same order, else 0."""
    return float(words_in(given) == words_in(right))


def shared_words(given: str, right: str) -> float:
    """F1 of the words of an answer against those of another; where one has none, 1 if neither has any, else 0.

    >>> shared_words("in the old town", "old town hall")  # 2 of 3 and 2 of 3
    0.6666666666666666
    """
    left, wanted = words_in(given), words_in(right)
    if not left or not wanted:
        return float(left == wanted)
    both = sum((Counter(left) & Counter(wanted)).values())
    return 2.0 * both / (len(left) + len(wanted))
