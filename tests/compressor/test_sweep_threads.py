"""Several attempts of a sweep at once: order, claims, failures and a halt, with threads alone. No cluster is needed."""

from __future__ import annotations

import pickle
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from maskpack.compressor.sweep import log
from maskpack.compressor.sweep.executors import EXECUTORS, ExecutorOptions
from maskpack.compressor.sweep.log import claim, read_log
from maskpack.compressor.sweep.parallel import attempt_all
from maskpack.compressor.sweep.plan import Arm, Resources, SweepModel, SweepPlan, SweepTask
from maskpack.compressor.sweep.ray_worker import Order, UnfitError, check_visible, do_order
from maskpack.compressor.sweep.run import run_sweep
from maskpack.compressor.types import RunResult
from maskpack.formats import ConfigError, DataError, Interrupted, MaskpackError
from maskpack.formats.errors import Hint
from maskpack.tasks import find_task

RESULT = RunResult(
    "mask", "m", "sst2", 4, 0, 9, 9, 3, 1.0, "accuracy", {"accuracy": 1.0}, {"accuracy": 0.5}
)  # fmt: skip


def plan_of(folder: Path, masks: int = 6, seeds: int = 3) -> SweepPlan:
    """Seeds with some masks, a student, and its teacher, which the file names last."""
    arms = [Arm(f"mask lr={n}", "mask", {"lr": n / 100}) for n in range(1, masks + 1)]
    arms.append(Arm("taught", "taught", {}, teacher="dense"))
    arms.append(Arm("dense", "dense", {"method": "full"}, keep=True))
    return SweepPlan(
        out=folder / "out.jsonl",
        models=(SweepModel("m", "m", "m"),),
        tasks=(SweepTask("sst2", find_task("sst2"), "d"),),
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
    )


class Threads:
    """An executor whose workers are functions of this process."""

    def __init__(self, do, most):
        self.do, self.most, self.halted = do, most, threading.Event()

    def execute(self, runs, attempt):
        attempt_all(runs, attempt, self.do, most=self.most, halt=self.halted.set)


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """`sweep(do, most=8)`: run the plan's runs with that worker; the plan, the failures."""

    def go(do, *, most=8, plan=None):
        plan = plan or plan_of(tmp_path)
        executor = Threads(do, most)
        monkeypatch.setitem(EXECUTORS, "threads", lambda options: executor)
        told = []
        options = {"watch": lambda run: nullcontext(print), "failed": told.append}
        failures = run_sweep(plan.runs, plan.out, executor="threads", **options)
        assert sorted(map(id, told)) == sorted(map(id, failures))
        return plan, failures

    return go


def test_teachers_run_first_and_students_after_them(sweep):
    begun, ended, lock = [], [], threading.Lock()

    def do(run, *, on_progress):
        with lock:
            begun.append(run)
            if run.teacher is not None:
                assert run.teacher in ended
        time.sleep(0.02)
        with lock:
            ended.append(run)
        return RESULT

    plan, failures = sweep(do, most=3)
    assert failures == ()
    assert {run.arm.label for run in begun[:3]} == {"dense"}
    keys = [line["sweep_key"] for line in read_log(plan.out).lines]
    assert sorted(keys) == sorted(run.key for run in plan.runs), "each line once"
    assert not list(plan.out.parent.glob(".*")), "no claim is left"


def test_as_many_run_at_once_as_were_asked_for_and_no_more(sweep):
    now, most, lock, full = [0], [0], threading.Lock(), threading.Event()

    def do(run, *, on_progress):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 4:
                full.set()
        full.wait(300)
        time.sleep(0.05)  # time for a fifth
        with lock:
            now[0] -= 1
        return RESULT

    sweep(do, most=4)
    assert most == [4]


def test_failures_come_in_the_order_of_the_runs_and_fail_the_students(sweep):
    def do(run, *, on_progress):
        if run.seed == 1 or run.arm.label == "mask lr=1":
            time.sleep(0.05 * (3 - run.seed))
            raise DataError(f"no rows in {run.seed}", Hint("give {n}", n=2))
        return RESULT

    plan, failures = sweep(do)
    wrong = [run for run in plan.runs if run.seed == 1 or run.arm.label == "mask lr=1"]
    assert [each.run for each in failures] == wrong
    told = {each.run.arm.label: (each.reason, str(each.hint)) for each in failures[1:-1]}
    assert told["dense"] == ("no rows in 1", "give 2")
    assert told["taught"] == ("its teacher `dense` failed", "None")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("a worker's")])
def test_a_stop_names_what_was_under_way_and_leaves_no_claim(sweep, tmp_path, error):
    stop = threading.Event()

    def do(run, *, on_progress):
        if run.seed == 0 and run.arm.label == "mask lr=2":
            raise error
        assert stop.wait(300)
        raise Interrupted("halted")

    plan = plan_of(tmp_path, masks=3, seeds=1)
    thread = threading.Timer(0.5, stop.set)
    thread.start()
    with pytest.raises(Interrupted, match=r"stopped in `m, sst2, .*` and 3 other runs; finished"):
        sweep(do, plan=plan)
    assert stop.is_set(), "the others have ended"
    assert not list(tmp_path.glob(".*"))


def test_a_bug_of_a_worker_ends_the_sweep(sweep):
    with pytest.raises(ZeroDivisionError):
        sweep(lambda run, on_progress: 1 / 0)


def test_a_run_that_another_process_has_claimed_is_tried_again(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("maskpack.compressor.sweep.parallel._AGAIN", 0.05)
    plan = plan_of(tmp_path, masks=1, seeds=1)
    held = plan.runs[0]
    with claim(tmp_path / ".out.jsonl.running" / held.key, wait=False) as free:
        assert free
        timer = threading.Timer(1.0, lambda: log.append(plan.out, {"sweep_key": held.key}))
        done = []

        def do(run, *, on_progress):
            done.append(run)
            return RESULT

        thread = threading.Thread(target=sweep, args=(do,), kwargs={"plan": plan})
        thread.start()
        timer.start()
        timer.join()
    thread.join(30)
    assert not thread.is_alive()
    assert held not in done
    assert read_log(plan.out).keys == {run.key for run in plan.runs}


def test_a_claim_holds_when_its_file_was_removed_meanwhile(tmp_path, monkeypatch):
    """One that waits gets the lock of a file that is gone; a third makes the file anew and has the claim."""
    path, opened, at_once = tmp_path / "claims" / "key", threading.Event(), []
    usual = log.open_anew

    def open_slowly(path):
        file = usual(path)
        if threading.current_thread() is not threading.main_thread():
            opened.set()
        return file

    monkeypatch.setattr(log, "open_anew", open_slowly)
    inside, leave = threading.Event(), threading.Event()

    def wait_for_it():
        with claim(path, wait=True) as free:
            at_once.append(free)
            inside.set()
            leave.wait(300)

    with claim(path, wait=False) as first:
        assert first
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert opened.wait(300)
        time.sleep(0.1)
    assert inside.wait(300)
    with claim(path, wait=False) as third:
        assert not third, "the thread has it, on a file of that name"
    leave.set()
    thread.join()
    assert at_once == [True]


def all_errors(kind=MaskpackError):
    return [kind, *(found for child in kind.__subclasses__() for found in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_an_error_crosses_processes_with_class_message_and_hint(kind):
    error = kind("no such `thing`", Hint("give a `max_length` of {longest}", longest=512))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.hint) == ("no such `thing`", "give a `max_length` of 512")
    assert again.advice.text == error.advice.text, "so that the command line finds its words"


@pytest.fixture
def order(tmp_path, tiny_model, sentiment):
    """An order for a run that this process can do, seen as a worker would."""
    plan = plan_of(tmp_path, masks=1, seeds=1)
    run = replace(
        next(run for run in plan.runs if run.arm.label == "dense"),
        model=SweepModel("bert", str(tiny_model), "digest"),
        task=SweepTask("sst2", find_task("sst2"), "d", sentiment),
        common={"steps": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"},
    )
    run.home.mkdir(parents=True)
    (run.home / ".mark").write_text("here")
    return Order(run, Path.cwd(), run.home / ".mark", "here", threads=1, patience=0)


def test_a_worker_does_the_run_and_reports_its_end(order):
    told = []
    result = do_order(pickle.dumps(order), lambda *news: told.append(news))
    assert result.method == "full"
    assert (order.run.folder / "model.safetensors").is_file()
    key, news, ends = told[-1]
    assert (key, pickle.loads(news).step, ends) == (order.run.key, 2, True)


def test_an_error_of_a_run_is_its_answer(order):
    bad = replace(order, run=replace(order.run, common={**order.run.common, "lr": 1e38}))
    answer = do_order(pickle.dumps(bad), lambda *_: None)
    assert isinstance(answer, MaskpackError)
    assert not isinstance(answer, UnfitError)
    assert str(answer).startswith("training diverged: ")


def test_a_worker_that_does_not_share_the_disk_says_which_folder(order, tmp_path):
    check_visible(order)
    with pytest.raises(UnfitError, match=r"does not see `.*out.runs`, the folder of the sweep"):
        check_visible(replace(order, content="of another disk"))
    for what, change in {
        "the data": {"task": replace(order.run.task, data=tmp_path / "data")},
        "the model": {"model": SweepModel("m", str(tmp_path / "model"), "digest")},
    }.items():
        with pytest.raises(UnfitError, match=f"does not see `{tmp_path}/.*`, {what}") as caught:
            check_visible(replace(order, run=replace(order.run, **change)))
        assert "under the same path" in caught.value.hint


def test_a_student_needs_its_teachers_folder(order):
    taught = next(run for run in plan_of(order.run.home.parent).runs if run.teacher is not None)
    taught = replace(taught, model=order.run.model, task=order.run.task)
    with pytest.raises(UnfitError, match="m-sst2-dense-0`, the teacher `dense`"):
        check_visible(replace(order, run=taught))
    taught.teacher.folder.mkdir()
    check_visible(replace(order, run=taught))


def test_a_file_that_a_shared_disk_shows_late_is_waited_for(order, tmp_path, monkeypatch):
    monkeypatch.setattr("maskpack.compressor.sweep.ray_worker._LOOK_EVERY", 0.02)
    late = replace(order.run.task, data=tmp_path / "late")
    thread = threading.Timer(0.2, (tmp_path / "late").mkdir)
    thread.start()
    check_visible(replace(order, run=replace(order.run, task=late), patience=20))
    thread.join()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpus": 0}, "`cpus` is 0, expected a whole number of at least 1"),
        ({"cpus": 1.5}, "`cpus` is 1.5"),
        ({"cpus": True}, "`cpus` is True"),
        ({"gpus": -1}, "`gpus` is -1, expected 0, a share of one"),
        ({"gpus": 1.5}, "`gpus` is 1.5"),
        ({"gpus": "1"}, "`gpus` is '1'"),
        ({"gpus": float("nan")}, "`gpus` is nan"),
    ],
)
def test_resources_are_checked(given, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        Resources(**given)
    assert Resources(cpus=4, gpus=0.5).gpus == 0.5
    assert Resources(gpus=2).gpus == 2


def test_the_usual_options_are_a_core_on_this_machine():
    assert ExecutorOptions() == ExecutorOptions(None, Resources(cpus=1, gpus=0))


@pytest.mark.parametrize("gone", [FileNotFoundError, FileExistsError])
def test_a_claim_is_made_in_a_folder_that_another_removes_just_now(tmp_path, monkeypatch, gone):
    """`Path.mkdir` raises FileExistsError where the folder was there and is gone when it looks again."""
    usual, errors = Path.mkdir, [gone, gone]

    def made(self, *args, **options):
        if errors:
            raise errors.pop()("now and then")
        usual(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", made)
    with claim(tmp_path / "claims" / "key", wait=False) as free:
        assert free
    assert not errors


def test_a_file_in_the_place_of_the_claims_is_named(tmp_path):
    (tmp_path / "claims").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot write `.*key`: File exists"),
        claim(tmp_path / "claims" / "key", wait=False),
    ):
        pass
