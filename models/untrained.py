"""An encoder of a configuration whose weights are not read: what a backbone of drawn weights is shaped after."""

from __future__ import annotations

import torch

from maskpack.models.build import fresh_classifier
from maskpack.models.config import load_config
from maskpack.models.families import family_of
from maskpack.models.inputs import inputs_of
from maskpack.models.linears import linearize
from maskpack.models.load import Pretrained, load_pretrained
from maskpack.models.locate import resolve
from maskpack.models.pooling import set_pooling
from maskpack.models.sketch import class_for_task


def load_untrained(
    model: str, *, revision: str | None = None, resize_embeddings: bool = False
) -> Pretrained:
    """An encoder with the values that transformers initialises it with, and its tokenizer or image processor.

    Args:
        model: folder with `config.json` and files of a tokenizer or image processor, with or without weights; a hub id; or an alias.
        revision: branch, tag or commit of a hub model.
        resize_embeddings: as of `load_pretrained`.

    Raises:
        ModelError: no such configuration, not a supported encoder, or no tokenizer.
    """
    config = load_config(resolve(model), revision=revision)
    config.num_labels = 2
    set_pooling(config, None)
    auto_class = inputs_of(family_of(config.model_type)).auto_class
    config.architectures = [class_for_task(config, auto_class).__name__]
    torch.manual_seed(0)
    classifier = linearize(fresh_classifier(config).float())
    return load_pretrained(
        model, revision=revision, classifier=classifier, resize_embeddings=resize_embeddings
    )
