"""What both benchmarks of sweeps on Ray need: a tiny model with data, a plan of short runs, two machines of a cluster."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(200))]


def write_inputs(folder: Path, *, hidden: int) -> None:
    """A two-layer random encoder, and rows whose label says whether the first word is one of the first hundred."""
    torch.manual_seed(0)
    (folder / "model").mkdir(parents=True)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.25,
    )
    BertModel(config).save_pretrained(folder / "model")
    (folder / "model" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(str(folder / "model" / "vocab.txt")).save_pretrained(folder / "model")
    draw = random.Random(0)
    (folder / "data").mkdir()
    for name, rows in (("train", 400), ("dev", 100)):
        lines = ["sentence\tlabel"]
        for row in range(rows):
            first = draw.randrange(100) + 100 * (row % 2)
            words = [first, *(draw.randrange(200) for _ in range(draw.randrange(4, 24)))]
            lines.append(f"{' '.join(f'word{n}' for n in words)}\t{row % 2}")
        (folder / "data" / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def write_plan(folder: Path, *, steps: int, seeds: int) -> Path:
    """Four methods a seed: a teacher, its student, and masks of 8 and 4 bits."""
    tree = {
        "models": ["./model"],
        "tasks": {"sst2": {"data": "data"}},
        "seeds": list(range(seeds)),
        "options": {"steps": steps, "batch_size": 16, "max_length": 32, "precision": "fp32"},
        "methods": {
            "dense": {"method": "full", "keep": True},
            "taught": {"bits": 4, "group": 16, "teacher": "run:dense"},
            "mask": {"bits": [8, 4], "group": 16, "teacher": "none"},
        },
        "reference": "dense",
        "resources": {"cpus": 1},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def start_cluster(machines: int) -> Any:
    """A cluster with as many raylets on this machine, one core each; the first is the head."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # not 15: they would starve on a busy machine
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nothing but this machine listens
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=MACHINE)
    for _ in range(machines - 1):
        cluster.add_node(**MACHINE)
    cluster.wait_for_nodes()
    return cluster


MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


def without_times(lines: list[Mapping[str, Any]]) -> dict[str, str]:
    """Key of a run -> its line as text, but for the seconds."""
    return {line["sweep_key"]: json.dumps({**line, "seconds": 0}, sort_keys=True) for line in lines}
