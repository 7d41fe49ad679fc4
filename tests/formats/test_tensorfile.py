"""Views of a safetensors file: what the library accepts is read alike, what it refuses is refused."""

from __future__ import annotations

import json
import mmap
import random
from pathlib import Path

import numpy as np
import pytest
from formats_kit import make_artifact
from safetensors import SafetensorError
from safetensors.numpy import load, save

from maskpack.formats import ArtifactError, open_artifact
from maskpack.formats.tensorfile import read_tensors

ARRAYS = {
    "a": np.arange(12, dtype=np.float16).reshape(3, 4),
    "b": np.arange(5, dtype=np.uint8),
    "empty": np.zeros((0, 7), dtype=np.int32),
    "one": np.array(3.5, dtype=np.float64),
    "ü": np.array([True, False]),
    "w": np.arange(6, dtype=np.uint16),
}
SOUND = save(ARRAYS, metadata={"maskpack": "{}"})


def test_every_tensor_is_read_as_the_library_reads_it():
    arrays, meta = read_tensors(SOUND)
    expected = load(SOUND)
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == array.tobytes()
    assert meta == {"maskpack": "{}"}


def test_tensors_are_views_that_cannot_be_written():
    data = bytearray(SOUND)
    arrays, _ = read_tensors(data)
    with pytest.raises(ValueError, match="read-only"):
        arrays["b"][0] = 9
    data[-12:] = bytes(12)  # `w` lies last but for what is narrower: nothing was copied
    assert any(array.tobytes() != ARRAYS[name].tobytes() for name, array in arrays.items())


def rebuilt(change):
    """The sound file with its header changed."""
    length = int.from_bytes(SOUND[:8], "little")
    header = json.loads(SOUND[8 : 8 + length])
    told = change(header)
    text = told if isinstance(told, str) else json.dumps(header)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + SOUND[8 + length :]


def put(name, key, value):
    return lambda header: header[name].__setitem__(key, value)


BAD = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "a header beyond the file": (2**62).to_bytes(8, "little") + b"{}",
    "a header beyond all measure": (2**63 + 5).to_bytes(8, "little") + b"{}",
    "a header that is a list": rebuilt(lambda _: "[]"),
    "a header that is no text": (4).to_bytes(8, "little") + b"{\xff\xff}",
    "a header too deep": rebuilt(lambda _: "{" + '"a":{' * 100_000),
    "a tensor that is a number": rebuilt(lambda header: header.update(a=3)),
    "a tensor without a place": rebuilt(lambda header: header["a"].pop("data_offsets")),
    "an unknown dtype": rebuilt(put("a", "dtype", "F17")),
    "a dtype that is a list": rebuilt(put("a", "dtype", [])),
    "another dtype": rebuilt(put("a", "dtype", "F32")),
    "another shape": rebuilt(put("a", "shape", [3, 5])),
    "a shape that overflows": rebuilt(put("a", "shape", [2**32, 2**32, 0])),
    "a negative shape": rebuilt(put("a", "shape", [-3, -4])),
    "a fraction": rebuilt(put("a", "shape", [3.0, 4])),
    "a truth value": rebuilt(put("b", "shape", [True, 5])),
    "a place of one number": rebuilt(put("a", "data_offsets", [0])),
    "a place that is text": rebuilt(put("a", "data_offsets", "01")),
    "places that overlap": rebuilt(put("b", "data_offsets", [0, 5])),
    "metadata that is no text": rebuilt(lambda header: header.update(__metadata__={"a": 1})),
    "metadata that is a list": rebuilt(lambda header: header.update(__metadata__=[])),
    "a tensor less": rebuilt(lambda header: header.pop("w")),
    "a byte less": SOUND[:-1],
    "a byte more": SOUND + b"\0",
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_library_refuses_is_refused(name):
    with pytest.raises((SafetensorError, ValueError, KeyError, TypeError, RecursionError)):
        load(BAD[name])
    with pytest.raises(ArtifactError):
        read_tensors(BAD[name])


def test_a_key_twice_is_refused():
    with pytest.raises(ArtifactError, match="a key twice"):
        read_tensors(rebuilt(lambda header: json.dumps(header)[:-1] + ', "b": {}}'))


def test_whatever_is_damaged_the_library_would_not_say_otherwise():
    rng = random.Random(4)
    length, accepted = int.from_bytes(SOUND[:8], "little"), 0
    for _ in range(6000):
        damaged = bytearray(SOUND)
        for _ in range(rng.choice((1, 1, 2, 3))):
            damaged[rng.randrange(8 + length)] = rng.choice(b'0123456789"{}[],:abUF \x00\xff')
        try:
            arrays, _ = read_tensors(bytes(damaged))
        except ArtifactError:
            continue
        accepted += 1
        expected = load(bytes(damaged))
        assert set(arrays) == set(expected)
        assert all(arrays[name].tobytes() == value.tobytes() for name, value in expected.items())
    assert accepted > 50


def test_an_artifact_s_eight_bit_codes_stay_on_disk(tmp_path):
    artifact = make_artifact(tmp_path / "a")
    owner = artifact.backbone.linears["layer.b.weight"].codes
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, memoryview)
    assert isinstance(owner.obj, mmap.mmap)


def test_a_task_is_read_without_touching_the_others(tmp_path):
    from formats_kit import make_entry, make_patch

    from maskpack.formats import add_task

    folder = tmp_path / "a"
    make_artifact(folder)
    add_task(folder, make_entry("second", make_patch(1)), make_patch(1))
    Path(folder / "tasks" / "first.safetensors").unlink()
    assert open_artifact(folder).patch("second").count.weights > 0
