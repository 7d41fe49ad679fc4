"""Memory that is available, and refinements that would need more."""

from __future__ import annotations

import pytest

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.memory import available_memory, group_limits
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.quantization.refine import check_memory, refinement_bytes
from maskpack.formats import ConfigError

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """A function: a root with these files."""

    def make(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


MEMINFO = "MemTotal: 8000000 kB\nMemFree: 10 kB\nMemAvailable: 4000000 kB\n"
PRESENT = {"proc__meminfo": MEMINFO, "proc__self__cgroup": "0::/a/b\n"}
V2 = "sys__fs__cgroup__a__memory_DOT_"


def test_without_a_group_the_system_decides(system):
    assert available_memory(system(proc__meminfo=MEMINFO)) == 4_000_000 * 1024


def test_nobody_knows_where_the_system_does_not_tell(tmp_path):
    assert available_memory(tmp_path) is None


def test_the_limit_of_an_outer_group_counts_with_pages_that_can_be_dropped(system):
    limits = {f"{V2}max": "2000\n", f"{V2}current": "1500\n"}
    stat = {f"{V2}stat": "anon 300\ninactive_file 400\nactive_file 7\n"}
    root = system(**PRESENT, **limits, **stat)
    assert available_memory(root) == 900


def test_a_group_without_a_limit_does_not_count(system):
    root = system(**PRESENT, **{f"{V2}max": "max\n", f"{V2}current": "1\n", f"{V2}stat": ""})
    assert list(group_limits(root)) == []
    assert available_memory(root) == 4_000_000 * 1024


def test_groups_of_version_1_count(system):
    home = "sys__fs__cgroup__memory__memory_DOT_"
    files = {f"{home}limit_in_bytes": "5000", f"{home}usage_in_bytes": "4000"}
    files |= {f"{home}stat": "inactive_file 1\ntotal_inactive_file 500\n"}
    groups = "4:memory:/elsewhere\n3:cpu:/x\n"
    root = system(proc__meminfo=MEMINFO, proc__self__cgroup=groups, **files)
    assert available_memory(root) == 1500


def test_a_refinement_beyond_memory_is_refused_with_both_numbers():
    values, learned = 1_034_000_000, 968_000_000
    needed = refinement_bytes(values, learned)
    assert needed == 8 * values + 20 * learned
    check_memory("m", values, learned, needed)
    check_memory("m", values, learned, None)
    with pytest.raises(ConfigError, match=r"`m` .* takes 25\.7 GiB of memory, 16\.0 GiB") as caught:
        check_memory("m", values, learned, 16 * GIB)
    assert "`refine` 0" in str(caught.value.hint)


def test_quantising_refuses_before_it_begins_and_only_what_is_refined(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("maskpack.compressor.quantization.backbone.available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match="trains all its layers together"):
        make_backbone(str(tiny_model), tmp_path / "two", BackboneConfig(bits=2))
    assert list(tmp_path.iterdir()) == []
    make_backbone(str(tiny_model), tmp_path / "plain", BackboneConfig(bits=2, refine=0))
    make_backbone(str(tiny_model), tmp_path / "four", BackboneConfig(bits=4))
