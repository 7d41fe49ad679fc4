"""An artifact's task with the tokens of a tokenizer that has some of the artifact's: what a graph that lost tokens is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from maskpack.formats import Artifact, ModelError
from maskpack.formats.errors import Hint
from maskpack.formats.kept_tokens import KeptTokens
from maskpack.formats.schema import CONFIG
from maskpack.models.trimmed_model import fixed_numbers, json_bytes, table_of, trimmed_config
from maskpack.models.trimmed_tokenizer import Vocabulary, trimmed_tokenizer
from maskpack.tasks.read_again import plain_tokenizer
from maskpack.tasks.trim import trim_artifact


def trim_alike(artifact: Artifact, task: str, tokens: Mapping[str, int], out: Path) -> Artifact:
    """Write an artifact of one task with the tokens of another tokenizer.

    Nothing but their names and numbers is taken from that tokenizer: rows of embeddings and files are the artifact's.

    Args:
        artifact: with all tokens.
        task: of it.
        tokens: token -> number, of a tokenizer that was made from the artifact's.
        out: folder to create.

    Raises:
        ModelError: a tokenizer that was not: it has another token, lacks one that always stays, or orders them otherwise.
    """
    files = {name: artifact.file(name) for name in artifact.manifest.files}
    config, whole = json.loads(files[CONFIG]), plain_tokenizer(files)
    vocabulary, own = Vocabulary.of(files, fixed_numbers(config)), whole.get_vocab()
    other = sorted(tokens.keys() - own.keys())
    lost = sorted(vocabulary.always(lambda _: False) - {own[one] for one in tokens.keys() & own})
    if other or lost:
        fact = f"has the token `{other[0]}`" if other else f"lacks `{whole.id_to_token(lost[0])}`"
        raise _of_another(
            artifact, f"{fact}, and the artifact's {'has not' if other else 'needs it'}"
        )
    kept = KeptTokens.of({own[token] for token in tokens}, table_of(config))
    moved = next((one for one, number in tokens.items() if kept.new(own[one]) != number), None)
    if moved is not None:
        raise _of_another(
            artifact,
            f"gives `{moved}` the number {tokens[moved]}, where the artifact's order gives {kept.new(own[moved])}",
        )
    new = {**files, CONFIG: json_bytes(trimmed_config(config, kept))}
    trimmed = trimmed_tokenizer(new, vocabulary, kept, whole)
    return trim_artifact(artifact, out, trimmed, tasks=(task,))


def _of_another(artifact: Artifact, fact: str) -> ModelError:
    return ModelError(
        f"the tokenizer was not made from that of `{artifact.path.name}`: it {fact}",
        Hint("give the artifact that it was made from"),
    )
