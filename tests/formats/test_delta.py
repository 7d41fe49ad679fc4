"""A delta gives back the new release, byte for byte, and is refused over any other old one."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from formats_kit import FILES, SCHEME, SOURCE, make_artifact, make_entry, meta_of, rebuild, tree

import maskpack.formats
from maskpack.formats import (
    ArtifactError,
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
    add_task,
    apply_delta,
    create_artifact,
    pack_task,
    write_delta,
)
from maskpack.formats.codec import header_text
from maskpack.formats.delta import Way, decode_delta, difference_bytes, encode_delta, sum_bytes
from maskpack.formats.packed import without_idle_bits

NAME = "layer.weight"
SHAPE = (256, 1000)


def backbone(bits, seed=0, changed=0.0):
    """One linear of `SHAPE`; `changed`: the share of codes that another release has others of."""
    rng = np.random.default_rng(5)
    kinds = (-3, -1, 1, 3) if bits == 2 else range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
    codes = rng.choice(list(kinds), SHAPE).astype(np.int8)
    other = np.random.default_rng(seed)
    here = other.random(codes.shape) < changed
    codes[here] = other.choice(list(kinds), int(here.sum()))
    scales = np.full((SHAPE[0], 1), 0.5, np.float16)
    return Backbone({NAME: QuantTensor(codes, scales, bits, SHAPE[1], bits == 2)}, {}, {})


def removed(seed, share=0.03):
    return np.random.default_rng(seed).random(SHAPE) < share


def patch(gone, seed):
    head = np.random.default_rng(seed).normal(size=(2, 8)).astype(np.float16)
    return Patch({NAME: BitMask.from_bool(~gone)}, {"out.weight": head})


def release(path, own, gone, seed=0, *, idle=False):
    """An artifact of one task."""
    made = patch(gone, seed)
    made = made if idle else without_idle_bits(made, own)
    task = (make_entry("first", made), made)
    return create_artifact(path, own, source=SOURCE, scheme=SCHEME, files=FILES, first=task).path


def there_and_back(old, new, root):
    """The delta, after what it makes was compared with the new release."""
    made = write_delta(old, new, root / "x.delta")
    apply_delta(old, made.out, root / "applied")
    assert tree(root / "applied") == tree(new)
    assert made.bytes == made.out.stat().st_size
    assert made.new_bytes == sum(len(data) for data in tree(new).values())
    return {file.name: file for file in made.files}


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_masks_cost_less_over_the_old_ones_if_they_share_zeros(tmp_path, bits):
    own, before = backbone(bits), removed(1)
    after = (before & (removed(2, 0.8))) | removed(3, 0.006)
    old = release(tmp_path / "old", own, before, 1)
    new, other = (release(tmp_path / f"new{n}", own, after, 2) for n in (1, 2))
    file = there_and_back(old, new, tmp_path)["tasks/first.safetensors"]
    assert (file.way, file.base) == (Way.MASKS, "tasks/first.safetensors")
    lone, _ = encode_delta({}, tree(other))
    (alone,) = [f for f in decode_delta(lone, {})[2] if f.name == file.name]
    assert (alone.way, alone.base) == (Way.MASKS, None)
    assert file.delta_bytes < 0.8 * alone.delta_bytes


def test_masks_that_share_nothing_are_made_from_nothing(tmp_path):
    own = backbone(4)
    old = release(tmp_path / "old", own, removed(1, 0.001), 1)
    new = release(tmp_path / "new", own, removed(2, 0.1), 2)
    file = there_and_back(old, new, tmp_path)["tasks/first.safetensors"]
    assert (file.way, file.base) == (Way.MASKS, None)


def test_a_bit_over_a_code_of_0_comes_back_as_it_was(tmp_path):
    own, gone = backbone(4), removed(1)
    assert (gone & (own.linears[NAME].codes == 0)).any()
    new = release(tmp_path / "new", own, gone, 2, idle=True)
    old = release(tmp_path / "old", own, removed(2), 1)
    assert there_and_back(old, new, tmp_path)["tasks/first.safetensors"].way != Way.MASKS


@pytest.mark.parametrize(("bits", "way"), [(8, Way.SUM), (2, Way.XOR)])
def test_a_backbone_costs_what_has_changed(tmp_path, bits, way):
    old = release(tmp_path / "old", backbone(bits), removed(1))
    new = release(tmp_path / "new", backbone(bits, seed=1, changed=0.01), removed(1))
    file = there_and_back(old, new, tmp_path)["backbone.safetensors"]
    assert file.way in {Way.XOR, Way.SUM}, way
    assert file.base == "backbone.safetensors"
    assert file.delta_bytes < 0.3 * file.bytes


def test_a_replaced_task_is_made_from_the_one_that_it_replaces(tmp_path):
    own = backbone(4)
    old = release(tmp_path / "old", own, removed(1), 1)
    new = release(tmp_path / "new", own, removed(1), 1)
    made = without_idle_bits(patch(removed(1) | removed(2, 0.001), 1), own)
    add_task(new, make_entry("first", made), made, replacing=True)
    files = there_and_back(old, new, tmp_path)
    assert files["tasks/first.r1.safetensors"].base == "tasks/first.safetensors"
    assert "tasks/first.safetensors" not in files


def test_a_folder_of_any_files(tmp_path):
    """An export or a package: files go and come, folders too, and hidden ones are left out."""
    old, new = tmp_path / "old", tmp_path / "new"
    noise = np.random.default_rng(0).bytes(5000)
    for home, files in (
        (old, {"a/model.onnx": noise, "gone": b"x", "same": noise[:99]}),
        (new, {"a/model.onnx": b"longer" + noise, "b/come": b"", "same": noise[:99], ".x": b"y"}),
    ):
        for name, data in files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
    made = write_delta(old, new, tmp_path / "x.delta")
    apply_delta(old, made.out, tmp_path / "applied")
    (new / ".x").unlink()
    assert tree(tmp_path / "applied") == tree(new)
    sizes = {file.name: file.delta_bytes for file in made.files}
    assert sizes["same"] == 0
    assert sizes["a/model.onnx"] < 300


def test_two_files_whatever_they_are_called(tmp_path):
    data = np.random.default_rng(0).bytes(5000)
    for name, content in (("old", data), ("new", data[:4000] + bytes(1000)), ("moved", data)):
        (tmp_path / name).write_bytes(content)
    made = write_delta(tmp_path / "old", tmp_path / "new", tmp_path / "x.delta")
    assert made.bytes < 2000
    apply_delta(tmp_path / "moved", made.out, tmp_path / "applied")
    assert (tmp_path / "applied").read_bytes() == (tmp_path / "new").read_bytes()
    with pytest.raises(ArtifactError, match=r"`new` has the SHA-256 \w{12}, the delta was made"):
        apply_delta(tmp_path / "new", made.out, tmp_path / "again")


@pytest.fixture
def pair(tmp_path):
    """Two artifacts of another task each, and their delta."""
    old, new = (make_artifact(tmp_path / name, seed=n).path for n, name in enumerate("on"))
    return old, new, write_delta(old, new, tmp_path / "x.delta").out


def test_another_release_is_refused_by_the_name_of_its_file(pair, tmp_path):
    old, _, delta = pair
    (old / "config.json").write_text("{}")
    with pytest.raises(
        ArtifactError, match=r"`config\.json` has the SHA-256 .*made from"
    ) as caught:
        apply_delta(old, delta, tmp_path / "x")
    assert "the release that it was made from" in caught.value.hint
    (old / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"with `config\.json`, which is not there"):
        apply_delta(old, delta, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_damage_of_a_delta_goes_unnoticed(pair):
    old, new, delta = pair
    data, before, after = bytearray(delta.read_bytes()), tree(old), tree(new)
    rng, noticed = np.random.default_rng(0), 0
    for _ in range(300):
        place = int(rng.integers(len(data)))
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        try:
            found, _, _ = decode_delta(bytes(changed), before)
        except ArtifactError:
            noticed += 1
        else:
            assert found == after
    assert noticed > 200


def with_digest(change):
    """The change, and a digest of the release that goes with it."""

    def both(meta, arrays):
        change(meta, arrays)
        named = {file["name"]: file["sha256"] for file in meta["files"]}
        text = header_text({"files": named, "single": meta["single"]})
        meta["sha256"] = hashlib.sha256(text.encode()).hexdigest()

    return both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta, _: meta.update(version=2), "version 2 of deltas is not readable"),
        (lambda meta, _: meta.update(kind="patch"), "expected a delta"),
        (lambda meta, _: meta["files"][0].update(name="../x"), r"names the file `\.\./x`"),
        (lambda meta, _: meta["files"][0].update(name="/x"), "names the file `/x`"),
        (lambda meta, _: meta["files"][0].update(name="\ud800"), "names the file"),
        (lambda meta, _: meta["files"][0].update(name="con.txt"), "Windows takes no file"),
        (lambda meta, _: meta["files"][0].update(way="copy"), "header of a delta is wrong"),
        (lambda meta, _: meta["files"][0].pop("base"), "header of a delta is wrong"),
        (lambda meta, _: meta["files"][0].update(sha256="0" * 64), "is not what the delta was"),
        (lambda meta, _: meta["files"][0].update(bytes=3), "holds .* bytes, not 3"),
        (lambda meta, _: meta["files"][0].update(bytes=2**63), "more than a delta may"),
        (lambda meta, _: meta["files"][0].update(bytes=-2), "whose file has -2 bytes"),
    ],
)
def test_a_header_that_is_wrong_is_refused(pair, change, message):
    old, _, delta = pair
    with pytest.raises(ArtifactError, match=message):
        decode_delta(rebuild(delta.read_bytes(), with_digest(change)), tree(old))


@pytest.mark.parametrize("sizes", [[2**31], [2**50], [2**70], [2**29] * 4, [2**50, -(2**50)]])
def test_sizes_that_no_delta_makes_are_refused_before_a_part_is_expanded(sizes, pair, monkeypatch):
    old, _, delta = pair

    def huge(meta, _):
        for place, size in enumerate(sizes):
            meta["files"][place]["bytes"] = size

    def expanded(*_):
        raise AssertionError("a part was expanded")

    monkeypatch.setattr("maskpack.formats.delta.expanded", expanded)
    with pytest.raises(ArtifactError, match=r"makes [\d,]+ bytes of [\d,]+, more than a delta may"):
        decode_delta(rebuild(delta.read_bytes(), with_digest(huge)), tree(old))


def test_a_file_and_a_folder_have_no_delta(pair, tmp_path):
    old, new, delta = pair
    with pytest.raises(ArtifactError, match="is a file, the other a folder"):
        write_delta(old, new / "config.json", tmp_path / "y")
    with pytest.raises(ArtifactError, match="already exists"):
        write_delta(old, new, delta)
    with pytest.raises(ArtifactError, match="no files at"):
        write_delta(old, tmp_path / "none", tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_the_same_releases_give_the_same_delta(pair):
    old, new, delta = pair
    assert encode_delta(tree(old), tree(new))[0] == delta.read_bytes()
    assert [file["name"] for file in meta_of(delta.read_bytes())["files"]] == sorted(tree(new))


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0), (3, 7), (7, 3), (4, 4)])
@pytest.mark.parametrize("way", [Way.XOR, Way.SUM])
def test_differences_come_back(sizes, way):
    new, old = (np.random.default_rng(size).bytes(size) for size in sizes)
    assert sum_bytes(difference_bytes(new, old, way=way), old, way=way) == new


def test_the_example_of_the_specification():
    text = (Path(maskpack.formats.__file__).parent / "DELTA.md").read_text("utf-8")
    (want,) = re.findall(r"```sum\n(.*?)\n```", text)
    for way in (Way.XOR, Way.SUM):
        assert sum_bytes(bytes.fromhex(want), bytes([5, 6]), way=way) == bytes([9, 5, 7])


def test_a_packed_task_has_no_smaller_form(tmp_path):
    """Its masks are coded already: over another one nothing is saved, and nothing is lost but a header."""
    own = backbone(4)
    data = []
    for number in (1, 2):
        path = release(tmp_path / f"a{number}", own, removed(number), number)
        data.append(pack_task(maskpack.formats.open_artifact(path), "first"))
    made, files = encode_delta({"x": data[0]}, {"y": data[1]}, single=True)
    assert len(made) < len(data[1]) + 700
    assert decode_delta(made, {"z": data[0]})[0] == {"y": data[1]}
    assert files[0].bytes == len(data[1])
