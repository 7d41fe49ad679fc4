"""Tokenizers that load, and fail over a text or once they are saved: refused with an error of ours."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import ConfigError, DataError, ExportError, ModelError
from maskpack.formats.errors import no_panic
from maskpack.models.tokenizer_files import shipped_tokenizer
from maskpack.runtime.tokens import load_tokenizer
from maskpack.tasks import find_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.texts import TextPreprocessor

PANIC = {
    "type": "BPE",
    "continuing_subword_prefix": "##",
    "vocab": {"w": 0, "o": 1, "wo": 2},
    "merges": [["w", "o"]],
}


@pytest.fixture
def lacking():
    """A tokenizer without a token for unknown words."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "good": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    return TextPreprocessor(fast, token_types=False)


def split(*texts):
    return Split(tuple((text,) for text in texts), np.zeros(len(texts), dtype=np.int64))


def test_a_text_for_which_the_tokenizer_has_no_token_is_named(lacking):
    assert len(lacking.encode(split("good", "good good"), max_length=8)) == 2
    with pytest.raises(DataError, match=r"cannot read `bad`: .*Missing \[UNK\]"):
        lacking.encode(split("good", "bad", "worse"), max_length=8)
    with pytest.raises(DataError, match="cannot read `bad`"):
        lacking.full_lengths([("good",), ("bad",)])


def test_a_file_of_a_tokenizer_that_cannot_be_read_back_is_named():
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0}, unk_token="[UNK]"))
    tree = json.loads(tokenizer.to_str())
    assert shipped_tokenizer({}) is None
    assert shipped_tokenizer({"tokenizer.json": json.dumps(tree).encode()}).get_vocab_size() == 1
    for odd in ({"type": "BertProcessing", "sep": 3}, None):
        wrong = {**tree, "post_processor": odd} if odd else {**tree, "model": PANIC}
        with pytest.raises(ModelError, match="`tokenizer.json`, as transformers saves it"):
            shipped_tokenizer({"tokenizer.json": json.dumps(wrong).encode()})


def test_a_device_names_a_tokenizer_over_which_the_library_panics(write):
    tree = json.loads(Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str())
    path = write("tokenizer.json", json.dumps({**tree, "model": PANIC}))
    with pytest.raises(ExportError, match="cannot load .*byte index 2"):
        load_tokenizer(path)


def test_only_a_panic_becomes_another_error():
    with pytest.raises(KeyboardInterrupt), no_panic():
        raise KeyboardInterrupt
    with pytest.raises(KeyError), no_panic():
        raise KeyError("x")


def test_two_tokens_of_one_id_are_refused_before_one_of_them_is_lost(
    tiny_model, tmp_path, quick, sentiment
):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["vocab"]["awful"] = tree["model"]["vocab"]["happy"]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    request = FitRequest(
        str(folder), find_task("sst2"), tmp_path / "artifact", quick(steps=1), data=sentiment
    )
    with pytest.raises(
        ModelError, match="loses 1 tokens when it is saved, such as `(awful|happy)`"
    ):
        fit_task(request)


def test_a_text_that_is_its_own_label_is_refused():
    with pytest.raises(ConfigError, match="`x` is named as the column of a text and of the label"):
        find_task("own", text_field="x", label_field="x")
    with pytest.raises(ConfigError, match="of a text and of the label"):
        find_task("own", text_field="a", pair_field="x", label_field="x")
