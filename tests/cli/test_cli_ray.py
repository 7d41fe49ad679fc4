"""`compress sweep --ray`: what the option takes, and sweeps on two raylets of this machine."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from maskpack.compressor.sweep.executors import EXECUTORS, ExecutorOptions
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import read_log
from maskpack.compressor.sweep.plan import Resources
from maskpack.compressor.sweep.run import run_sweep
from maskpack.formats import ConfigError, Interrupted

MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
METHODS = {
    "taught": {"bits": 4, "group": 16, "teacher": "run:dense"},
    "dense": {"method": "full", "keep": True},
    "mask": {"bits": [8, 4], "group": 16, "teacher": "none"},
}


@pytest.fixture
def plan(work, tiny_model, sentiment):
    """A function: a plan of four short runs a seed, some keys changed; its path."""

    def make(**changes) -> Path:
        tree = {
            "models": [str(tiny_model)],
            "tasks": {"sst2": {"data": str(sentiment)}},
            "options": {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"},
            "methods": METHODS,
            "reference": "dense",
            **changes,
        }
        path = work / "plan.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return make


class Told:
    """An executor that does nothing and keeps what it was made from."""

    made: list[ExecutorOptions]

    def __init__(self, options):
        self.made.append(options)

    def execute(self, runs, attempt):
        pass


@pytest.fixture
def told(monkeypatch):
    Told.made = []
    monkeypatch.setitem(EXECUTORS, "ray", Told)
    pytest.importorskip("ray")
    return Told.made


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["FILE", "--ray"], None),
        (["--ray", "FILE"], None),
        (["FILE", "--ray", "-q"], None),
        (["FILE", "--ray", "auto"], "auto"),
        (["--ray", "10.0.0.1:6379", "FILE"], "10.0.0.1:6379"),
        (["FILE", "--ray=head:6379", "-q"], "head:6379"),
    ],
)
def test_the_address_may_be_left_out(main, plan, told, words, address):
    done = main("sweep", *(plan() if word == "FILE" else word for word in words))
    assert done.code == 0, done.err
    assert told == [ExecutorOptions(address)]


def test_resources_come_from_the_file(main, plan, told):
    assert main("sweep", plan(resources={"cpus": 4, "gpus": 0.5}), "--ray").code == 0
    assert told == [ExecutorOptions(None, Resources(4, 0.5))]


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"cores": 1}, "`resources` has the unknown key `cores`"),
        ({"cpus": "two"}, "`resources` of `plan.yaml`: `cpus` is 'two'"),
        ([1], "`resources` does not hold a mapping"),
    ],
)
def test_wrong_resources_are_refused(main, plan, resources, message):
    plan(resources=resources)
    done = main("sweep", "plan.yaml", "--dry-run")
    assert done.code == 1
    assert message in done.err


def test_without_ray_the_extra_is_named(main, plan, monkeypatch, work):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = main("sweep", plan(), "--ray")
    assert done.code == 1
    assert done.err == (
        "error: `--ray` needs the package ray, which is not installed\n"
        'hint: pip install "maskpack[ray]"\n'
    )
    assert [path.name for path in work.iterdir()] == ["plan.yaml"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at `127.0.0.1:1`: Connection refused"),
        ("nowhere.invalid:6379", "no Ray cluster answers at `nowhere.invalid:6379`: "),
        ("ray://head:10001", "`ray://head:10001` is no address of a cluster's head"),
        ("head:99999", "`head:99999` is no address of a cluster"),
        ("auto", "no Ray cluster is running on this machine"),
    ],
)
def test_an_address_where_nobody_answers_is_one_error(
    main, plan, work, monkeypatch, address, message
):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_TMPDIR", str(work))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = main("sweep", plan(), "--ray", address)
    assert done.code == 1
    first, second = done.err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second.startswith("hint: ")
    assert {path.name for path in work.iterdir()} == {"plan.yaml"}


def test_nothing_is_started_where_nothing_is_due(main, plan, monkeypatch):
    path = plan(methods={"mask": METHODS["mask"]}, reference="mask bits=8")
    assert main("sweep", path, "-q").code == 0
    pytest.importorskip("ray")
    with monkeypatch.context() as patch:
        patch.setitem(EXECUTORS, "ray", pytest.fail)
        assert main("sweep", path, "--ray").code == 0


def test_the_template_of_a_cluster_is_one_that_ray_takes():
    util = pytest.importorskip("ray.autoscaler._private.util")
    page = Path(__file__).parents[2] / "examples" / "ray" / "cluster.yaml"
    tree = yaml.safe_load(page.read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(tree))
    with pytest.raises(Exception, match="max_worker"):
        util.validate_config(util.prepare_config({**tree, "max_worker": 2}))


@pytest.fixture(scope="module")
def cluster():
    """Two raylets with a core each."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # with the usual 15 they starve beside other tests
        patch.setenv("OMP_NUM_THREADS", "1")
        from ray.cluster_utils import Cluster

        made = started(lambda: Cluster(initialize_head=True, head_node_args=MACHINE))
        started(lambda: made.add_node(**MACHINE))
        yield made
        made.shutdown()


def started(start):
    """What `start` returns; Ray gives up after 30 seconds, which a busy machine may need several times."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:  # noqa: BLE001 - a bare one
            last = error
    raise last


def lines(path: Path) -> dict[str, dict]:
    """Key of a run -> its line, but for the seconds; each key once."""
    found = [{**line, "seconds": 0} for line in read_log(path).lines]
    assert len(found) == len({line["sweep_key"] for line in found})
    return {line["sweep_key"]: line for line in found}


def table(text: str) -> str:
    """What was printed, but for the seconds."""
    return re.sub(r" +\d+ +(?=\| \d/\d)", " s ", text)


def test_a_sweep_on_a_cluster_is_that_of_one_process(main, plan, work, cluster):
    path = plan()
    here = main("sweep", path, "-o", "here.jsonl", "-q")
    there = main("sweep", path, "--ray", cluster.address, "-o", "there.jsonl")
    assert there.code == 0, there.err
    assert table(there.out) == table(here.out), "and no word of Ray"
    assert lines(work / "there.jsonl") == lines(work / "here.jsonl")
    assert re.search(r"^\[2/4\] bert, sst2, taught, seed 0 3/3 loss", there.err, re.MULTILINE)
    assert not [line for line in there.err.splitlines() if "ray" in line.lower()]
    left = {path.name for path in (work / "there.runs").iterdir()}
    assert left == {path.name for path in (work / "here.runs").iterdir()}
    assert not list(work.glob(".*"))


def test_a_failure_on_a_worker_is_told_as_here(main, plan, cluster):
    bad = plan(methods={**METHODS, "dense": {**METHODS["dense"], "lr": 1e38}})
    found = {}
    for name, words in {"here": [], "there": ["--ray", cluster.address]}.items():
        done = main("sweep", bad, *words, "-o", f"{name}.jsonl", "-q", "--json")
        errors = sorted(line for line in done.err.splitlines() if line.startswith("error: bert"))
        hints = sorted(line for line in done.err.splitlines() if line.startswith("hint: "))
        found[name] = (done.code, errors, hints, len(done.json))
    assert found["there"] == found["here"]
    assert found["there"][0] == 1
    assert "hint: lower `--lr`" in " ".join(found["there"][2])


def kill_one(name: str, end: threading.Event) -> None:
    """`kill -9` the first worker that does a run of this name."""
    while not end.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes().startswith(f"ray::{name}".encode()):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    end.set()
                    return
            except OSError:
                continue
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the worker in /proc")
def test_the_run_of_a_killed_worker_is_repeated(main, plan, work, cluster):
    path = plan(
        options={"steps": 40, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        methods={"mask": {**METHODS["mask"], "bits": [8, 4]}},
        reference=None,
    )
    end = threading.Event()
    thread = threading.Thread(target=kill_one, args=("bert, sst2, mask bits=4", end), daemon=True)
    thread.start()
    done = main("sweep", path, "--ray", cluster.address, "--json")
    killed = end.is_set()
    end.set()
    thread.join()
    assert killed
    assert done.code == 0, done.err
    assert [row["runs"] for row in done.json[0]["rows"]] == [1, 1], "stdout has JSON alone"
    assert "warning: the worker of `bert, sst2, mask bits=4, seed 0` was lost: " in done.err
    assert len(lines(work / "plan.jsonl")) == 2


def test_ctrl_c_stops_the_workers_and_the_same_call_goes_on(plan, cluster):
    path = plan(options={"steps": 4000, "batch_size": 16, "max_length": 16, "precision": "fp32"})
    made = read_plan(path)
    options = {
        "executor": "ray",
        "options": ExecutorOptions(cluster.address),
        "failed": pytest.fail,
    }

    def press(news):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped in `bert, sst2, ") as stop:
        run_sweep(made.runs, made.out, watch=lambda run: nullcontext(press), **options)
    assert stop.value.hint == "repeat the same command to go on"
    assert not read_log(made.out).lines, "no run was waited for"
    assert {each.name for each in path.parent.iterdir()} <= {"plan.yaml", "plan.runs"}
    short = read_plan(plan())
    assert run_sweep(short.runs, short.out, watch=lambda run: nullcontext(print), **options) == ()
    assert len(lines(short.out)) == 4


def test_a_run_that_kills_every_worker_is_a_failure(plan, cluster, monkeypatch, caplog):
    ray_executor = pytest.importorskip("maskpack.compressor.sweep.ray_executor")
    monkeypatch.setattr(ray_executor, "_TRIES", 2)
    usual = ray_executor._entry

    def deadly():
        found, _ = usual()

        def enter(*_):
            import os

            os._exit(7)

        return found, enter

    monkeypatch.setattr(ray_executor, "_entry", deadly)
    made = read_plan(plan(methods={"mask": {**METHODS["mask"], "bits": 4}}, reference=None))
    told = []
    options = {"executor": "ray", "options": ExecutorOptions(cluster.address)}
    with caplog.at_level(logging.WARNING):
        failures = run_sweep(
            made.runs, made.out, watch=lambda run: nullcontext(print), failed=told.append, **options
        )
    assert failures == tuple(told)
    assert failures[0].reason.startswith("2 workers were lost in it; the last one: ")
    assert caplog.text.count("was lost: ") == 2
    assert not read_log(made.out).lines


def test_a_worker_with_other_versions_ends_the_sweep_with_one_error(
    main, plan, cluster, work, monkeypatch
):
    """Another machine joins, whose torch says that it is another one."""
    other = work / "other" / "torch-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    path = os.pathsep.join([str(other.parent), os.environ.get("PYTHONPATH", "")])
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        node = started(lambda: cluster.add_node(**{**MACHINE, "num_cpus": 3}))
    try:
        done = main("sweep", plan(resources={"cpus": 3}), "--ray", cluster.address)
    finally:
        cluster.remove_node(node)
    assert done.code == 1
    first, second = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert re.match(r"error: the worker on `.+` has torch 0.1, this process has torch 2\.", first)
    assert second == "hint: install the same versions on all machines of the cluster"
    assert not (work / "plan.jsonl").exists()
    assert {each.name for each in work.iterdir()} == {"plan.yaml", "other"}


def test_more_than_the_cluster_has_is_said(plan, cluster, monkeypatch):
    ray_cluster = pytest.importorskip("maskpack.compressor.sweep.ray_cluster")
    monkeypatch.setattr(
        ray_cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}]
    )
    ray_cluster.check_fits(Resources(2), own=True)
    with pytest.raises(
        ConfigError, match="asks for 1 CPUs and 1 GPUs, no machine has them: 2 and 0"
    ):
        ray_cluster.check_fits(Resources(1, 1), own=True)
    ray_cluster.check_fits(Resources(1, 1), own=False)


def test_without_an_address_a_cluster_of_this_machine_does_it(main, plan, work):
    pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    path = plan(methods={"mask": {**METHODS["mask"], "bits": 4}}, reference=None)
    done = main("sweep", path, "--ray", "--json")
    assert done.code == 0, done.err
    assert done.json[0]["rows"][0]["runs"] == 1
    assert not [line for line in done.err.splitlines() if line[:1] not in "[n"]
    assert len(lines(work / "plan.jsonl")) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads((work / "plan.jsonl").read_text())["label"] == "mask"
