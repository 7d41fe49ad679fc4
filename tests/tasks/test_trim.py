"""Artifacts and models with a smaller vocabulary: the same answers on texts whose pieces stay, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import (
    ArtifactError,
    ConfigError,
    DataError,
    ModelError,
    check_artifact,
    open_artifact,
    pack_task,
    remove_task,
    unpack_task,
)
from maskpack.tasks import find_task, restore_task
from maskpack.tasks.context import ModelContext
from maskpack.tasks.read_again import read_texts
from maskpack.tasks.trim import TrimRequest, trim_vocabulary

TEXTS = ("the film was great", "we and this story", "very quite awful food", "good")
OTHERS = ("word3 was broken", "the film was great")


@pytest.fixture
def texts(write) -> Path:
    return write("texts.txt", "\n".join(TEXTS) + "\n")


@pytest.fixture
def fewer(texts, tmp_path):
    """A function: a source with the tokens that the texts need."""

    def make(source, name: str = "fewer", **options):
        request = TrimRequest(str(source), tmp_path / name, **{"texts": (texts,), **options})
        return trim_vocabulary(request)

    return make


def logits(artifact, task: str, texts=TEXTS) -> np.ndarray:
    context, model = ModelContext.of_artifact(artifact), restore_task(artifact, task)
    tokenizer = context.preprocessor().tokenizer
    found = []
    for text in texts:
        read = tokenizer(text, return_tensors="pt")
        names = {name: value for name, value in read.items() if name != "token_type_ids"}
        with torch.no_grad():
            found.append(model(**names).logits[0].numpy())
    return np.stack(found) if found[0].ndim == 1 else found


def test_an_artifact_answers_as_before(tiny_artifact, fewer, tmp_path):
    result = fewer(tiny_artifact)
    old, new = open_artifact(tiny_artifact), open_artifact(result.out)
    assert check_artifact(result.out) == []
    assert (result.tokens_before, result.rows_before) == (45, 50)
    assert result.tokens == result.rows < 30
    assert result.bytes < result.bytes_before
    assert result.artifact
    assert [one.equal_share for one in result.texts] == [1.0]
    assert new.manifest.backbone_sha256 != old.manifest.backbone_sha256
    assert new.manifest.source == old.manifest.source
    assert json.loads(new.file("config.json"))["vocab_size"] == result.rows
    assert len(new.file("vocab.txt").splitlines()) == result.tokens
    np.testing.assert_array_equal(logits(new, "sst2"), logits(old, "sst2"))


def test_nothing_but_rows_of_tokens_changes(tiny_artifact, fewer):
    new = open_artifact(fewer(tiny_artifact).out)
    old = open_artifact(tiny_artifact)
    for part in ("linears", "embeddings"):
        for name, tensor in getattr(old.backbone, part).items():
            there = getattr(new.backbone, part)[name]
            if name.endswith("word_embeddings.weight"):
                assert there.shape == (open_rows(new), tensor.shape[1])
                continue
            np.testing.assert_array_equal(there.codes, tensor.codes)
            np.testing.assert_array_equal(there.scales, tensor.scales)
    for name, value in old.backbone.dense.items():
        np.testing.assert_array_equal(new.backbone.dense[name], value)
    one, two = old.patch("sst2"), new.patch("sst2")
    for name, mask in one.masks.items():
        np.testing.assert_array_equal(two.masks[name].packed, mask.packed)
    entry = {**vars(old.entry("sst2")), "sha256": new.entry("sst2").sha256}
    assert vars(new.entry("sst2")) == entry


def open_rows(artifact) -> int:
    return int(json.loads(artifact.file("config.json"))["vocab_size"])


def test_rows_are_those_of_their_tokens(tiny_artifact, fewer):
    old, new = open_artifact(tiny_artifact), open_artifact(fewer(tiny_artifact).out)
    both = [ModelContext.of_artifact(one).preprocessor().tokenizer for one in (old, new)]
    name = next(one for one in old.backbone.embeddings if one.endswith("word_embeddings.weight"))
    tables = [one.backbone.embeddings[name].dequantize() for one in (old, new)]
    for token, place in both[1].get_vocab().items():
        np.testing.assert_array_equal(
            tables[1][place], tables[0][both[0].convert_tokens_to_ids(token)]
        )


def test_digests_bind_patches_to_their_own_backbone(tiny_artifact, fewer):
    result = fewer(tiny_artifact)
    with pytest.raises(ArtifactError, match="backbone"):
        unpack_task(result.out, pack_task(open_artifact(tiny_artifact), "sst2"), name="again")
    packed = pack_task(open_artifact(result.out), "sst2")
    remove_task(result.out, "sst2")
    again = unpack_task(result.out, packed)
    np.testing.assert_array_equal(
        logits(again, "sst2"), logits(open_artifact(tiny_artifact), "sst2")
    )


def test_twice_is_refused_and_same_input_gives_same_bytes(tiny_artifact, fewer, snapshot):
    one, two = (snapshot(fewer(tiny_artifact, name).out) for name in ("a", "b"))
    assert one == two
    with pytest.raises(ConfigError, match="none would be dropped"):
        fewer(fewer(tiny_artifact, "c").out, "d")


@pytest.mark.parametrize(
    "kind",
    ["roberta", "electra", "albert", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama"],
)
def test_every_family(kind, family_models, fewer, sentiment, quick, tmp_path):
    out = tmp_path / "artifact"
    fit_task(
        FitRequest(str(family_models(kind)), find_task("sst2"), out, quick(steps=4), data=sentiment)
    )
    new = open_artifact(fewer(out).out)
    np.testing.assert_array_equal(logits(new, "sst2"), logits(open_artifact(out), "sst2"))


def test_positions_counted_from_the_padding_token(tiny_models, sentiment, quick, tmp_path, fewer):
    """RoBERTa numbers positions from its padding token on: tokens before it stay, whatever they are."""
    place = tmp_path / "model"
    shutil.copytree(tiny_models["roberta"], place)
    names = (place / "vocab.txt").read_text().splitlines()
    order = ["unread", "unread2", *names]
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (place / name).unlink()
    (place / "vocab.txt").write_text("\n".join(order) + "\n")
    transformers.BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(
        json.dumps({**config, "pad_token_id": 2, "max_position_embeddings": 66})
    )
    out = tmp_path / "artifact"
    fit_task(FitRequest(str(place), find_task("sst2"), out, quick(steps=4), data=sentiment))
    new = open_artifact(fewer(out).out)
    assert json.loads(new.file("config.json"))["pad_token_id"] == 2
    np.testing.assert_array_equal(logits(new, "sst2"), logits(open_artifact(out), "sst2"))


@pytest.fixture(scope="module")
def lines_artifact(tmp_path_factory, tiny_model, quick):
    """An artifact with a task that fills masks and one with vectors behind a prefix."""
    folder = tmp_path_factory.mktemp("trim")
    rows = folder / "lines.txt"
    rows.write_text("\n".join(f"{text} word{row % 4}" for row in range(20) for text in TEXTS))
    own = find_task("lines", text_field="text", kind="fill-mask")
    out = folder / "artifact"
    fit_task(FitRequest(str(tiny_model), own, out, quick(steps=4), data=rows))
    table = folder / "rows.csv"
    table.write_text("text,label\n" + "\n".join(f"{TEXTS[row % 4]},{row % 2}" for row in range(40)))
    own = find_task("behind", text_field="text", label_field="label", prefix="word9 ")
    fit_task(FitRequest(str(tiny_model), own, out, quick(steps=4), data=table))
    return out


def test_masks_are_filled_with_tokens_that_stay(lines_artifact, fewer):
    old, new = open_artifact(lines_artifact), open_artifact(fewer(lines_artifact).out)
    both = [ModelContext.of_artifact(one).preprocessor().tokenizer for one in (old, new)]
    tokens = sorted(both[1].get_vocab(), key=both[1].get_vocab().__getitem__)
    ids = both[0].convert_tokens_to_ids(tokens)
    texts = ("the film was [MASK]", "very [MASK] food")
    for before, after in zip(*(logits(one, "lines", texts) for one in (old, new)), strict=True):
        assert after.shape[-1] == len(tokens)
        np.testing.assert_array_equal(after, before[:, ids])
    assert {len(value) for value in new.patch("lines").head.values()} >= {len(tokens)}


def test_prefixes_of_tasks_are_read_too(lines_artifact, fewer):
    result = fewer(lines_artifact)
    vocabulary = ModelContext.of_artifact(open_artifact(result.out)).preprocessor().tokenizer
    assert "word9" in vocabulary.get_vocab()
    assert "word8" not in vocabulary.get_vocab()
    assert result.texts[0].texts == 2 * len(TEXTS)  # with and without


def test_other_texts_are_compared(tiny_artifact, fewer, write):
    tries = write("others.txt", "\n".join(OTHERS) + "\n")
    one = fewer(tiny_artifact, tries=(tries,)).tries[0]
    assert (one.name, one.texts, one.equal) == ("others.txt", 2, 1)
    assert (one.unknown_before, one.unknown) == (0, 2)  # no character of `word3` is a piece
    assert one.fallen == 2
    assert one.decoded == 1
    assert one.tokens_before == one.tokens == 5 + 6


def test_tables_of_texts(tiny_artifact, fewer, write):
    table = write("rows.csv", "text,label\nthe film,1\ngood,0\n")
    pairs = write("pairs.jsonl", json.dumps({"premise": "sad", "hypothesis": "food"}) + "\n")
    result = fewer(tiny_artifact, texts=(table, pairs))
    assert [one.texts for one in result.texts] == [2, 2]
    assert result.tokens == 5 + 5 + 1  # special ones, words, and `##s` to fall back to


@pytest.mark.parametrize(
    "rows", ["id,sentence,anchor\n1,the film,x\n2,good,y\n", "anchor,positive\nthe film,good\n"]
)
def test_a_table_has_the_columns_of_a_task_or_texts_that_find_others(
    tiny_artifact, fewer, write, rows
):
    """The column of sst2 has no plain name beside `anchor`."""
    result = fewer(tiny_artifact, texts=(write("rows.csv", rows),))
    assert [one.texts for one in result.texts] == [2]
    assert result.tokens == 5 + 3 + 1


def test_words_of_tagged_rows_are_read_as_the_texts_they_make(tiny_artifact, tmp_path, write):
    rows = write("rows.conll", "the O\nfilm B-x\n\ngood O\n")
    lists = write("rows.jsonl", json.dumps({"tokens": ["the", "film"]}) + "\n")
    assert read_texts(rows) == ("the film", "good")
    assert read_texts(lists) == ("the film",)


def test_a_model_reads_as_before(tiny_model, fewer):
    result = fewer(tiny_model)
    models = [transformers.AutoModel.from_pretrained(place) for place in (tiny_model, result.out)]
    both = [transformers.AutoTokenizer.from_pretrained(one) for one in (tiny_model, result.out)]
    assert models[1].get_input_embeddings().weight.shape[0] == result.rows
    for text in TEXTS:
        states = [
            model.eval()(**read(text, return_tensors="pt")).last_hidden_state
            for model, read in zip(models, both, strict=True)
        ]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert not result.artifact


def test_tasks_are_learned_on_a_model_with_fewer_tokens(
    tiny_model, fewer, sentiment, quick, tmp_path
):
    small, out = fewer(tiny_model).out, tmp_path / "artifact"
    fit_task(FitRequest(str(small), find_task("sst2"), out, quick(), data=sentiment))
    assert open_rows(open_artifact(out)) == len((small / "vocab.txt").read_text().splitlines())


def test_no_task_is_learned_over_an_artifact_that_lost_tokens(
    tiny_model, tiny_artifact, fewer, sentiment, quick
):
    out = fewer(tiny_artifact).out
    again = FitRequest(
        str(tiny_model), find_task("sst2"), out, quick(), data=sentiment, name="again"
    )
    with pytest.raises(ArtifactError, match="of the 50 embeddings") as error:
        fit_task(again)
    assert "make the model smaller first" in str(error.value.hint)


@pytest.mark.parametrize("form", ["tied", "pickled", "shards", "half"])
def test_forms_of_weights(form, tiny_model, fewer, tmp_path):
    place = tmp_path / "masked"
    config = transformers.AutoConfig.from_pretrained(tiny_model)
    torch.manual_seed(3)
    whole = transformers.BertForMaskedLM(config).eval()
    torch.nn.init.normal_(whole.cls.predictions.bias)
    whole = whole.half() if form == "half" else whole
    whole.save_pretrained(
        place,
        safe_serialization=form != "pickled",
        max_shard_size="20KB" if form == "shards" else "1GB",
    )
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(place)
    result = fewer(place)
    small = transformers.BertForMaskedLM.from_pretrained(result.out, dtype="auto").eval()
    both = [transformers.AutoTokenizer.from_pretrained(one) for one in (place, result.out)]
    tokens = sorted(both[1].get_vocab(), key=both[1].get_vocab().__getitem__)
    ids = both[0].convert_tokens_to_ids(tokens)
    feeds = [read("the [MASK] was great", return_tensors="pt") for read in both]
    with torch.no_grad():
        before, after = whole(**feeds[0]).logits, small(**feeds[1]).logits
    torch.testing.assert_close(after, before[..., ids], rtol=0, atol=0)
    stored = load_file(result.out / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {whole.dtype}


@pytest.mark.parametrize("named", [True, False])
def test_a_head_whose_columns_are_tokens(named, tiny_model, fewer, tmp_path):
    """MobileBERT's: tokens have embeddings of fewer numbers than states, and the rest of the decoder has a column a token."""
    place = tmp_path / "mobile"
    tokens = transformers.AutoTokenizer.from_pretrained(tiny_model)
    config = transformers.MobileBertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        embedding_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        intra_bottleneck_size=16,
        true_hidden_size=16,
        num_feedforward_networks=1,
        max_position_embeddings=64,
    )
    torch.manual_seed(3)
    whole = transformers.MobileBertForMaskedLM(config).eval()
    whole.save_pretrained(place)
    tokens.save_pretrained(place)
    if not named:
        tree = json.loads((place / "config.json").read_text())
        del tree["architectures"]
        (place / "config.json").write_text(json.dumps(tree))
    result = fewer(place)
    small = transformers.MobileBertForMaskedLM.from_pretrained(result.out).eval()
    less = transformers.AutoTokenizer.from_pretrained(result.out)
    own = sorted(less.get_vocab(), key=less.get_vocab().__getitem__)
    feeds = [read("the [MASK] was great", return_tensors="pt") for read in (tokens, less)]
    with torch.no_grad():
        before, after = whole(**feeds[0]).logits, small(**feeds[1]).logits
    torch.testing.assert_close(after, before[..., tokens.convert_tokens_to_ids(own)])


def test_a_head_that_the_class_does_not_have_is_judged_by_its_rows(tiny_model, fewer, tmp_path):
    place = tmp_path / "odd"
    shutil.copytree(tiny_model, place)
    weights = load_file(place / "model.safetensors")
    weights["cls.predictions.bias"] = torch.arange(50.0)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    result = fewer(place)
    bias = load_file(result.out / "model.safetensors")["cls.predictions.bias"]
    assert len(bias) == result.rows
    assert bias[0] == 0


def test_a_pipeline_of_sentence_transformers_goes_along(tiny_model, fewer, tmp_path):
    place = tmp_path / "pipeline"
    shutil.copytree(tiny_model, place)
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text("{}")
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../elsewhere"}]
    (place / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": {"query": "word7 "}}
    (place / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (place / "generation_config.json").write_text(
        json.dumps({"pad_token_id": 0, "eos_token_id": [3]})
    )
    (place / "onnx").mkdir()
    out = fewer(place).out
    assert (out / "1_Pooling" / "config.json").read_text() == "{}"
    assert not (out / "onnx").exists()
    assert "word7" in (out / "vocab.txt").read_text()
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [3]


def test_refusals(tiny_artifact, tiny_model, fewer, write, tmp_path):
    with pytest.raises(DataError, match="holds no text"):
        fewer(tiny_artifact, texts=(write("empty.txt", "\n\n"),))
    with pytest.raises(ConfigError, match="nothing says which tokens"):
        fewer(tiny_artifact, texts=())
    with pytest.raises(ConfigError, match="2 tokens are to stay, 6 are needed"):
        fewer(tiny_artifact, keep=2)
    with pytest.raises(DataError, match="cannot read"):
        fewer(tiny_artifact, texts=(tmp_path / "absent.txt",))
    place = tmp_path / "word_level"
    shutil.copytree(tiny_model, place)
    tree = json.loads((place / "tokenizer.json").read_text())
    tree["model"] = {
        "type": "WordLevel",
        "vocab": tree["model"]["vocab"],
        "unk_token": "[UNK]",
    }
    (place / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="of the type `WordLevel`"):
        fewer(place)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(ArtifactError, match="already exists"):
        fewer(tiny_artifact, "taken")
