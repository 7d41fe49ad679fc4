"""Model folders as users have them, for `fuzz_inputs.py`: a tiny one of every architecture, changed in configuration or weights."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from fuzz_format import HOSTILE, change_somewhere, cut, flip_bits, huge_header, overwrite
from fuzz_parts import fresh
from fuzz_tokenizers import BASES, write_tokenizer
from fuzz_values import ODD, SIZE
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_SIZES = {
    "vocab_size": SIZE,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.25,
}
_USUAL = {**_SIZES, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 64}
_GPT = {
    "vocab_size": SIZE,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 64,
    "eos_token_id": 2,
    "bos_token_id": 0,
}
_XLNET = {
    "vocab_size": SIZE,
    "n_layer": 1,
    "n_head": 2,
    "d_model": 16,
    "d_inner": 24,
    "initializer_range": 0.25,
}
_DISTIL = {
    "vocab_size": SIZE,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 1,
    "n_heads": 2,
    "max_position_embeddings": 64,
}
_MODERN = {
    "pad_token_id": 0,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_cutoff_factor": 2.0,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _USUAL),
    "roberta": ("Roberta", {**_USUAL, "max_position_embeddings": 66, "pad_token_id": 1}),
    "electra": ("Electra", {**_USUAL, "embedding_size": 8}),
    "albert": ("Albert", {**_USUAL, "embedding_size": 8, "hidden_act": "gelu"}),
    "distilbert": ("DistilBert", _DISTIL),
    "deberta-v2": (
        "DebertaV2",
        {
            **_USUAL,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 8,
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "modernbert": ("ModernBert", {**_USUAL, **_MODERN, "local_attention": 4}),
    "xlnet": ("XLNet", {**_XLNET, "pad_token_id": 1}),
    "gpt2": ("GPT2", _GPT),
    "llama": ("Llama", {**_USUAL, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}),
}


def make_models(root: Path) -> None:
    """Save a tiny random encoder of every architecture, and one classifier with a head."""
    for kind, (name, sizes) in KINDS.items():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(
            getattr(transformers, f"{name}Config")(**sizes)
        )
        model.save_pretrained(root / kind)
    labels = {0: "bad", 1: "good"}
    config = transformers.BertConfig(**_USUAL, id2label=labels, label2id={"bad": 0, "good": 1})
    transformers.BertForSequenceClassification(config).save_pretrained(root / "classifier")


def copy_model(root: Path, kind: str, folder: Path) -> None:
    """Copy the files of a model into a folder that is there."""
    for path in (root / kind).iterdir():
        shutil.copyfile(path, folder / path.name)


def _config(change: Callable[[Any, random.Random], Any]) -> Callable[[Path, random.Random], None]:
    def apply(folder: Path, rng: random.Random) -> None:
        tree = json.loads((folder / CONFIG).read_bytes())
        found = change(tree, rng)
        (folder / CONFIG).write_text(json.dumps(tree if found is None else found))

    return apply


def _odd_value(tree: Any, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        own = [key for key in ODD if key in tree]
        key = rng.choice(own if rng.random() < 0.6 else list(ODD))
        tree[key] = rng.choice(ODD[key]) if rng.random() < 0.85 else rng.choice(HOSTILE)


def _less(tree: Any, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 5)):
        tree.pop(rng.choice(list(tree)), None)


def _raw_config(folder: Path, rng: random.Random) -> None:
    data = (folder / CONFIG).read_bytes()
    odd = (
        b"",
        b"[]",
        b"null",
        b"3",
        b"\xef\xbb\xbf" + data,
        data.decode().encode("utf-16"),
        b"[" * 30000,
        b"{",
        cut(data, rng),
        flip_bits(data, rng),
        b'{"a":' * 20000,
    )
    (folder / CONFIG).write_bytes(rng.choice(odd))


def _tensors(
    change: Callable[[dict[str, torch.Tensor], random.Random], None],
) -> Callable[[Path, random.Random], None]:
    def apply(folder: Path, rng: random.Random) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors, rng)
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        metadata = rng.choice(
            (
                {"format": "pt"},
                {"format": "pt"},
                None,
                {"format": "tf"},
                {"format": "mlx"},
                {"a": "b"},
            )
        )
        save_file(tensors, folder / WEIGHTS, metadata)

    return apply


def _some(tensors: dict[str, torch.Tensor], rng: random.Random) -> list[str]:
    names = list(tensors)
    return names if rng.random() < 0.3 else rng.sample(names, min(len(names), rng.randrange(1, 4)))


def _dtypes(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    kind = rng.choice(
        (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.int64,
            torch.bool,
            torch.float8_e4m3fn,
        )
    )
    for name in _some(tensors, rng):
        tensors[name] = tensors[name].to(kind)


def _names(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    prefix = rng.choice(("module.", "_orig_mod.", "bert.", "model.", "x.", "", "roberta."))
    cut_off = rng.random() < 0.3
    for name in _some(tensors, rng):
        value = tensors.pop(name)
        tensors[name.partition(".")[2] or name if cut_off else prefix + name] = value


def _shapes(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    for name in _some(tensors, rng):
        value = tensors[name]
        tensors[name] = rng.choice(
            (
                value[:1],
                value[..., :1],
                value.reshape(-1),
                value.unsqueeze(0),
                torch.zeros(0),
                value.repeat_interleave(2, 0),
                torch.tensor(1.0),
            )
        )


def _values(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    for name in _some(tensors, rng):
        value = tensors[name].clone()
        if value.numel():
            value.view(-1)[rng.randrange(value.numel())] = rng.choice(
                (float("nan"), float("inf"), 1e38, -0.0, 1e-42)
            )
        tensors[name] = rng.choice((value, value * 0, value * 1e30))


def _fewer(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    for name in _some(tensors, rng):
        del tensors[name]


def _extra(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    tensors[
        rng.choice(
            ("classifier.weight", "cls.predictions.bias", "x", "lm_head.weight", "score.weight")
        )
    ] = torch.ones(rng.choice((2, 3)), 16)


def _raw_weights(folder: Path, rng: random.Random) -> None:
    data = (folder / WEIGHTS).read_bytes()
    way = rng.choice(
        (
            cut,
            flip_bits,
            huge_header,
            overwrite,
            lambda data, _: data[:8],
            lambda *_: b"",
            lambda *_: b"version https://git-lfs.github.com/spec/v1\n",
        )
    )
    (folder / WEIGHTS).write_bytes(way(data, rng))


def _pickled(folder: Path, rng: random.Random) -> None:
    tensors: Any = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    odd = (tensors, tensors, {"state_dict": tensors}, [1], {"a": 3}, None, {3: torch.ones(1)})
    torch.save(
        rng.choice(odd),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=rng.random() < 0.7,
    )
    if rng.random() < 0.3:
        data = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(rng.choice((cut, flip_bits))(data, rng))


def _sharded(folder: Path, rng: random.Random) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, some in halves.items():
        save_file({name: tensors[name] for name in some}, folder / file, {"format": "pt"})
    index: Any = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, some in halves.items() for name in some},
    }
    lie = rng.choice(
        ("none", "file", "map", "value", "hostile", "gone", "raw", "swapped", "outside", "metadata")
    )
    if lie == "file":
        (folder / rng.choice(list(halves))).unlink()
    elif lie == "map":
        index["weight_map"] = rng.choice(HOSTILE)
    elif lie == "value":
        index["weight_map"][rng.choice(names)] = rng.choice(HOSTILE)
    elif lie == "hostile":
        change_somewhere(index, rng)
    elif lie == "gone":
        index["weight_map"].pop(rng.choice(names))
    elif lie == "swapped":
        index["weight_map"] = dict(zip(names, reversed(index["weight_map"].values()), strict=True))
    elif lie == "outside":
        index["weight_map"][names[0]] = "../../model.safetensors"
    elif lie == "metadata":
        del index["metadata"]
    text = json.dumps(index)
    (folder / f"{WEIGHTS}.index.json").write_text(
        text if lie != "raw" else rng.choice(("", "[]", "{", text[:50], "null"))
    )


def _files(folder: Path, rng: random.Random) -> None:
    way = rng.randrange(9)
    if way == 0:
        (folder / WEIGHTS).rename(
            folder
            / rng.choice(
                (
                    "model.fp16.safetensors",
                    "weights.safetensors",
                    "pytorch_model.safetensors",
                    "pytorch_model.bin",
                    "model.safetensors.bak",
                )
            )
        )
    elif way == 1:
        (folder / rng.choice((WEIGHTS, CONFIG))).unlink()
    elif way == 2:
        (folder / WEIGHTS).rename(folder.parent / "elsewhere.safetensors")
        (folder / WEIGHTS).symlink_to(
            folder.parent / rng.choice(("elsewhere.safetensors", "absent"))
        )
    elif way == 3:
        name = rng.choice((WEIGHTS, CONFIG))
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)
    elif way == 4:
        name = rng.choice((WEIGHTS, CONFIG, "tokenizer.json"))
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    elif way == 5:
        inner = folder / rng.choice(("checkpoint-5", "0_Transformer", "model", "onnx"))
        inner.mkdir()
        for name in (WEIGHTS, CONFIG):
            (folder / name).rename(inner / name)
    else:
        name = rng.choice(
            (
                "modules.json",
                "adapter_config.json",
                "config_sentence_transformers.json",
                "sentence_bert_config.json",
                "generation_config.json",
                "trainer_state.json",
                "model.safetensors.index.json",
                "preprocessor_config.json",
            )
        )
        odd: Any = rng.choice(
            (
                *HOSTILE,
                [{"path": "x", "type": "a.Dense"}],
                [1],
                {"prompts": {"a": 1}},
                {"prompts": [], "default_prompt_name": "x"},
                {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
                {"peft_type": "LORA", "base_model_name_or_path": "absent"},
                {"weight_map": [1]},
                {"do_lower_case": True},
            )
        )
        (folder / name).write_text(json.dumps(odd))


CHANGES: dict[str, Callable[[Path, random.Random], None]] = {
    "odd value": _config(_odd_value),
    "odd values": _config(_odd_value),
    "hostile value": _config(change_somewhere),
    "fewer keys": _config(_less),
    "configuration": _raw_config,
    "dtypes": _tensors(_dtypes),
    "names": _tensors(_names),
    "shapes": _tensors(_shapes),
    "values": _tensors(_values),
    "fewer": _tensors(_fewer),
    "extra": _tensors(_extra),
    "weights": _raw_weights,
    "pickled": _pickled,
    "shards": _sharded,
    "files": _files,
}


def write_model(
    rng: random.Random, root: Path, folder: Path, *, changes: int
) -> tuple[str, list[str]]:
    """A model with its tokenizer in a fresh folder, changed so many times; its kind, and what was changed."""
    base = rng.choice(list(BASES))
    kind = rng.choice(BASES[base][2])
    source = "classifier" if kind == "bert" and rng.random() < 0.3 else kind
    copy_model(root, source, fresh(folder))
    write_tokenizer(rng, folder, base, changes=0)
    notes = []
    for _ in range(changes):
        way = rng.choice(list(CHANGES))
        try:
            CHANGES[way](folder, rng)
        except Exception:  # noqa: BLE001
            continue  # an earlier change has left nothing of it
        notes.append(way)
    return source, notes
