"""Web packages under gzip: smaller files, the same answers, and what is damaged is named. Node as in test_package_web.py."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil

import numpy as np
import pytest
from node_kit import in_node, needs_node

from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.gzipped import gzipped
from maskpack.exporters.package.write import check_files, write_package
from maskpack.formats import ConfigError, ExportError
from maskpack.runtime import Session

LOGITS = """
import fs from "node:fs";
import { TASKS, load } from "./predict.mjs";
const found = {};
for (const name of Object.keys(TASKS)) {
  const task = await load(name);
  found[name] = [];
  for (const text of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) found[name].push(await task.logits(text));
}
console.log(JSON.stringify(found));
"""
TEXTS = ["the good film", "", "we were very happy and the food was great " * 9]


@pytest.fixture(scope="module")
def sources(exported, shared, swapped):
    """Layout -> exported folder. Read only."""
    return {
        "folded": exported("bert", "int8").folder,
        "shared": shared("bert", "int8")[0],
        "swap": swapped("bert", "int8")[0],
    }


@pytest.fixture(scope="module")
def packed(sources, tmp_path_factory):
    """`packed(layout, gzip)`: a package, made on first use. Read only."""
    root, made = tmp_path_factory.mktemp("packages"), {}

    def make(layout, gzip=True):
        if (layout, gzip) not in made:
            out = root / f"{layout}-{gzip}"
            request = PackageRequest(sources[layout], out, Target.WEB, gzip=gzip)
            made[layout, gzip] = write_package(request)
        return made[layout, gzip]

    return make


def copied(package, out):
    """A copy, which a test may change."""
    return shutil.copytree(package.out, out)


@pytest.mark.parametrize("layout", ["folded", "shared", "swap"])
def test_files_unpack_to_those_of_a_plain_package(packed, layout):
    plain, small = packed(layout, gzip=False), packed(layout)
    assert sum(small.files.values()) < sum(plain.files.values())
    check_files(small.out)
    under = {name for name in small.files if name.endswith(".gz")}
    assert {name.removesuffix(".gz") for name in under} == set(plain.files) - set(small.files)
    assert under
    for name in under:
        want = (plain.out / name.removesuffix(".gz")).read_bytes()
        assert gzip.decompress((small.out / name).read_bytes()) == want


def test_the_page_names_the_files_that_are_there(packed):
    made = packed("shared")
    assert "`backbone.bin.gz`" in (made.out / "README.md").read_text()
    text = (made.out / "predict.mjs").read_text().split("TASKS = ")[1].split(";")[0]
    named = {name for files in json.loads(text).values() for name in files.values()}
    assert {"backbone.bin.gz", "tokenizer_config.json"} <= named
    assert all((made.out / name).is_file() for name in named)


def test_the_same_tasks_give_the_same_bytes(sources, tmp_path):
    digests = set()
    for name in ("a.zip", "b.zip"):
        request = PackageRequest(sources["shared"], tmp_path / name, Target.WEB, gzip=True)
        digests.add(write_package(request).sha256)
    assert len(digests) == 1


def test_a_file_is_packed_only_where_that_pays():
    noise = np.random.default_rng(0).bytes(100_000)
    assert gzipped(noise) is None
    assert gzipped(bytes(1000)) is None, "a request costs more"
    found = gzipped(bytes(100_000))
    assert found is not None
    assert gzipped(found + bytes(100_000)) is None, "a page would unpack it twice"


@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
def test_other_targets_are_sent_to_an_archive(sources, tmp_path, target):
    with pytest.raises(ConfigError, match=f"a package for {target} are not compressed") as caught:
        PackageRequest(sources["folded"], tmp_path / "x", target, gzip=True)
    assert ".tar.gz" in caught.value.hint


@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_the_runtime_answers_from_a_copy_that_was_unpacked(packed, layout, tmp_path):
    copy = copied(packed(layout), tmp_path / "copy")
    with pytest.raises(ExportError, match="no exported task") as caught:
        Session(copy)
    assert "they are under gzip: gunzip -r" in caught.value.hint
    for path in copy.rglob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = Session(packed(layout, gzip=False).out)
    assert Session(copy).predict(TEXTS, task="sst2") == plain.predict(TEXTS, task="sst2")


@needs_node
@pytest.mark.parametrize("layout", ["folded", "shared", "swap"])
def test_the_answers_in_node_are_those_of_a_plain_package(packed, layout, tmp_path):
    copies = [copied(packed(layout, gzip=way), tmp_path / str(way)) for way in (False, True)]
    found = [in_node(copy, LOGITS, TEXTS) for copy in copies]
    assert found[0]
    assert found[0] == found[1]


BROKEN = """
import fs from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { load } from "./predict.mjs";
const file = (name) => fs.readFile(new URL(name, import.meta.url));
const is = (name) => name === "backbone.bin.gz";
const ways = {
  cut: async (name) => (is(name) ? (await file(name)).subarray(0, -100) : file(name)),
  changed: async (name) => (is(name) ? Buffer.concat([(await file(name)).subarray(0, -8), Buffer.alloc(8)]) : file(name)),
  unpacked: async (name) => (name.endsWith(".gz") ? gunzipSync(await file(name)) : file(name)),
};
const found = {};
for (const [way, read] of Object.entries(ways))
  found[way] = await load("sst2", read).then((task) => task.logits("good"), (error) => error.message);
console.log(JSON.stringify(found));
"""


@needs_node
def test_a_damaged_file_is_named_and_one_that_a_server_unpacked_is_taken(packed, tmp_path):
    found = in_node(copied(packed("shared"), tmp_path / "gzip"), BROKEN, None)
    for way in ("cut", "changed"):
        assert found[way].startswith("backbone.bin.gz is damaged"), way
    plain = copied(packed("shared", gzip=False), tmp_path / "plain")
    want = in_node(plain, LOGITS, ["good"])
    assert found["unpacked"] == want["sst2"][0]


def test_an_older_package_has_the_bytes_it_had(packed):
    """Without the option nothing is under gzip."""
    made = packed("shared", gzip=False)
    assert not [name for name in made.files if name.endswith(".gz")]
    sums = (made.out / "SHA256SUMS").read_text()
    digest = hashlib.sha256((made.out / "backbone.bin").read_bytes()).hexdigest()
    assert f"{digest}  backbone.bin" in sums
