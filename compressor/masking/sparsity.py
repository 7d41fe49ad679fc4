"""How many weights a mask removes: a target as a share of zeros, and thresholds steered towards it.

Without a target of size, `NoiseThreshold` lets the threshold follow the noise. With one there are three
ways, one for each regime:

* `GlobalSparsity` sets the threshold to the quantile of *all* scores, so that matrices compete and
  the zeros move to matrices where removing weights helps. With the share of the first scores as target it keeps
  the count while weights change places.
* `MatrixSparsity` ranks each matrix by itself, with the soft allocation of SMP-S (Jiang et al. 2023,
  arXiv 2210.06210, eq. 6): within one kind of matrix a matrix keeps in proportion to its mean
  `sigmoid(score)`. `EvenSparsity` gives every matrix the same share.
* `FlipPenalty` adds a price to every flip near the threshold, which rises while the
  mask is too large (a Lagrangian, as in Wang et al. 2020, "FLOP", arXiv 1910.04732). Only weights
  whose gradients exceed the price flip.

Those two shares rise as in Zhu & Gupta 2017 (arXiv 1710.01878),
`s(t) = s - (s - s0) (1 - t / T)**3`, over the first 60 % of the run, then swap freely.

`ScoreAverage` and `TailAverage` (Polyak & Juditsky 1992; Ruppert 1988) cut the mask from an average of the scores, exponential over the run or plain
over its end: noise flips of the last steps average out, real ones stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskpack.compressor.config import FitConfig
from maskpack.compressor.masking.linear import MaskedLinear, count_zeros
from maskpack.compressor.schedules import Span
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.formats import ConfigError
from maskpack.formats.bits import binary_entropy


def target_sparsity(config: FitConfig, *, weights: int, other_bytes: int) -> float | None:
    """Share of zeros to aim at, or None if the margin alone decides.

    Args:
        config: with at most one of `sparsity`, `target_bpp`, `target_bytes`.
        weights: masked weights.
        other_bytes: of the patch without its masks: head, biases, LayerNorm, scales.

    Raises:
        ConfigError: `target_bytes` leaves nothing for the mask.
    """
    if config.share is not None:
        return config.share
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


_RISE = 0.6
EVERY = 20  # steps between estimates; the exact quantile is taken at the last step
_SAMPLE = 1 << 20  # scores in an estimate
_SLACK = 0.0005  # distance from the wanted share below which the threshold stays


def risen(start: float, target: float, step: int, steps: int) -> float:
    """Share of zeros after `step` of `steps`."""
    progress = min(1.0, step / (steps * _RISE))
    return target - (target - start) * (1.0 - progress) ** 3


class NoiseThreshold(TrainerCallback):
    """Let the distance to a flip grow with the noise; without it the distance is the full height from the start.

    After `t` steps noise has moved a score by `drift(t)`, less than at the end. The same margin in
    those units is a shorter distance, so that a weight with a consistent gradient flips early and the others
    adapt to it; a flip that was noise is undone as the boundary recedes.

    Args:
        layers: the masked linears.
        height: height of the first scores; the distance at the end.
        drifts: `drift(t)` over `drift(T)`, for t from 0 to T.
        least: share of the height below which the distance does not fall.
    """

    _EVERY = 10

    def __init__(
        self, layers: Sequence[MaskedLinear], *, height: float, drifts: Tensor, least: float
    ) -> None:
        self._layers, self._height, self._least = layers, height, least
        self._drifts = drifts

    def on_step_end(self, step: int, steps: int) -> None:
        """Set all thresholds for the next steps."""
        if step % self._EVERY and step != steps:
            return
        distance = max(self._least, float(self._drifts[step]))
        for layer in self._layers:
            layer.threshold.fill_(self._height * (1.0 - distance))


class GlobalSparsity(TrainerCallback):
    """Reach `sparsity` zeros over all layers together.

    Args:
        layers: the masked linears.
        sparsity: share of zeros at the end.
        start: share of zeros that the first scores stand for.
    """

    def __init__(self, layers: Sequence[MaskedLinear], sparsity: float, start: float = 0.0) -> None:
        self._layers, self._sparsity, self._start = layers, sparsity, start

    def _share(self, step: int, steps: int) -> tuple[float, bool]:
        """Share of zeros after a step, and whether it must be exact."""
        return risen(self._start, self._sparsity, step, steps), step == steps

    def on_step_end(self, step: int, steps: int) -> None:
        """Set all thresholds for the next step."""
        share, last = self._share(step, steps)
        if step % EVERY and not last:
            return
        if not last and abs(count_zeros(self._layers).sparsity - share) < _SLACK:
            return
        threshold = global_threshold(self._layers, share, exact=last)
        for layer in self._layers:
            layer.threshold.fill_(threshold)


class LevelSparsity(GlobalSparsity):
    """Reach one share of zeros after the other over all layers together, each in an equal part of the run.

    In its part a share rises from the one before as above, and then weights change places (continual sparsification: "The curious
    case of developmental BERTology", fig. 5).

    Args:
        layers: the masked linears.
        levels: shares of zeros, rising.
    """

    def __init__(self, layers: Sequence[MaskedLinear], levels: Sequence[float]) -> None:
        super().__init__(layers, levels[-1])
        self._levels = tuple(levels)

    def _share(self, step: int, steps: int) -> tuple[float, bool]:
        ends = (0, *Span(steps, 0, len(self._levels)).ends())
        part = next(n for n, end in enumerate(ends[1:]) if step <= end)
        begin, end, before = ends[part], ends[part + 1], (0.0, *self._levels)[part]
        return risen(before, self._levels[part], step - begin, end - begin), step == end


def global_threshold(
    layers: Sequence[MaskedLinear], share: float, *, exact: bool, above: bool = True
) -> float:
    """The score below which `share` of all weights lie; never more of them unless `above`.

    A weight that is already 0 costs no bit, counts as kept and is ignored.
    """
    scores = torch.cat([layer.live_scores() for layer in layers])
    total = sum(layer.score.numel() for layer in layers)
    sample = scores[:: 1 if exact else max(1, scores.numel() // _SAMPLE)]
    return _quantile(sample, share * total / max(1, scores.numel()), above=above)


class MatrixSparsity(TrainerCallback):
    """Reach `sparsity` zeros in each kind of matrix.

    Args:
        layers: parameter name -> masked linear.
        sparsity: share of zeros at the end.
        start: share of zeros that the first scores stand for.
    """

    def __init__(
        self, layers: Mapping[str, MaskedLinear], sparsity: float, start: float = 0.0
    ) -> None:
        self._kinds: dict[str, list[MaskedLinear]] = {}
        for name, layer in layers.items():
            kind = ".".join(part for part in name.split(".") if not part.isdecimal())
            self._kinds.setdefault(kind, []).append(layer)
        self._sparsity, self._start = sparsity, start

    def on_step_end(self, step: int, steps: int) -> None:
        """Set every matrix's threshold for the next step."""
        if step % EVERY and step != steps:
            return
        keep = 1.0 - risen(self._start, self._sparsity, step, steps)
        for kind in self._kinds.values():
            for layer, share in zip(kind, _allocated(kind, keep), strict=True):
                layer.threshold.fill_(global_threshold([layer], 1.0 - share, exact=True))


def _allocated(kind: Sequence[MaskedLinear], keep: float) -> list[float]:
    """Share that each matrix of a kind keeps; their mean is `keep`."""
    worth = [float(torch.sigmoid(layer.score.detach()).mean()) for layer in kind]
    mean = sum(worth) / len(worth)
    shares = [keep * value / mean for value in worth]
    if max(shares) > 1.0:  # no matrix can keep more than itself: fall back to equal shares
        return [keep] * len(kind)
    return shares


class FlipPenalty(TrainerCallback):
    """Hold the share of zeros at `sparsity` or below by a price on every flip.

    After every few updates a score within reach of the threshold is pushed up by

        lr_t * price * 4 sigma(S / T) (1 - sigma(S / T))

    the slope of `price * sum sigma(-S / T)`, the expected number of flips, at a temperature of a
    tenth of the starting height. The price rises while there are more flips than the target, risen
    as above, allows, and falls while there are fewer. Flips that are still too many at the end are undone by
    rank: the weights nearest to the threshold are kept again.

    Args:
        layers: the masked linears.
        sparsity: most zeros at the end.
        height: height of the first scores.
        rates: learning rate of the scores at each step.
    """

    _PERIOD = 4

    def __init__(
        self, layers: Sequence[MaskedLinear], sparsity: float, *, height: float, rates: Tensor
    ) -> None:
        self._layers, self._sparsity, self._rates = layers, sparsity, rates
        self._temperature = 0.1 * height
        self._price = torch.zeros(())

    def state(self) -> Mapping[str, Tensor]:
        """The price."""
        return {"price": self._price}

    @torch.no_grad()
    def on_step_end(self, step: int, steps: int) -> None:
        """Push scores, adjust the price, and cut at the end."""
        if step == steps:
            self._cut()
        elif step % self._PERIOD == 0:
            self._push(float(self._rates[step]) * self._PERIOD)
            if step % EVERY == 0:
                self._adjust(risen(0.0, self._sparsity, step, steps))

    def _push(self, rate: float) -> None:
        force = rate * float(self._price) * 4.0
        if force == 0.0:
            return
        for layer in self._layers:
            near = torch.sigmoid(layer.score / self._temperature)
            layer.score.add_(near.mul_(1.0 - near), alpha=force)

    def _adjust(self, allowed: float) -> None:
        share = count_zeros(self._layers).sparsity
        # on the logarithm, so that the price reaches its order of magnitude within a few updates
        excess = max(-0.5, min(0.5, share / max(allowed, 1e-9) - 1.0))
        self._price.copy_(((self._price + 0.02) * 2.0**excess - 0.02).clamp_(0.0, 2.0))

    def _cut(self) -> None:
        total = sum(layer.score.numel() for layer in self._layers)
        if count_zeros(self._layers).sparsity > self._sparsity:
            most = math.floor(self._sparsity * total)
            threshold = global_threshold(self._layers, most / total, exact=True, above=False)
            for layer in self._layers:
                layer.threshold.fill_(threshold)


def _quantile(scores: Tensor, share: float, *, above: bool = True) -> float:
    """A value that `share` of the scores do not exceed, or as near to that as ties allow.

    >>> scores = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    >>> _quantile(scores, 0.35), _quantile(scores, 0.5), _quantile(scores, 0.9)
    (-1.0, -1.0, 1.0)
    """
    rank = min(round(share * scores.numel()), scores.numel())
    lower = float(scores.min()) - 1.0
    if rank < 1:
        return lower
    value = scores.kthvalue(rank).values
    reached, short = int((scores <= value).sum()), int((scores < value).sum())
    if reached == rank or (above and reached - rank <= rank - short):
        return float(value)
    return float(scores[scores < value].max()) if short else lower


_AVERAGE_EVERY = 5  # steps between updates: an average over hundreds of steps needs no more


class ScoreAverage(TrainerCallback):
    """Keeps the average of the scores and replaces the scores by it at the end.

    Args:
        layers: the masked linears.
        decay: weight of the past in each step, such as 0.99; less in the first steps, so that the
            first scores do not stay in the average of a short run.
    """

    def __init__(self, layers: Sequence[MaskedLinear], decay: float) -> None:
        self._layers, self._decay = layers, decay
        self._averages = [layer.score.detach().clone() for layer in layers]

    def state(self) -> Mapping[str, Tensor]:
        """The averages."""
        return {str(index): average for index, average in enumerate(self._averages)}

    @torch.no_grad()
    def on_step_end(self, step: int, steps: int) -> None:
        """Update the average; after the last step, replace the scores by it."""
        for average, layer in zip(self._averages, self._layers, strict=True):
            if step % _AVERAGE_EVERY == 0:
                average.lerp_(
                    layer.score, 1.0 - min(self._decay, step / (step + 10)) ** _AVERAGE_EVERY
                )
            if step == steps:
                layer.score.copy_(average)


class TailAverage(TrainerCallback):
    """Replaces the scores by their plain mean over the last steps, at the end.

        mean_t = mean_{t-1} + (S_t - mean_{t-1}) / n,   n: scores taken so far

    Args:
        layers: the masked linears.
        first: step after which the first scores are taken.
    """

    def __init__(self, layers: Sequence[MaskedLinear], first: int) -> None:
        self._layers, self._first = layers, first
        self._means = [torch.zeros_like(layer.score) for layer in layers]
        self._taken = torch.zeros(())

    def state(self) -> Mapping[str, Tensor]:
        """The means, and of how many scores they are."""
        means = {str(index): mean for index, mean in enumerate(self._means)}
        return {"taken": self._taken, **means}

    @torch.no_grad()
    def on_step_end(self, step: int, steps: int) -> None:
        """Update the mean; after the last step, replace the scores by it."""
        if step < self._first or (step % _AVERAGE_EVERY and step != steps):
            return
        self._taken += 1.0
        for mean, layer in zip(self._means, self._layers, strict=True):
            mean.lerp_(layer.score, 1.0 / float(self._taken))
            if step == steps:
                layer.score.copy_(mean)
