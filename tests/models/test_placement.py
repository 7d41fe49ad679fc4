"""Which device, which precision: chosen, and refused where it is not there."""

from __future__ import annotations

import pytest
import torch

from maskpack.formats import ConfigError
from maskpack.models import placement
from maskpack.models.placement import found_devices, placement_of
from maskpack.models.processes import ALONE, Processes, ProcessLostError


@pytest.fixture
def gpus(monkeypatch):
    """A function: pretend that torch finds so many GPUs."""
    chosen = []

    def pretend(count, *, bf16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    pretend(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return pretend


@pytest.mark.parametrize("device", [None, "auto", "cpu"])
def test_without_a_gpu_everything_is_the_cpu(device, gpus):
    found = placement_of(device, "fp32")
    assert (found.device, found.precision, found.byte_dropout) == ("cpu", "fp32", True)
    assert found.processes is ALONE


@pytest.mark.parametrize(
    ("device", "bf16", "expected"),
    [
        (None, True, ("cuda:0", "bf16")),
        ("cuda:2", True, ("cuda:2", "bf16")),
        ("auto", False, ("cuda:0", "fp32")),
    ],
)
def test_a_gpu_is_taken_where_there_is_one(device, bf16, expected, gpus):
    chosen = gpus(3, bf16=bf16)
    found = placement_of(device, "auto")
    assert (found.device, found.precision) == expected
    assert not found.byte_dropout, "a GPU draws its own"
    assert chosen == [int(expected[0][-1])]


def test_each_process_takes_its_own_gpu(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(placement, "join_processes", lambda *, cpu: Processes(3, 4))
    found = placement_of("cuda", "fp16")
    assert (found.device, found.precision, found.processes.rank) == ("cuda:3", "fp16", 3)
    with pytest.raises(ConfigError, match="4 processes cannot all compute on `cuda:1`"):
        placement_of("cuda:1", "auto")
    gpus(2)
    with pytest.raises(ConfigError, match="4 processes share 2 GPUs"):
        placement_of("cuda", "auto")


@pytest.mark.parametrize(
    ("said", "expected"), [("no", "bf16"), ("fp16", "fp16"), ("bf16", "bf16"), ("odd", "bf16")]
)
def test_what_accelerate_launch_was_told_counts_where_nothing_else_is_said(
    said, expected, gpus, monkeypatch
):
    gpus(1)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", said)
    assert placement_of("cuda", "auto").precision == expected
    assert placement_of("cuda", "fp32").precision == "fp32"


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("cpu", "fp16", "a CPU does not train in fp16"),
        ("cuda", "auto", "finds no GPU of CUDA"),
        ("cuda:0", "auto", "finds no GPU of CUDA"),
        ("mps", "auto", "finds no GPU of Apple"),
        ("cpu:1", "auto", "there is no device `cpu:1`"),
        ("tpu", "auto", "tpu"),
        ("", "auto", "device"),
    ],
)
def test_what_is_not_there_is_refused_with_a_way_on(device, precision, words, gpus):
    with pytest.raises(ConfigError, match=words) as told:
        placement_of(device, precision)
    assert told.value.hint


@pytest.mark.parametrize("device", ["cuda:3", "cuda:x", "cuda:-1"])
def test_a_gpu_that_is_not_there(device, gpus):
    gpus(3)
    with pytest.raises(ConfigError, match=f"there is no device `{device}`") as told:
        placement_of(device, "auto")
    assert "0 to 2" in told.value.hint


def test_several_processes_do_not_share_the_gpu_of_an_apple(gpus, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert placement_of("auto", "auto").device == "mps"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes cannot share `mps`"):
        placement_of("auto", "auto")


def test_what_was_found_is_told(gpus, monkeypatch):
    assert found_devices()[-1].startswith("cpu, ")
    gpus(1)
    about = type("About", (), {"name": "Fast 1", "total_memory": 24 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    assert found_devices()[0] == "cuda:0 Fast 1, 24 GiB, bf16"


def test_processes_that_do_not_find_each_other_are_an_error_of_ours(monkeypatch, gpus):
    import accelerate

    def fail(**_):
        raise RuntimeError("address already in use")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(accelerate, "PartialState", fail)
    with pytest.raises(ConfigError, match=r"process 1 of 2 cannot connect .* already in use"):
        placement_of("cpu", "fp32")


def test_a_lost_process_is_an_error_of_ours(monkeypatch):
    from accelerate import utils

    def lost(*_, **__):
        raise RuntimeError("Connection closed by peer")

    for name in ("gather_object", "broadcast_object_list"):
        monkeypatch.setattr(utils, name, lost)
    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    two = Processes(0, 2)
    for work in (
        lambda: two.sum([torch.ones(2)]),
        lambda: two.gather(1),
        lambda: two.of_main(lambda: 1),
    ):
        with pytest.raises(ProcessLostError, match="another of the 2 processes has ended"):
            work()
