"""Parts of a `tokenizer.json`, drawn at random, and empty folders, for `fuzz_inputs.py`."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

Tree = dict[str, Any]
BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def template(rng: random.Random) -> Tree:
    pieces: list[Tree] = [{"Sequence": {"id": "A", "type_id": rng.choice((0, 0, 1, 3))}}]
    ids = {}
    for _ in range(rng.randrange(3)):
        token = rng.choice((*BERT, "<s>", "</s>", "absent"))
        ids[token] = {"id": token, "ids": [rng.choice((0, 2, 3, 5, 10**6))], "tokens": [token]}
        pieces.insert(
            rng.randrange(len(pieces) + 1),
            {"SpecialToken": {"id": token, "type_id": rng.choice((0, 1, 7))}},
        )
    pair = [*pieces, {"Sequence": {"id": "B", "type_id": rng.choice((0, 1, 2))}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": ids}


def pattern(rng: random.Random) -> Tree:
    return rng.choice(
        (
            {"String": " "},
            {"Regex": r"\d"},
            {"Regex": r"\s+|\w{1,3}"},
            {"Regex": "("},
            {"String": ""},
        )
    )


def random_normalizer(rng: random.Random, depth: int = 0) -> Tree | None:
    flag = rng.choice((True, False, None))
    choices: list[Tree | None] = [
        *(
            None,
            {"type": "Lowercase"},
            {"type": "NFC"},
            {"type": "NFKD"},
            {"type": "StripAccents"},
            {"type": "Nmt"},
        ),
        {
            "type": "BertNormalizer",
            "clean_text": rng.random() < 0.5,
            "handle_chinese_chars": rng.random() < 0.5,
            "strip_accents": flag,
            "lowercase": rng.random() < 0.5,
        },
        {"type": "Strip", "strip_left": True, "strip_right": rng.random() < 0.5},
        {
            "type": "Replace",
            "pattern": pattern(rng),
            "content": rng.choice(("\u2581", "", " ", "xx")),
        },
        {"type": "Prepend", "prepend": rng.choice(("\u2581", " ", "good "))},
        {"type": "Precompiled", "precompiled_charsmap": rng.choice(("", "AAAA", None))},
    ]
    if depth < 2:
        choices.append(
            {
                "type": "Sequence",
                "normalizers": [random_normalizer(rng, depth + 1) for _ in range(rng.randrange(4))],
            }
        )
    return rng.choice(choices)


def random_pre_tokenizer(rng: random.Random, depth: int = 0) -> Tree | None:
    flag = rng.random() < 0.5
    choices: list[Tree | None] = [
        *(
            None,
            {"type": "Whitespace"},
            {"type": "WhitespaceSplit"},
            {"type": "BertPreTokenizer"},
            {"type": "UnicodeScripts"},
        ),
        {
            "type": "ByteLevel",
            "add_prefix_space": flag,
            "trim_offsets": True,
            "use_regex": rng.random() < 0.5,
        },
        {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": rng.choice(("always", "first", "never")),
            "split": flag,
        },
        {"type": "Digits", "individual_digits": flag},
        {"type": "Punctuation", "behavior": rng.choice(("Isolated", "Removed", "Contiguous"))},
        {
            "type": "Split",
            "pattern": pattern(rng),
            "behavior": rng.choice(("Removed", "Isolated", "MergedWithNext")),
            "invert": flag,
        },
        {"type": "CharDelimiterSplit", "delimiter": rng.choice(("_", " ", "\u00e9"))},
    ]
    if depth < 2:
        choices.append(
            {
                "type": "Sequence",
                "pretokenizers": [
                    random_pre_tokenizer(rng, depth + 1) for _ in range(rng.randrange(4))
                ],
            }
        )
    return rng.choice(choices)


def fresh(folder: Path) -> Path:
    """An empty folder of this path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
