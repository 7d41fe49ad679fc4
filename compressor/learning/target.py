"""From a size that was asked for to the share of zeros that meets it."""

from __future__ import annotations

from maskpack.compressor.config import FitConfig
from maskpack.formats import ConfigError
from maskpack.formats.tensors import binary_entropy


def target_sparsity(config: FitConfig, *, weights: int, other_bytes: int) -> float | None:
    """Share of zeros to aim at, or None if the margin alone decides.

    Args:
        config: with at most one of `sparsity`, `target_bpp`, `target_bytes`.
        weights: masked weights.
        other_bytes: of the patch without its masks: head, biases, LayerNorm, scales.

    Raises:
        ConfigError: `target_bytes` leaves nothing for the mask.
    """
    if config.sparsity is not None:
        return config.sparsity
    if config.target_bpp is not None:
        return share_of_entropy(config.target_bpp)
    if config.target_bytes is None:
        return None
    smallest = other_bytes + least_mask_bytes(weights)
    if config.target_bytes < smallest:
        raise ConfigError(
            f"`target_bytes` is {config.target_bytes:,}, but without its mask the patch takes "
            f"{other_bytes:,} (head, and what else is trained)",
            f"the smallest patch that can be asked for here is {smallest:,} bytes",
        )
    return share_of_entropy(8 * (config.target_bytes - other_bytes) / weights)


def least_mask_bytes(weights: int) -> int:
    """Entropy of a mask that removes one weight in 100,000: below that nothing is learned."""
    return int(binary_entropy(1e-5) * weights / 8) + 1


def share_of_entropy(bits: float) -> float:
    """The share of zeros, at most a half, whose entropy is `bits` a weight.

    >>> round(share_of_entropy(0.0808), 4)
    0.01
    """
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binary_entropy(middle) < bits else (low, middle)
    return (low + high) / 2
