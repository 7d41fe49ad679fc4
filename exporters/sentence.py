"""What sentence-transformers reads beside a model: which parts follow each other, how states are pooled, what stands before texts.

modules.json                        the parts in their order
sentence_bert_config.json           tokens to which a text is cut
1_Pooling/config.json               the pooling
2_Normalize/                        vectors of length 1
config_sentence_transformers.json   prompts
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maskpack.formats import TaskEntry
from maskpack.formats.pooling import Pooling
from maskpack.formats.writer import write_bytes
from maskpack.models.pooling import actual_pooling, plain_model
from maskpack.tasks.evaluation.evaluate import prefixes_of

_PARTS = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
_MODES = {Pooling.CLS: "cls_token", Pooling.MEAN: "mean_tokens", Pooling.LAST: "lasttoken"}


def write_sentence_files(folder: Path, entry: TaskEntry, config: Any) -> None:
    """Write the files, and the configuration of the encoder alone, into a folder.

    Args:
        folder: with the model.
        entry: of a task that gives vectors.
        config: of its model, from `task_config`.
    """
    plain = plain_model(config)
    plain.save_pretrained(str(folder))
    pooling = actual_pooling(config)
    modes = {f"pooling_mode_{name}": mode is pooling for mode, name in _MODES.items()}
    prefixes = prefixes_of(entry)
    prompts = dict(zip(("query", "document"), prefixes, strict=False))
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
            for n, (path, name) in enumerate(_PARTS)
        ],
        "sentence_bert_config.json": {"max_seq_length": entry.max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": plain.hidden_size, **modes},
        "config_sentence_transformers.json": {
            "prompts": prompts,
            "default_prompt_name": "query" if prefixes else None,
            "similarity_fn_name": "cosine",
        },
    }
    for path, _ in _PARTS[1:]:
        (folder / path).mkdir()
    for name, tree in files.items():
        write_bytes(folder / name, (json.dumps(tree, indent=2) + "\n").encode())
