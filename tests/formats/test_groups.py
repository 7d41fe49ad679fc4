"""Masks of which two of every four neighbours stay: every bit comes back, in fewer bytes than without groups."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats_kit import assert_same_patch, meta_of, rebuild, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_reader import read_packed
from safetensors.numpy import load
from spec_reader import read_artifact

from maskpack.formats import ArtifactError, BitMask, QuantTensor, open_artifact, pack_task
from maskpack.formats.coded import CodedMask, CodedMasks, Coding, decode_masks, encode_masks
from maskpack.formats.delta_masks import coded_patch, read_coded
from maskpack.formats.groups import has_groups
from maskpack.formats.packed import decode_packed

FOLDER = Path(__file__).parents[1] / "golden" / "v1-groups"
DIGESTS = {
    "README.md": "41a8a27978379bcf69789f35731199b1c1669106c4cc72ec9088056e040cd933",
    "backbone.safetensors": "82ed7a8b26357012a0ecd95888dbc1657080b14eca8f914c2ab71b93975e3426",
    "maskpack.json": "964b912c5589c63b78e2da3acdb26c39a47c16577b96aa76a86ea44e475359fc",
    "task.patch": "886bab2c8cf288d2586ba50870bd872c1640571063f0a96ba3cffff4592e451a",
    "tasks/task.safetensors": "004a182afb326bc56ce69fcd350e3e83d9bd05367b1e05204b2bd05ca3327c28",
}
IDEAL = np.log2(6) / 4


def tensor_of(rows, width, *, zeros=0.0, bits=4, seed=0):
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(1, limit, size=(rows, width), endpoint=True)
    codes *= rng.choice([-1, 1], size=codes.shape)
    codes[rng.random(codes.shape) < zeros] = 0
    scales = np.ones((rows, 1), dtype=np.float16)
    return QuantTensor(codes.astype(np.int8), scales, bits, width)


def two_of_four(tensor, worth):
    """The two best of each group stay, codes of 0 go first; their bits are set, as a packed mask has them."""
    ranked = np.where(tensor.codes == 0, -np.inf, worth).reshape(-1, 4)
    best = ranked.argsort(axis=1, kind="stable").argsort(axis=1) >= 2
    return BitMask.from_bool(best.reshape(tensor.shape) | (tensor.codes == 0))


def coded_bits(masks, linears, **options):
    weights = sum(mask.to_bool().size for mask in masks.values())
    return 8 * encode_masks(masks, linears, **options).size / weights


def test_the_golden_files_were_never_rewritten():
    assert {
        name: hashlib.sha256(data).hexdigest() for name, data in tree(FOLDER).items()
    } == DIGESTS


def test_the_golden_task_packs_to_its_bytes_and_unpacks_to_its_values():
    artifact, data = open_artifact(FOLDER), (FOLDER / "task.patch").read_bytes()
    assert pack_task(artifact, "task") == data
    entry, patch = decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)
    assert_same_patch(patch, artifact.patch("task"))
    assert replace(entry, sha256=artifact.entry("task").sha256) == artifact.entry("task")
    meta = meta_of(data)
    assert (meta["codings"], meta["version"]) == ("ttg", 2)


def test_a_reader_written_from_the_page_agrees_on_every_bit():
    linears, _, _, _ = read_artifact(FOLDER)
    artifact = open_artifact(FOLDER)
    data = (FOLDER / "task.patch").read_bytes()
    sha = artifact.manifest.backbone_sha256
    _, keep, _ = read_packed(data, linears, sha, dict(artifact.manifest.files))
    patch = artifact.patch("task")
    assert set(keep) == set(patch.masks)
    assert all(np.array_equal(patch.masks[name].to_bool(), rows) for name, rows in keep.items())


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 40), st.sampled_from([0.0, 0.2, 0.7, 1.0])),
        min_size=1,
        max_size=3,
    ),
    noise=st.sampled_from([0.0, 0.3, 9.0]),
    seed=st.integers(0, 99),
)
def test_masks_of_any_shape_come_back(shapes, noise, seed):
    rng = np.random.default_rng(seed)
    linears = {
        f"l{place}": tensor_of(rows, 4 * groups, zeros=zeros, seed=seed)
        for place, (rows, groups, zeros) in enumerate(shapes)
    }
    masks = {}
    for name, tensor in linears.items():
        worth = np.abs(tensor.dequantize()) * np.exp(noise * rng.normal(size=tensor.shape))
        masks[name] = two_of_four(tensor, worth)
        assert has_groups(masks[name].removed(tensor), tensor)
    found = decode_masks(encode_masks(masks, linears), linears)
    assert all(np.array_equal(found[name].packed, mask.packed) for name, mask in masks.items())


def test_a_mask_without_order_takes_what_its_pattern_takes():
    rng, linears = np.random.default_rng(0), {"a": tensor_of(400, 1024)}
    masks = {"a": two_of_four(linears["a"], rng.random((400, 1024)))}
    assert IDEAL < coded_bits(masks, linears) < 1.02 * IDEAL  # a 64th for lanes
    assert coded_bits(masks, linears, groups=False) > 0.99


def test_a_mask_by_magnitude_is_nearly_free():
    linears = {"a": tensor_of(400, 1024, zeros=0.15, bits=8)}
    masks = {"a": two_of_four(linears["a"], np.abs(linears["a"].dequantize()))}
    assert coded_bits(masks, linears) < 0.02
    assert coded_bits(masks, linears, groups=False) > 0.5


def test_codes_of_zero_make_groups_cheaper():
    rng, sizes = np.random.default_rng(0), []
    for zeros in (0.0, 0.2, 0.6):
        linears = {"a": tensor_of(256, 1024, zeros=zeros)}
        masks = {"a": two_of_four(linears["a"], rng.random((256, 1024)))}
        sizes.append(coded_bits(masks, linears))
        live = (1 - zeros) ** 4 * np.log2(6) + 4 * zeros * (1 - zeros) ** 3 * np.log2(3)
        assert sizes[-1] == pytest.approx(live / 4, abs=0.02)  # .016 are states of lanes
    assert sizes[0] > sizes[1] > sizes[2]


def test_columns_that_lose_much_help():
    rng, linears = np.random.default_rng(0), {"a": tensor_of(1024, 512)}
    columns = np.exp(rng.normal(size=512))
    worth = rng.random((1024, 512))
    even, uneven = (two_of_four(linears["a"], worth * own) for own in (1.0, columns))
    assert coded_bits({"a": uneven}, linears) < 0.9 * coded_bits({"a": even}, linears)


@pytest.mark.parametrize("width", [1024, 1022])
def test_other_masks_do_not_change_their_coding(width):
    """One group with another number, or rows that groups do not divide, and the coding is that of before."""
    rng, linears = np.random.default_rng(0), {"a": tensor_of(64, width)}
    keep = rng.random((64, width)) < 0.5
    if width == 1024:
        keep = two_of_four(linears["a"], rng.random((64, width))).to_bool()
        keep[3, 8:12] = True
    masks = {"a": BitMask.from_bool(keep)}
    found, before = (encode_masks(masks, linears, groups=groups) for groups in (True, False))
    assert found.masks["a"].coding is before.masks["a"].coding is not Coding.GROUPS
    assert np.array_equal(found.stream, before.stream)


def decode(data):
    artifact = open_artifact(FOLDER)
    return decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)


def test_a_damaged_byte_is_noticed_everywhere():
    data = (FOLDER / "task.patch").read_bytes()
    start = len(data) - load(data)["masks.stream"].nbytes
    for place in [*range(start, start + 40), *range(0, len(data), 7)]:
        for bit in (0x01, 0x40):
            damaged = bytearray(data)
            damaged[place] ^= bit
            with pytest.raises(ArtifactError):
                decode(bytes(damaged))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "has version 1, its masks are those of version 2"),
        ({"codings": "ttt", "gaps": []}, "`c` has rows of 66 weights, which are no groups of 4"),
        ({"codings": "mtg"}, "do not end where they should|end too early|is damaged|zeros"),
        ({"codings": "kkg", "version": 1}, "does not go with its masks"),
        ({"lanes": 0}, "does not go with its masks"),
    ],
)
def test_a_header_that_says_something_else_is_refused(changes, message):
    data = rebuild((FOLDER / "task.patch").read_bytes(), lambda meta, _: meta.update(changes))
    with pytest.raises(ArtifactError, match=message):
        decode(data)


def test_a_delta_has_no_groups():
    """Its readers know nothing of them, and its masks are cut in two."""
    linears, file = open_artifact(FOLDER).backbone.linears, FOLDER / "tasks" / "task.safetensors"
    parts, own = coded_patch(file.read_bytes(), None, linears)
    assert "t" not in parts[0]["codings"]
    letters = "t" + parts[0]["codings"][1:]
    left = parts[0]["gaps"][-letters.count("g") :] if "g" in letters else []
    told = [{**parts[0], "codings": letters, "gaps": left}]
    with pytest.raises(ArtifactError, match="a coding of packed patches alone"):
        read_coded(told, own, None, linears, size=len(file.read_bytes()))


def test_a_width_that_groups_do_not_divide_is_refused_when_it_is_read():
    linears = {"a": tensor_of(4, 6)}
    coded = CodedMasks({"a": CodedMask(Coding.GROUPS, (4, 6))}, np.zeros(256, np.uint16), 128)
    with pytest.raises(ArtifactError, match="rows of 6 weights"):
        decode_masks(coded, linears)
