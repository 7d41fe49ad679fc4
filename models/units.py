"""Units of every family: which rows and columns of which linears make up an attention head, or a neuron of the feed-forward layer.

What differs between architectures is data, in `STRUCTURES`. One rule reads it: a unit has rows in the linears that make
it and columns in the linear that reads it. With these columns at 0 nothing depends on the unit any more, neither
on its rows nor on their biases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from maskpack.formats.unit_costs import UnitShape
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, Units

HEADS, NEURONS = "heads", "neurons"
KINDS = (HEADS, NEURONS)
"""Kinds of units, in the order of a layer's groups."""

LAYERS = "layers"
"""All units of a sub-layer, or of a layer, together: what a run may remove besides. A file knows heads and neurons only."""


def _always(config: Any) -> bool:
    del config
    return True


def _called(name: str) -> Callable[[Any], int]:
    """The number of neurons as a configuration calls it; where it is None they are four times the hidden size."""

    def inner(config: Any) -> int:
        return int(getattr(config, name) or 4 * config.hidden_size)

    return inner


_INTERMEDIATE = _called("intermediate_size")


@dataclass(frozen=True)
class Rows:
    """Rows of a linear in which the units of a layer lie one after the other.

    Attributes:
        name: of the linear inside its layer.
        parts: how often all units follow one another in it, as query, key and value in one matrix.
        shared: whether a unit has the rows of one key/value head, which several query heads may share; else those of all
            its query heads.
        there: of a configuration: whether the model has this linear.
    """

    name: str
    parts: int = 1
    shared: bool = False
    there: Callable[[Any], bool] = _always


@dataclass(frozen=True)
class Structure:
    """Where the units of one architecture lie.

    Attributes:
        layer: path of a layer inside the base model, with a place for each of its numbers.
        heads: rows that make an attention head.
        heads_out: the linear that reads the heads.
        neurons: rows that make a neuron.
        neurons_out: the linear that reads the neurons.
        inner: of a configuration: the number of neurons.
        numbers: what it calls how many of each number of `layer` there are.
        gated: where they lie if the configuration says `use_swiglu_ffn`; None: it does not say so.
    """

    layer: str
    heads: tuple[Rows, ...]
    heads_out: str
    neurons: tuple[Rows, ...]
    neurons_out: str
    inner: Callable[[Any], int] = _INTERMEDIATE
    numbers: tuple[str, ...] = ("num_hidden_layers",)
    gated: Structure | None = None


def _own_positions(kind: str) -> Callable[[Any], bool]:
    """Of a DeBERTa: whether it projects positions of this kind with a linear of their own."""

    def there(config: Any) -> bool:
        own = config.relative_attention and not getattr(config, "share_att_key", False)
        return bool(own) and kind in (config.pos_att_type or ())

    return there


_BERT = Structure(
    "encoder.layer.{}",
    heads=(
        Rows("attention.self.query"),
        Rows("attention.self.key"),
        Rows("attention.self.value"),
    ),
    heads_out="attention.output.dense",
    neurons=(Rows("intermediate.dense"),),
    neurons_out="output.dense",
)
_LLAMA = Structure(
    "layers.{}",
    heads=(
        Rows("self_attn.q_proj"),
        Rows("self_attn.k_proj", shared=True),
        Rows("self_attn.v_proj", shared=True),
    ),
    heads_out="self_attn.o_proj",
    neurons=(Rows("mlp.gate_proj"), Rows("mlp.up_proj")),
    neurons_out="mlp.down_proj",
)
_VIT = replace(
    _BERT,
    heads=(
        Rows("attention.attention.query"),
        Rows("attention.attention.key"),
        Rows("attention.attention.value"),
    ),
)


def _dinov2_neurons(config: Any) -> int:
    return int(config.hidden_size * config.mlp_ratio)


def _gated_dinov2_neurons(config: Any) -> int:
    """Two thirds of them, rounded up to a multiple of 8, as `Dinov2SwiGLUFFN` has them."""
    return (_dinov2_neurons(config) * 2 // 3 + 7) // 8 * 8


_DINOV2 = replace(_VIT, neurons=(Rows("mlp.fc1"),), neurons_out="mlp.fc2", inner=_dinov2_neurons)
_AS_BERT = (
    *("data2vec-text", "ernie", "megatron-bert", "nezha", "rembert", "roberta-prelayernorm"),
    *("roc_bert", "roformer", "xlm-roberta-xl"),
)
_AS_LLAMA = (
    *("gemma", "helium", "hunyuan_v1_dense", "ministral", "mistral"),
    *("qwen2", "qwen3", "seed_oss", "smollm3"),
)  # not Gemma 2 and 3: their norm behind a sub-layer would have to go with one that lost all units

STRUCTURES: dict[str, Structure] = {
    "albert": Structure(  # a layer that is used several times is there once
        "encoder.albert_layer_groups.{}.albert_layers.{}",
        heads=(Rows("attention.query"), Rows("attention.key"), Rows("attention.value")),
        heads_out="attention.dense",
        neurons=(Rows("ffn"),),
        neurons_out="ffn_output",
        numbers=("num_hidden_groups", "inner_group_num"),
    ),
    "bert": _BERT,
    "camembert": _BERT,
    "deit": _VIT,
    "deberta-v2": replace(
        _BERT,
        heads=(
            Rows("attention.self.query_proj"),
            Rows("attention.self.key_proj"),
            Rows("attention.self.value_proj"),
            Rows("attention.self.pos_key_proj", there=_own_positions("c2p")),
            Rows("attention.self.pos_query_proj", there=_own_positions("p2c")),
        ),
    ),
    "dinov2": replace(
        _DINOV2,
        gated=replace(
            _DINOV2,
            neurons=(Rows("mlp.weights_in", parts=2),),
            neurons_out="mlp.weights_out",
            inner=_gated_dinov2_neurons,
        ),
    ),
    "distilbert": Structure(
        "transformer.layer.{}",
        heads=(Rows("attention.q_lin"), Rows("attention.k_lin"), Rows("attention.v_lin")),
        heads_out="attention.out_lin",
        neurons=(Rows("ffn.lin1"),),
        neurons_out="ffn.lin2",
        inner=_called("hidden_dim"),
    ),
    "electra": _BERT,
    "gpt2": Structure(
        "h.{}",
        heads=(Rows("attn.c_attn", parts=3),),
        heads_out="attn.c_proj",
        neurons=(Rows("mlp.c_fc"),),
        neurons_out="mlp.c_proj",
        inner=_called("n_inner"),
    ),
    "llama": _LLAMA,
    "modernbert": Structure(
        "layers.{}",
        heads=(Rows("attn.Wqkv", parts=3),),
        heads_out="attn.Wo",
        neurons=(Rows("mlp.Wi", parts=2),),
        neurons_out="mlp.Wo",
    ),
    "roberta": _BERT,
    "vit": _VIT,
    "xlm-roberta": _BERT,
    "xlnet": Structure(
        "layer.{}",
        heads=tuple(Rows(f"rel_attn.{each}") for each in "qkvr"),
        heads_out="rel_attn.o",
        neurons=(Rows("ff.layer_1"),),
        neurons_out="ff.layer_2",
        inner=_called("d_inner"),
    ),
    **dict.fromkeys(_AS_BERT, _BERT),
    **dict.fromkeys(_AS_LLAMA, _LLAMA),
}
"""Architecture -> where its units lie. One that is missing has no units."""


def unit_groups(config: Any) -> tuple[UnitGroup, ...]:
    """Heads and neurons of a model, layer by layer; names are those inside the base model, as a backbone has them.

    A head that shares its key and value with others (grouped queries) is one unit with them. A layer that is used
    several times is one layer. Heads that the source model has lost already are not there.

    Args:
        config: of transformers.

    Returns:
        No group of a family that `STRUCTURES` does not hold.
    """
    structure = STRUCTURES.get(config.model_type)
    if structure is not None and getattr(config, "use_swiglu_ffn", False):
        structure = structure.gated
    return () if structure is None else tuple(_groups(structure, config))


def unit_shape(config: Any) -> UnitShape | None:
    """What a cost model must know of a model; None where it has no units."""
    groups = unit_groups(config)
    heads = max((g for g in groups if g.kind == HEADS), key=lambda g: g.count, default=None)
    neurons = next((g for g in groups if g.kind == NEURONS), None)
    if heads is None or neurons is None:
        return None
    hidden, layers = int(config.hidden_size), sum(g.kind == NEURONS for g in groups)
    return UnitShape(
        layers=layers,
        uses=max(1, int(config.num_hidden_layers) // layers),
        hidden=hidden,
        heads=heads.count,
        head_width=heads.parts[-1].width,
        neurons=neurons.count,
        head_weights=hidden * sum(part.width for part in heads.parts),
        neuron_weights=hidden * sum(part.width for part in neurons.parts),
    )


def own_units(units: Units | None, config: Any) -> Units | None:
    """The units of a task whose groups are those of its model; None if there are none.

    A file may describe any groups. Only of the model's own it is known that what a removed unit gives is read by nothing: of
    others a graph keeps the zeros in their places.

    Args:
        units: of a patch.
        config: of the model.
    """
    if units is None:
        return None
    own = set(map(_meaning, unit_groups(config)))
    pairs = zip(units.groups, units.kept, strict=True)
    known = [(group, kept) for group, kept in pairs if _meaning(group) in own]
    return Units(*zip(*known, strict=True)) if known else None


def _meaning(group: UnitGroup) -> tuple[str, int, int, frozenset[UnitPart]]:
    """What a group says, whatever the order of its parts."""
    return group.kind, group.layer, group.count, frozenset(group.parts)


def _groups(structure: Structure, config: Any) -> Iterator[UnitGroup]:
    heads = int(config.num_attention_heads)
    units = int(getattr(config, "num_key_value_heads", None) or heads)
    named = (getattr(config, name, None) for name in ("head_dim", "attention_head_size"))
    size = int(next(filter(None, named), config.hidden_size // heads))
    inner = structure.inner(config)
    lost = getattr(config, "pruned_heads", None) or {}  # transformers 4 could remove heads itself
    ranges = (range(int(getattr(config, name))) for name in structure.numbers)
    for layer, numbers in enumerate(itertools.product(*ranges)):
        path = structure.layer.format(*numbers)
        left = units - len(lost.get(layer, ()))
        if left:
            rows = tuple(each for each in structure.heads if each.there(config))
            parts = _parts(path, rows, structure.heads_out, left, size, heads // units)
            yield UnitGroup(HEADS, layer, left, parts)
        parts = _parts(path, structure.neurons, structure.neurons_out, inner, 1, 1)
        yield UnitGroup(NEURONS, layer, inner, parts)


def _parts(
    path: str, rows: tuple[Rows, ...], out: str, count: int, size: int, sharing: int
) -> tuple[UnitPart, ...]:
    """The weights of a layer's units: rows of each linear that makes them, columns of the one that reads them.

    Args:
        path: of the layer.
        rows: of the linears that make the units.
        out: the linear that reads them.
        count: units.
        size: rows of a head, or of a neuron.
        sharing: heads that share a key and a value.
    """
    found = []
    for each in rows:
        width = size if each.shared else size * sharing
        firsts = (number * count * width for number in range(each.parts))
        found += [UnitPart(f"{path}.{each.name}.weight", ROWS, first, width) for first in firsts]
    return (*found, UnitPart(f"{path}.{out}.weight", COLUMNS, 0, size * sharing))
