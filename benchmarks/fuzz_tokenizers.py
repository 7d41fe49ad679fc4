"""Tokenizer folders as users have them, for `fuzz_inputs.py`: small ones of every kind, changed in their JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_format import HOSTILE, change_somewhere, cut, flip_bits, repeat_part
from fuzz_parts import BERT, Tree, random_normalizer, random_pre_tokenizer, template
from fuzz_values import CONFIG_VALUES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer

CORPUS = (
    *(
        "the film was good and the story great",
        "the food was bad, awful and sad",
        "word1 word2 word3",
    ),
    *(
        "a fine and happy film",
        "nothing here is broken: we liked it very much",
        "3.50% of $1,000 don't",
    ),
)
WORDS = (
    *BERT,
    *(
        "good",
        "great",
        "fine",
        "nice",
        "happy",
        "bad",
        "poor",
        "awful",
        "sad",
        "broken",
        "the",
        "film",
    ),
    *(
        "was",
        "food",
        "very",
        "and",
        "story",
        "##s",
        "##ing",
        "a",
        "b",
        "e",
        "x",
        "##x",
        ",",
        ".",
        "'",
    ),
    *(
        "don",
        "t",
        "word1",
        "\u00e9",
        "\u4e2d",
        "\U0001f600",
        "\u00df",
        "word3",
        "3",
        "50",
        "$",
        "%",
        "##e",
    ),
)


def _wordpiece() -> Tree:
    tokenizer = Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(BERT))
    return json.loads(tokenizer.to_str())


def _bytes() -> Tree:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return json.loads(tokenizer.to_str())


def _pieces() -> Tree:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = UnigramTrainer(
        vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    pair = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=pair
    )
    return json.loads(tokenizer.to_str())


def _fallback() -> Tree:
    """As Llama's: pieces of bytes for what is unknown, a blank before every text."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for word in ("\u2581", "a", "b", "o", "d", "g", "\u2581g", "oo", "\u2581goo", "\u2581good"):
        vocabulary[word] = len(vocabulary)
    merges = [("\u2581", "g"), ("o", "o"), ("\u2581g", "oo"), ("\u2581goo", "d")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return json.loads(tokenizer.to_str())


def _words() -> Tree:
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(BERT))
    return json.loads(tokenizer.to_str())


_FRAMES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROUND = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
}
_ROUND |= {"unk_token": "<unk>", "mask_token": "<mask>"}
BASES: dict[str, tuple[Callable[[], Tree], Tree, tuple[str, ...]]] = {
    # name -> its tree, what `tokenizer_config.json` says, and the architectures that it stands beside
    "wordpiece": (
        _wordpiece,
        {"tokenizer_class": "BertTokenizer", **_FRAMES},
        ("bert", "distilbert", "electra", "modernbert"),
    ),
    "bytes": (_bytes, {"tokenizer_class": "RobertaTokenizer", **_ROUND}, ("roberta", "modernbert")),
    "gpt": (
        _bytes,
        {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "unk_token": "<unk>"},
        ("gpt2",),
    ),
    "pieces": (
        _pieces,
        {"tokenizer_class": "XLMRobertaTokenizer", **_ROUND},
        ("roberta", "albert"),
    ),
    "deberta": (_pieces, {"tokenizer_class": "DebertaV2Tokenizer", **_ROUND}, ("deberta-v2",)),
    "xlnet": (_pieces, {"tokenizer_class": "XLNetTokenizer", **_ROUND}, ("xlnet",)),
    "fallback": (
        _fallback,
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
        ("llama",),
    ),
    "words": (
        _words,
        {"tokenizer_class": "PreTrainedTokenizerFast", **_FRAMES},
        ("bert", "electra"),
    ),
}
_made: dict[str, Tree] = {}


def base_tree(name: str) -> Tree:
    """A copy of the tree of a small tokenizer."""
    if name not in _made:
        _made[name] = BASES[name][0]()
    return copy.deepcopy(_made[name])


def _change_added(tree: Tree, rng: random.Random) -> None:
    added = tree["added_tokens"]
    if added and rng.random() < 0.3:
        added.pop(rng.randrange(len(added)))
        return
    known = len(tree["model"].get("vocab", ()))
    content = rng.choice(
        (
            "<new>",
            "",
            " ",
            "good",
            "\U0001f600",
            "a b",
            "[CLS]",
            "x\u0301",
            "\ufeff",
            "GOOD",
            "\u2581good",
        )
    )
    new = {
        "id": rng.choice((known, known + 1, 5, 10**6, 0)),
        "content": content,
        "single_word": rng.random() < 0.3,
    }
    for flag in ("lstrip", "rstrip", "normalized", "special"):
        new[flag] = rng.random() < 0.4
    added.append(new)


def _change_model(tree: Tree, rng: random.Random) -> None:
    model = tree["model"]
    options = {
        "unk_token": (None, "[UNK]", "absent"),
        "dropout": (None, 0.5, 1.0, 2.0),
        "continuing_subword_prefix": ("", "##", "@@", None),
        "max_input_chars_per_word": (0, 3, 100),
        "byte_fallback": (True, False),
        "fuse_unk": (True, False),
        "ignore_merges": (True, False),
        "end_of_word_suffix": ("</w>", None, ""),
        "unk_id": (0, 3, None, 10**6),
    }
    key = rng.choice([*options, "vocab"])
    if key != "vocab":
        model[key] = rng.choice(options[key])
    elif isinstance(model.get("vocab"), dict):
        word = rng.choice(list(model["vocab"]))
        place = model["vocab"].pop(word)
        if rng.random() < 0.5:
            model["vocab"][rng.choice(("\u00e9\u00e9", word.upper(), ""))] = rng.choice(
                (place, 0, 10**6)
            )
    elif model.get("vocab"):
        model["vocab"].pop(rng.randrange(len(model["vocab"])))


def _set(key: str, make: Callable[[random.Random], Any]) -> Callable[[Tree, random.Random], None]:
    def change(tree: Tree, rng: random.Random) -> None:
        tree[key] = make(rng)

    return change


TREE_CHANGES: dict[str, Callable[[Tree, random.Random], None]] = {
    "normalizer": _set("normalizer", random_normalizer),
    "pre-tokenizer": _set("pre_tokenizer", random_pre_tokenizer),
    "truncation": _set(
        "truncation",
        lambda rng: rng.choice(
            (
                None,
                {
                    "direction": rng.choice(("Left", "Right")),
                    "max_length": rng.choice((0, 1, 4, 512)),
                    "strategy": rng.choice(("LongestFirst", "OnlyFirst", "OnlySecond")),
                    "stride": rng.choice((0, 1, 3)),
                },
            )
        ),
    ),
    "padding": _set(
        "padding",
        lambda rng: {
            "strategy": rng.choice(("BatchLongest", {"Fixed": 8})),
            "direction": rng.choice(("Left", "Right")),
            "pad_to_multiple_of": rng.choice((None, 8)),
            "pad_id": rng.choice((0, 1, 7)),
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    ),
    "post-processor": _set(
        "post_processor",
        lambda rng: rng.choice(
            (
                None,
                template(rng),
                template(rng),
                {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
                {
                    "type": "RobertaProcessing",
                    "sep": ["</s>", 2],
                    "cls": ["<s>", 0],
                    "trim_offsets": True,
                    "add_prefix_space": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": False,
                    "use_regex": True,
                },
            )
        ),
    ),
    "decoder": _set(
        "decoder",
        lambda rng: rng.choice(
            (
                None,
                {"type": "Fuse"},
                {
                    "type": "Metaspace",
                    "replacement": "\u2581",
                    "prepend_scheme": "never",
                    "split": True,
                },
            )
        ),
    ),
    "added": _change_added,
    "model": _change_model,
    "hostile": change_somewhere,
}


def write_tokenizer(rng: random.Random, folder: Path, name: str, *, changes: int) -> list[str]:
    """Write the files of a tokenizer with so many changes into a folder; what was changed."""
    tree, config = base_tree(name), dict(BASES[name][1])
    notes, files = [], {}
    for _ in range(changes):
        kind = rng.random()
        if kind < 0.6:
            way = rng.choice(list(TREE_CHANGES))
            TREE_CHANGES[way](tree, rng)
            notes.append(way)
        else:
            key = rng.choice(list(CONFIG_VALUES))
            config[key] = (
                rng.choice(CONFIG_VALUES[key]) if rng.random() < 0.9 else rng.choice(HOSTILE)
            )
            notes.append(key)
    files["tokenizer.json"] = json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode(
        errors="surrogatepass"
    )
    files["tokenizer_config.json"] = json.dumps(config).encode()
    if rng.random() < 0.3:
        names = {key: value for key, value in config.items() if key.endswith("_token")}
        files["special_tokens_map.json"] = json.dumps(names).encode()
    if name == "wordpiece" and rng.random() < 0.3:
        files["vocab.txt"] = ("\n".join(WORDS) + "\n").encode()
    if changes and rng.random() < 0.15:
        notes += _hurt_files(files, rng)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return notes


def _hurt_files(files: dict[str, bytes], rng: random.Random) -> list[str]:
    """Damage, remove or add one file."""
    way, file = (
        rng.choice(("gone", "cut", "flips", "twice", "added", "map")),
        rng.choice(list(files)),
    )
    if way == "gone":
        del files[file]
    elif way == "added":
        files["added_tokens.json"] = rng.choice((b'{"<new>": 400}', b"[]", b"{", b'{"x": "y"}'))
    elif way == "map":
        files["special_tokens_map.json"] = json.dumps({"pad_token": rng.choice(HOSTILE)}).encode()
    else:
        files[file] = {"cut": cut, "flips": flip_bits, "twice": repeat_part}[way](files[file], rng)
    return [f"{way} {file}"]
