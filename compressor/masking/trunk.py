"""Which linears lie above the lower layers that a task leaves alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from maskpack.compressor.trunk_config import TrunkConfig
from maskpack.formats import ConfigError
from maskpack.models.linears import layer_of


def above_trunk(names: Sequence[str], trunk: int) -> list[str]:
    """The linears in layers above a trunk; none outside of layers, as with the option `layers`.

    Args:
        names: of the linears of an encoder.
        trunk: layers of the trunk.

    Raises:
        ConfigError: there is no layer above it.
    """
    numbers = {name: layer_of(name) for name in names}
    chosen = [name for name, layer in numbers.items() if layer is not None and layer >= trunk]
    if not chosen:
        count = layer_count(names)
        raise ConfigError(
            f"`trunk` is {trunk}, the encoder has {count} layers: none is left to mask",
            f"give 1 to {count - 1}" if count > 1 else "leave `trunk` out",
        )
    return chosen


def layer_count(linears: Iterable[str]) -> int:
    """Layers that linears lie in."""
    return len({layer_of(name) for name in linears} - {None})


def check_trunk(config: TrunkConfig, model: Any, linears: Iterable[str]) -> None:
    """Refuse a trunk in an encoder that uses one layer several times.

    Args:
        config: the options.
        model: configuration of transformers.
        linears: names of its linears.

    Raises:
        ConfigError: it does.
    """
    if config.trunk is None:
        return
    own = layer_count(linears)
    if own < model.num_hidden_layers:
        raise ConfigError(
            f"`trunk` is {config.trunk}, and `{model.model_type}` uses {own} layer{'s' if own > 1 else ''} "
            f"{model.num_hidden_layers} times: a mask changes all of them",
            "leave `trunk` out",
        )
