"""Backbones that are written piece by piece, and whose codes are unpacked when they are read."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from maskpack.formats import ArtifactError, Backbone, BitMask, Patch, QuantTensor
from maskpack.formats.codec import (
    backbone_pieces,
    decode_backbone,
    encode_backbone,
    encoded_size,
    header_text,
    read_tensors,
)
from maskpack.formats.matrices import PackedTensor
from maskpack.formats.writer import write_pieces

RNG = np.random.default_rng(5)


def tensor_of(rows: int, width: int, bits: int, group: int, *, free: bool = False, wide=np.float16):
    limit = (1 << bits) - 1 if free else (1 << (bits - 1)) - 1
    codes = RNG.integers(-limit, limit + 1, (rows, width))
    codes = (codes | 1 if free else codes).clip(-limit, limit).astype(np.int8)
    scales = RNG.random((rows, -(-width // group))).astype(wide)
    return QuantTensor(codes, scales, bits, group, free)


BACKBONE = Backbone(
    {
        "b.weight": tensor_of(3, 10, 4, 4),
        "a.weight": tensor_of(5, 16, 4, 16, wide=np.float32),
        "ü.weight": tensor_of(2, 13, 2, 5, free=True),
        'quote".weight': tensor_of(4, 9, 1, 9, free=True),
        "eight": tensor_of(2, 3, 8, 3, wide=np.float32),
    },
    {
        "words": tensor_of(7, 6, 8, 6),
        "few": tensor_of(7, 7, 4, 7),
        "three": tensor_of(5, 11, 3, 11, free=True),
    },
    {"b.bias": RNG.random(10).astype(np.float16), "conv": RNG.random((2, 3, 4)).astype(np.float16)},
)


def test_the_pieces_are_the_file_that_safetensors_makes():
    data = b"".join(backbone_pieces(BACKBONE))
    arrays, meta = read_tensors(data)
    assert len(arrays) == 2 * 8 + 2
    assert save(dict(arrays), metadata=meta) == data == encode_backbone(BACKBONE)
    assert meta == {"maskpack": header_text(__import__("json").loads(meta["maskpack"]))}
    assert encoded_size(BACKBONE) == len(data)


def test_a_tensor_is_packed_when_its_turn_comes(monkeypatch):
    packed = []
    whole = QuantTensor.pack
    monkeypatch.setattr(QuantTensor, "pack", lambda one: packed.append(one.shape) or whole(one))
    pieces = backbone_pieces(BACKBONE)
    next(pieces)
    assert packed == []
    assert len(list(pieces)) == 18
    assert len(packed) == 8


def test_a_file_of_pieces_has_the_digest_of_its_bytes(tmp_path):
    digest = write_pieces(tmp_path / "file", backbone_pieces(BACKBONE))
    data = (tmp_path / "file").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert data == encode_backbone(BACKBONE)


def test_a_failing_piece_leaves_the_old_file(tmp_path):
    def pieces():
        yield b"new"
        raise RuntimeError

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_pieces(tmp_path / "file", pieces())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_codes_that_stay_packed_are_the_same_values():
    data = encode_backbone(BACKBONE)
    plain, packed = decode_backbone(data), decode_backbone(data, most_unpacked=0)
    assert encode_backbone(packed) == data
    assert packed.maskable == plain.maskable
    kinds = {name: type(tensor) for name, tensor in (packed.linears | packed.embeddings).items()}
    assert kinds.pop("eight") is kinds.pop("words") is QuantTensor
    assert set(kinds.values()) == {PackedTensor}
    for name, tensor in {**plain.linears, **plain.embeddings}.items():
        other = {**packed.linears, **packed.embeddings}[name]
        assert (other.shape, other.size, other.limit) == (tensor.shape, tensor.size, tensor.limit)
        assert np.array_equal(other.codes, tensor.codes)
        assert other.dequantize().tobytes() == tensor.dequantize().tobytes()
        assert np.array_equal(PackedTensor.of(tensor).codes, tensor.codes)


def test_masks_and_gains_over_packed_codes_are_those_over_plain_ones():
    data = encode_backbone(BACKBONE)
    masks = {
        name: BitMask.from_bool(RNG.random(tensor.shape) < 0.7)
        for name, tensor in BACKBONE.linears.items()
    }
    gains = {"b.weight": np.array([0.5, 1.5, 2.0], np.float16), "a.weight": np.ones(5, np.float16)}
    patch = Patch(masks, {}, gains=gains)
    plain, packed = (patch.over(decode_backbone(data, most_unpacked=most)) for most in (10**9, 0))
    for name, tensor in plain.linears.items():
        assert packed.linears[name].dequantize().tobytes() == tensor.dequantize().tobytes()
        alone = patch.linear_over(BACKBONE, name)
        assert alone.dequantize().tobytes() == tensor.dequantize().tobytes()
    only_gains = Patch({}, {}, gains=gains).over(decode_backbone(data, most_unpacked=0))
    assert type(only_gains.linears["b.weight"]) is PackedTensor


@pytest.mark.parametrize("damage", [b"\x88", b"\x80"])
def test_a_wrong_code_is_refused_where_codes_stay_packed_too(damage):
    tensor = tensor_of(1, 3, 4, 3)
    packed = np.frombuffer(b"\x11" + damage, dtype=np.uint8)[None]
    with pytest.raises(ArtifactError):
        PackedTensor(packed, tensor.scales, 4, 3, False, 3)


@pytest.mark.parametrize("group", [3, 4, 5, 8, 16])
def test_a_weight_is_its_code_times_its_scale(group):
    tensor = tensor_of(6, 16, 4, group)
    wanted = tensor.codes.astype(np.float32) * tensor.expanded_scales()
    assert tensor.dequantize().tobytes() == wanted.tobytes()
