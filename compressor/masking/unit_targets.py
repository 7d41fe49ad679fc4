"""Which units a stage removes: the least important ones of each kind, or those that matter least a millisecond.

With shares, units of one kind compete over all layers, see `KeptShares`. With a speed, units of all kinds compete by their
importance over the time that a graph saves without them (`PredictedSpeed`; as in ZipLM, Kurtic et al. 2023, arXiv
2302.04089, time is that of a table, here of a linear model):

    rank_u = F_u / ms_u

The last unit of a sub-layer saves the fixed time of the sub-layer too. Where that makes the last units the cheapest ones, they
are one move: their importance and their time are summed (pool adjacent violators, Barlow et al. 1972). With the
kind `layers` all units of a sub-layer, or of a layer, are one move besides, whose importance is that of one gate for all.
A move of several units that would save more than is needed gives way to single ones, if they are worth less together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.unit_costs import UnitCosts
from maskpack.formats.units import UnitCount, UnitGroup
from maskpack.models.units import KINDS, LAYERS

Worth = NDArray[np.float64]
Bits = NDArray[np.bool_]

_NOTHING = 1e-9  # of the time of a whole graph: less than that is rounding


@dataclass(frozen=True, eq=False)
class Importance:
    """How much a loss needs units: squared gradients of gates, summed over rows.

    Attributes:
        units: of each unit `(count)`, for each group.
        sublayers: `(groups)`, of one gate for all units of a group.
        layers: number of a layer -> of one gate for all of its units.
    """

    units: tuple[Worth, ...]
    sublayers: Worth
    layers: Mapping[int, float]


class UnitTarget(Protocol):
    """How many units a run removes, and in which order."""

    @property
    def removes(self) -> bool:
        """Whether any is to go."""

    def left(
        self,
        importance: Importance,
        groups: Sequence[UnitGroup],
        kept: Sequence[Bits],
        share: float,
    ) -> list[Bits]:
        """Which units stay after a stage.

        Args:
            importance: of the units, measured now.
            groups: of the units.
            kept: which stay until now; those that are gone stay gone.
            share: of all that is to be removed that is gone after the stage.
        """


@dataclass(frozen=True, eq=False)
class KeptShares:
    """A share of each kind of units stays, rounded as `kept_of` says.

    Attributes:
        keep: kind -> share; of a kind that is not there no unit goes. Of `layers` that share stays whole, and the others
            lose all their units.
    """

    keep: Mapping[str, float]

    @property
    def removes(self) -> bool:
        """See `UnitTarget`."""
        return bool(self.keep)

    def left(
        self,
        importance: Importance,
        groups: Sequence[UnitGroup],
        kept: Sequence[Bits],
        share: float,
    ) -> list[Bits]:
        """See `UnitTarget`."""
        stays = [bits.copy() for bits in kept]
        if LAYERS in self.keep:
            self._without_layers(importance, groups, stays, share)
        for kind in KINDS:
            if kind not in self.keep:
                continue
            places = [place for place, group in enumerate(groups) if group.kind == kind]
            total = sum(groups[place].count for place in places)
            going = round(share * (total - kept_of(total, self.keep[kind])))
            worth = [importance.units[place] for place in places]
            found = without_weakest(worth, [stays[place] for place in places], going)
            for place, bits in zip(places, found, strict=True):
                stays[place] = bits
        return stays

    def _without_layers(
        self,
        importance: Importance,
        groups: Sequence[UnitGroup],
        stays: Sequence[Bits],
        share: float,
    ) -> None:
        """Remove all units of those layers that matter least, in place."""
        whole = whole_layers(groups)
        alive = {n: any(stays[place].any() for place in places) for n, places in whole.items()}
        order = sorted(whole, key=lambda n: importance.layers[n] if alive[n] else -math.inf)
        going = round(share * (len(whole) - kept_of(len(whole), self.keep[LAYERS])))
        for number in order[:going]:
            for place in whole[number]:
                stays[place][:] = False


def whole_layers(groups: Sequence[UnitGroup]) -> dict[int, list[int]]:
    """Number of a layer -> places of its groups, of the layers that have one of every kind."""
    found: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group.layer, []).append(place)
    return {number: places for number, places in found.items() if len(places) == len(KINDS)}


@dataclass(frozen=True, eq=False)
class _Move:
    """Units that go together.

    Attributes:
        worth: importance.
        time: milliseconds that are saved.
        units: place of a group, and its units; None: all that are left.
        alone: whether it is one unit.
    """

    worth: float
    time: float
    units: tuple[tuple[int, NDArray[np.intp] | None], ...]
    alone: bool = False

    @property
    def rank(self) -> float:
        """Importance a millisecond; what saves no time goes last."""
        return _rank(self.worth, self.time)


@dataclass(frozen=True, eq=False)
class PredictedSpeed:
    """Units go until a graph is predicted to be so many times as fast as one with all units.

    Attributes:
        costs: that predict it.
        speedup: to reach.
        kinds: of units that may go.
    """

    costs: UnitCosts
    speedup: float
    kinds: tuple[str, ...]

    @property
    def removes(self) -> bool:
        """See `UnitTarget`."""
        return True

    def most(self, groups: Sequence[UnitGroup]) -> float:
        """The largest speed-up: without any unit of these groups that may go."""
        gone = [
            UnitCount(each.kind, each.layer, each.count, 0) for each in groups if self._may_go(each)
        ]
        return self.costs.speedup(gone)

    def _may_go(self, group: UnitGroup) -> bool:
        return LAYERS in self.kinds or group.kind in self.kinds

    def left(
        self,
        importance: Importance,
        groups: Sequence[UnitGroup],
        kept: Sequence[Bits],
        share: float,
    ) -> list[Bits]:
        """See `UnitTarget`; the time that is to be saved takes the place of the number of units."""
        stays, every = [bits.copy() for bits in kept], self.costs.sum_of_parts
        wanted = every - share * (every - self.costs.whole / self.speedup)
        need = self.costs.of_parts(_counts(groups, stays)) - wanted
        moves = sorted(self._moves(importance, groups, kept), key=lambda move: move.rank)
        for number, move in enumerate(moves):
            if need <= _NOTHING * every:
                break
            if move.time > need and not move.alone:
                after = [each for each in moves[number + 1 :] if each.alone]
                worth, found = self._one_by_one(after, groups, stays, need)
                if worth < move.worth:
                    return found
            need -= self._take(move, groups, stays)
        return stays

    def _one_by_one(
        self, moves: Sequence[_Move], groups: Sequence[UnitGroup], kept: Sequence[Bits], need: float
    ) -> tuple[float, list[Bits]]:
        """Importance of the units with which `need` milliseconds are saved, and what stays; infinite if they are too few."""
        stays, worth = [bits.copy() for bits in kept], 0.0
        for move in moves:
            if need <= _NOTHING * self.costs.whole:
                return worth, stays
            saved = self._take(move, groups, stays)
            need, worth = need - saved, worth + (move.worth if saved else 0.0)
        return (worth if need <= _NOTHING * self.costs.whole else math.inf), stays

    def _take(self, move: _Move, groups: Sequence[UnitGroup], stays: Sequence[Bits]) -> float:
        """Remove units in place; milliseconds that are saved, 0 if they were gone."""
        saved = 0.0
        for place, units in move.units:
            before = int(stays[place].sum())
            stays[place][slice(None) if units is None else units] = False
            left = int(stays[place].sum())
            saved += self.costs.saved(groups[place].kind, before - left, left=left)
        return saved

    def _moves(
        self, importance: Importance, groups: Sequence[UnitGroup], kept: Sequence[Bits]
    ) -> Iterator[_Move]:
        """What can be removed, from what is there at the beginning of a stage."""
        for place, (group, bits) in enumerate(zip(groups, kept, strict=True)):
            if group.kind in self.kinds and bits.any():
                yield from self._of_units(place, group, importance.units[place], bits)
            if LAYERS in self.kinds and bits.any():
                time = self.costs.saved(group.kind, int(bits.sum()), left=0)
                yield _Move(float(importance.sublayers[place]), time, ((place, None),))
        for number, places in whole_layers(groups).items() if LAYERS in self.kinds else ():
            time = sum(
                self.costs.saved(groups[place].kind, int(kept[place].sum()), left=0)
                for place in places
            )
            if all(kept[place].any() for place in places):
                units = tuple((place, None) for place in places)
                yield _Move(importance.layers[number], time, units)

    def _of_units(self, place: int, group: UnitGroup, worth: Worth, bits: Bits) -> Iterator[_Move]:
        """Units of a group one by one, and those together that are the last ones and cheaper so."""
        alive = np.flatnonzero(bits)
        order = alive[np.argsort(worth[alive], kind="stable")]
        each = self.costs.saved(group.kind, 1, left=1)
        size, total = 1, float(worth[order[-1]])
        time = self.costs.saved(group.kind, 1, left=0)
        while size < len(order) and _rank(worth[order[-1 - size]], each) >= _rank(total, time):
            total, time = total + float(worth[order[-1 - size]]), time + each
            size += 1
        for unit in order:
            yield _Move(float(worth[unit]), each, ((place, np.array([unit])),), alone=True)
        yield _Move(total, time, ((place, order[len(order) - size :]),))


def _rank(worth: float, time: float) -> float:
    return float(worth) / time if time > 0 else math.inf


def _counts(groups: Sequence[UnitGroup], kept: Sequence[Bits]) -> Iterator[UnitCount]:
    for group, bits in zip(groups, kept, strict=True):
        yield UnitCount(group.kind, group.layer, group.count, int(bits.sum()))


def kept_of(total: int, share: float) -> int:
    """How many units stay: the share rounded to the nearest number, halves upwards, and at least one.

    >>> kept_of(8, 0.5), kept_of(5, 0.5), kept_of(5, 0.01)
    (4, 3, 1)
    """
    return max(1, math.floor(total * share + 0.5))


def without_weakest(worth: Sequence[Worth], kept: Sequence[Bits], count: int) -> list[Bits]:
    """Which units stay when `count` of all are gone: those that are gone already, then the least important ones.

    Args:
        worth: importance of each unit of each group.
        kept: which stay until now.
        count: how many units of all groups are to be gone; never fewer than are gone already.

    >>> worth = [np.array([3.0, 0.5]), np.array([1.0, 2.0])]
    >>> kept = [np.array([True, True]), np.array([True, False])]
    >>> [bits.tolist() for bits in without_weakest(worth, kept, 2)]
    [[True, False], [True, False]]
    """
    stays = np.concatenate(kept)
    order = np.argsort(np.where(stays, np.concatenate(worth), -np.inf), kind="stable")
    stays[order[:count]] = False
    ends = np.cumsum([len(bits) for bits in kept])[:-1]
    return [bits.copy() for bits in np.split(stays, ends)]
