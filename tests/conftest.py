"""Tiny real models and data, made from configurations: no download, fixed seeds, seconds to fit."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# as many processes as processors: further threads would spin on those of others
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
import transformers  # what costs seconds to import is taken from here, when it is needed
from kept_graphs import KeptGraphs, read_operators_once
from more_families import is_bare, random_model
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
)
from without_vnni import REASON, has_vnni, needs_vnni

GOOD = ("good", "great", "fine", "nice", "happy")
BAD = ("bad", "poor", "awful", "sad", "broken")
FILLER = ("the", "film", "was", "food", "very", "quite", "and", "this", "story", "we", "it", "##s")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = [*SPECIAL, *GOOD, *BAD, *FILLER, *(f"word{i}" for i in range(18))]

# Weights far larger than usual: an untrained encoder must tell words apart to be worth masking.
SPREAD = {"initializer_range": 0.25}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **SPREAD}
LAYERS = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, **SPREAD}
MODELS = {
    "bert": lambda: BertModel(
        BertConfig(vocab_size=50, intermediate_size=64, max_position_embeddings=64, **SIZES)
    ),
    "roberta": lambda: RobertaModel(
        RobertaConfig(
            vocab_size=50, intermediate_size=64, max_position_embeddings=66, pad_token_id=0, **SIZES
        )
    ),
    "electra": lambda: ElectraModel(
        ElectraConfig(
            vocab_size=50,
            intermediate_size=64,
            embedding_size=16,  # with its own projection to the hidden size
            max_position_embeddings=64,
            **SIZES,
        )
    ),
    "albert": lambda: AlbertModel(
        AlbertConfig(  # both layers are one; as wide inside as it is for BERT here
            vocab_size=50,
            embedding_size=16,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_act="gelu",
            **SIZES,
        )
    ),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=50,
            dim=32,
            hidden_dim=64,
            n_layers=2,
            n_heads=4,
            max_position_embeddings=64,
            **SPREAD,
        )
    ),
}
# Made on request: the tests of every family are few, and those of the five above are many.
MORE_MODELS = {
    "deberta-v2": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(  # as DeBERTa-v3: relative positions only, through the projections of content
            hidden_size=32,
            intermediate_size=64,
            max_position_embeddings=64,
            type_vocab_size=0,
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            **LAYERS,
        )
    ),
    "deberta-v2-own": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(  # as DeBERTa-v2: types, a convolution; projections of their own for positions
            hidden_size=32,
            intermediate_size=64,
            max_position_embeddings=64,
            type_vocab_size=2,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            conv_kernel_size=3,
            conv_act="gelu",
            **LAYERS,
        )
    ),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(  # the second layer looks two tokens to each side
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            global_attn_every_n_layers=2,
            local_attention=4,
            initializer_range=0.25,
            initializer_cutoff_factor=2.0,
            pad_token_id=0,
            cls_token_id=2,
            sep_token_id=3,
            bos_token_id=2,
            eos_token_id=3,
        )
    ),
    "xlnet": lambda: transformers.XLNetModel(
        transformers.XLNetConfig(
            vocab_size=50, d_model=32, n_layer=2, n_head=4, d_inner=64, pad_token_id=0, **SPREAD
        )
    ),
    "gpt2": lambda: transformers.GPT2Model(
        transformers.GPT2Config(  # no padding token, as the published ones
            vocab_size=50,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=2,
            eos_token_id=3,
            **SPREAD,
        )
    ),
    "llama": lambda: transformers.LlamaModel(
        transformers.LlamaConfig(
            hidden_size=32,
            num_key_value_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            bos_token_id=2,
            eos_token_id=3,
            **LAYERS,
        )
    ),
}


def pytest_collection_modifyitems(items):
    """Tests that this processor cannot pass are skipped, with the reason."""
    if not has_vnni():
        for item in items:
            if needs_vnni(item.nodeid):
                item.add_marker(pytest.mark.skip(reason=REASON))


def pytest_collection_finish():
    """What is imported and collected stays to the end: the garbage collector need not visit it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _traced_once(tmp_path_factory):
    """Each kind of graph is traced once in a run of the tests, not once in each process of it."""
    from maskpack.exporters.graph import trace

    base = tmp_path_factory.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_graphs", KeptGraphs(root / "graphs"))
        read_operators_once(patch)
        yield


def make_model(kind: str, folder: Path) -> Path:
    """Save a two-layer random encoder of an architecture, with a tokenizer, into `folder`."""
    torch.manual_seed(0)
    make = (MODELS | MORE_MODELS).get(kind, lambda: random_model(kind))
    make().save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = BertTokenizerFast(str(vocabulary))
    if kind in {"gpt2", "llama"} or is_bare(
        kind
    ):  # as theirs: texts end with nothing, and nothing is for padding
        bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        bare.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=bare, unk_token="[UNK]", eos_token="[SEP]"
        )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Architecture -> folder with a tiny model of it."""
    root = tmp_path_factory.mktemp("models")
    return {kind: make_model(kind, root / kind) for kind in MODELS}


@pytest.fixture(scope="session")
def family_models(tmp_path_factory, tiny_models) -> Callable[[str], Path]:
    """`family_models(kind)`: folder with a tiny model of any architecture, made on first use."""
    root = tmp_path_factory.mktemp("families")
    made = cache(lambda kind: make_model(kind, root / kind))
    return lambda kind: tiny_models[kind] if kind in tiny_models else made(kind)


@pytest.fixture(scope="session")
def tiny_model(tiny_models) -> Path:
    """Folder with a tiny BERT."""
    return tiny_models["bert"]


@pytest.fixture
def without_pooler(tiny_model, tmp_path) -> Path:
    """A tiny BERT whose checkpoint has no pooler."""
    from safetensors.torch import load_file, save_file

    place = tmp_path / "without_pooler"
    shutil.copytree(tiny_model, place)
    weights = load_file(place / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler." not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, place / "model.safetensors", metadata={"format": "pt"})
    return place


def write_sentiment(folder: Path, *, train: int = 96, dev: int = 32) -> Path:
    """A learnable task in GLUE layout: one telling word in a sentence of filler."""
    rng = np.random.default_rng(1)
    for name, rows in (("train", train), ("dev", dev)):
        lines = ["sentence\tlabel"]
        for row in range(rows):
            label = row % 2
            words = list(rng.choice(FILLER[:-1], size=rng.integers(2, 9)))
            words.insert(int(rng.integers(len(words) + 1)), str(rng.choice((BAD, GOOD)[label])))
            lines.append(f"{' '.join(words)}\t{label}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory) -> Path:
    """Folder with train.tsv and dev.tsv of a learnable task in SST-2's layout."""
    return write_sentiment(tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory, tiny_model, sentiment) -> Path:
    """A 4-bit artifact with one learned task, `sst2`. Read only: copy it to change it."""
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.tasks import find_task

    out = tmp_path_factory.mktemp("artifact") / "artifact"
    config = FitConfig(
        bits=4, group=16, steps=40, batch_size=16, max_length=16, precision="fp32", teacher="none"
    )
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment))
    return out


QUICK = {
    "bits": 4,
    "group": 16,
    "steps": 30,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "teacher": "none",
}


@pytest.fixture(scope="session")
def quick() -> Callable:
    """Options of a fit that takes a fraction of a second, some of them changed."""
    from maskpack.compressor import FitConfig

    return lambda **changes: FitConfig(**{**QUICK, **changes})


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """A function: every path under a folder, hidden ones too, with the digest of its bytes."""

    def look(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            )
            for path in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """A function: write text or bytes to a file under the test's folder and return its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """`with full_disk():` no file grows past 8 KiB; a longer write fails as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def small_files() -> Iterator[None]:
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, usual[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    return small_files


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
