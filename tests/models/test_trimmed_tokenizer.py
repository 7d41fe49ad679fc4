"""Vocabularies with fewer tokens: real tokenizers of each kind, trained here, read what they were made for as before."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from maskpack.formats import ConfigError, ModelError
from maskpack.formats.kept_tokens import KeptTokens
from maskpack.models.trimmed_tokenizer import Vocabulary, Wanted, choose, renumbered

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "looked",
    "at",
    "the",
    "garden",
    "where",
    "birds",
    "were",
    "singing",
    "loudly",
    "über",
    "straße",
    "naïve",
    "привет",
    "мир",
    "unbelievable",
    "unbelievably",
    "believing",
    "singer",
    "sings",
    "12",
    "1234",
    "3.14",
    "e-mail",
    "don't",
    "the",
    "there",
    "their",
    "theirs",
]


def corpus(rows: int, seed: int) -> list[str]:
    """Sentences of few words, some with a letter changed, so that pieces within words count."""
    draw, rows_made = random.Random(seed), []
    for _ in range(rows):
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 9))]
        if draw.random() < 0.5:
            place = draw.randrange(len(words))
            cut = draw.randrange(len(words[place]) + 1)
            words[place] = words[place][:cut] + draw.choice("abcdeé") + words[place][cut:]
        rows_made.append(" ".join(words))
    return rows_made


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _framed(tokenizer: Tokenizer) -> Tokenizer:
    pair = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=pair
    )
    tokenizer.add_special_tokens(["<late>"])  # behind all pieces
    return tokenizer


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(corpus(400, 1), trainer)
    return _framed(made)


def bytes_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus(400, 1), trainer)
    made = _framed(made)
    made.post_processor = processors.RobertaProcessing(
        ("</s>", made.token_to_id("</s>")), ("<s>", made.token_to_id("<s>"))
    )
    return made


def ended_bpe() -> Tokenizer:
    """As CLIP's: the last piece of a word ends in a mark."""
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(corpus(400, 1), trainer)
    return _framed(made)


def unigram(*, with_bytes: bool = False) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=230, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(corpus(400, 1), trainer)
    if with_bytes:
        vocab = json.loads(made.to_str())["model"]["vocab"]
        pieces = [(piece, score) for piece, score in vocab]
        pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
        made.model = models.Unigram(pieces, unk_id=3, byte_fallback=True)
    return _framed(made)


def bytes_unigram() -> Tokenizer:
    return unigram(with_bytes=True)


KINDS = {one.__name__: one for one in (word_piece, bytes_bpe, ended_bpe, unigram, bytes_unigram)}
_made: dict[str, Tokenizer] = {}


def made(kind: str) -> Tokenizer:
    if kind not in _made:
        _made[kind] = KINDS[kind]()
    return _made[kind]


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary.of({"tokenizer.json": tokenizer.to_str().encode()})


def trim(tokenizer: Tokenizer, texts: list[str] | None, **wanted) -> tuple[KeptTokens, Tokenizer]:
    counts: dict[int, int] | None = None
    if texts is not None:
        counts = {}
        for read in tokenizer.encode_batch(texts):
            for one in read.ids:
                counts[one] = counts.get(one, 0) + 1
    vocabulary = vocabulary_of(tokenizer)
    kept = choose(vocabulary, Wanted(counts, **wanted), tokenizer.get_vocab_size())
    return kept, Tokenizer.from_str(json.dumps(renumbered(vocabulary.tree, kept)))


def same(tokenizer: Tokenizer, kept: KeptTokens, fewer: Tokenizer, texts: list[str]) -> list[bool]:
    pairs = zip(tokenizer.encode_batch(texts), fewer.encode_batch(texts), strict=True)
    return [
        one.ids == kept.ids[two.ids].tolist() and one.tokens == two.tokens for one, two in pairs
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_it_is_made_for_keep_their_pieces(kind):
    tokenizer, texts = made(kind), corpus(25, 7)
    kept, fewer = trim(tokenizer, texts)
    assert len(kept.ids) < tokenizer.get_vocab_size()
    assert fewer.get_vocab_size() == len(kept.ids)
    assert all(same(tokenizer, kept, fewer, texts))
    read = fewer.encode_batch(texts)
    before = tokenizer.encode_batch(texts)
    assert fewer.decode_batch([one.ids for one in read]) == tokenizer.decode_batch(
        [one.ids for one in before]
    )
    pair = (texts[0], texts[1])
    assert kept.ids[fewer.encode(*pair).ids].tolist() == tokenizer.encode(*pair).ids


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_fall_back_to_smaller_pieces(kind):
    tokenizer, texts, others = made(kind), ["the cat sat", "a mat"], corpus(60, 11)
    kept, fewer = trim(tokenizer, texts)
    equal = same(tokenizer, kept, fewer, others)
    assert not all(equal)
    unknown = fewer.token_to_id("<unk>")
    for one, two in zip(tokenizer.encode_batch(others), fewer.encode_batch(others), strict=True):
        if tokenizer.token_to_id("<unk>") not in one.ids:
            assert unknown not in two.ids  # characters are there


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 10**6), rows=st.integers(1, 12))
def test_any_texts(kind, seed, rows):
    tokenizer, texts = made(kind), corpus(rows, seed)
    kept, fewer = trim(tokenizer, texts)
    assert all(same(tokenizer, kept, fewer, texts))


def test_special_and_added_tokens_stay_in_their_order():
    kept, fewer = trim(made("unigram"), ["the cat"])
    assert [fewer.token_to_id(name) for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert fewer.token_to_id("<late>") == len(kept.ids) - 1


def test_merges_that_cannot_be_reached_are_gone():
    tokenizer = made("bytes_bpe")
    _, fewer = trim(tokenizer, ["the cat sat"])
    before, after = (json.loads(one.to_str())["model"] for one in (tokenizer, fewer))
    assert 0 < len(after["merges"]) < len(before["merges"])
    for left, right in after["merges"]:
        assert {left, right, left + right} <= after["vocab"].keys()


def test_the_price_of_an_unknown_character_stays():
    """It hangs on the least probable piece: without that, an unknown character would cost less, and a text be cut otherwise."""
    pieces = [("<unk>", 0.0), ("ab", -21.0), ("b", -1.0), ("bc", -1.0), ("c", -15.0)]
    others = [("rare", -30.0), ("other", -2.0)]
    tokenizer, texts = Tokenizer(models.Unigram([*pieces, *others], unk_id=0)), ["abc", "bc"]
    assert tokenizer.encode("abc").tokens == ["ab", "c"]  # -36, beside -41 with an unknown a
    without = Tokenizer(models.Unigram(pieces, unk_id=0))
    assert without.encode("abc").tokens == ["a", "bc"]  # -32 with an unknown a
    kept, fewer = trim(tokenizer, texts)
    assert fewer.token_to_id("other") is None
    assert all(same(tokenizer, kept, fewer, texts))


def test_scripts_choose_tokens_by_their_letters():
    tokenizer = made("unigram")
    _, fewer = trim(tokenizer, None, scripts=("Cyrillic",))
    assert fewer.token_to_id("п") is not None
    assert fewer.token_to_id("the") is None
    assert fewer.token_to_id("t") is not None  # names and units are Latin everywhere
    _, latin = trim(tokenizer, None, scripts=("Latin",))
    # the piece of the smallest score always stays; which it is differs between two trainings
    scores = json.loads(tokenizer.to_str())["model"]["vocab"]
    least = min(scores, key=lambda pair: pair[1])[0]
    assert {piece for piece in latin.get_vocab() if set(piece) & set("приветм")} <= {least}
    digits = [piece for piece in fewer.get_vocab() if piece.strip("▁").isdigit()]
    assert digits  # no letters


def test_scripts_read_through_bytes():
    tokenizer = made("bytes_bpe")
    kept, fewer = trim(tokenizer, None, scripts=("Cyrillic",))
    assert all(same(tokenizer, kept, fewer, ["привет мир"]))
    assert not all(same(tokenizer, kept, fewer, ["the cat sat"]))
    assert fewer.decode(fewer.encode("the cat sat").ids) == "the cat sat"


def test_scripts_and_texts_together():
    tokenizer = made("unigram")
    kept, fewer = trim(tokenizer, ["the cat"], scripts=("Cyrillic",))
    assert all(same(tokenizer, kept, fewer, ["the cat"]))
    assert fewer.token_to_id("п") is not None


def test_the_most_frequent_tokens_stay_then_the_first_ones():
    tokenizer = made("word_piece")
    least = len(trim(tokenizer, [""])[0].ids)
    texts = ["the the the cat", "the cat sat"]
    assert _words(trim(tokenizer, texts, keep=least + 1)[1]) == {"the"}
    assert _words(trim(tokenizer, texts, keep=least + 2)[1]) == {"the", "cat"}
    kept, fewer = trim(tokenizer, texts, keep=least + 6)
    assert len(kept.ids) == least + 6
    assert {"the", "cat"} < _words(fewer)
    first = trim(tokenizer, None, keep=least + 3)[0].ids
    other = sorted(set(range(tokenizer.get_vocab_size())) - set(trim(tokenizer, [""])[0].ids))
    assert set(other[:3]) <= set(first)


def _words(tokenizer: Tokenizer) -> set[str]:
    return {piece for piece in tokenizer.get_vocab() if len(piece) > 1 and piece[0] not in "<#"}


def test_a_piece_brings_what_it_is_made_of():
    tokenizer = made("bytes_bpe")
    least = len(trim(tokenizer, [""])[0].ids)
    kept, fewer = trim(tokenizer, ["unbelievable"] * 5, keep=least + 2)
    assert least < len(kept.ids) <= least + 2
    assert json.loads(fewer.to_str())["model"]["merges"]


def test_refusals():
    tokenizer = made("word_piece")
    with pytest.raises(ConfigError, match="3 tokens are to stay, [0-9]+ are needed") as few:
        trim(tokenizer, ["the"], keep=3)
    assert "a `keep` of" in str(few.value.hint)
    with pytest.raises(ConfigError, match="`Klingon` is no script of Unicode"):
        trim(tokenizer, ["the"], scripts=("Klingon",))
    with pytest.raises(ConfigError, match="none would be dropped"):
        trim(tokenizer, None, keep=10**6)
    with pytest.raises(ModelError, match="of the type `WordLevel`"):
        vocabulary_of(Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")))
    with pytest.raises(ModelError, match=r"no `tokenizer\.json`"):
        Vocabulary.of({})


def test_older_files_write_a_merge_as_one_text():
    tokenizer = made("bytes_bpe")
    tree = json.loads(tokenizer.to_str())
    tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]
    vocabulary = Vocabulary(tree)
    read = tokenizer.encode("the garden")
    kept = choose(vocabulary, Wanted(dict.fromkeys(read.ids, 1)), tokenizer.get_vocab_size())
    fewer = Tokenizer.from_str(json.dumps(renumbered(tree, kept)))
    assert fewer.encode("the garden").tokens == read.tokens


def test_a_template_within_a_sequence_and_padding_get_new_numbers():
    tokenizer = Tokenizer.from_str(made("bytes_bpe").to_str())
    late = tokenizer.token_to_id("<late>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <late>", special_tokens=[("<late>", late)]),
        ]
    )
    tokenizer.enable_padding(pad_id=late, pad_token="<late>", length=12)
    kept, fewer = trim(tokenizer, ["the cat"])
    read = fewer.encode("the cat")
    assert late != fewer.token_to_id("<late>")
    assert kept.ids[read.ids].tolist() == tokenizer.encode("the cat").ids
    assert len(read.ids) == 12
