"""Plans: what is multiplied, in which order, under which key, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maskpack.compressor.options import load_options
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.plan import choose, slug
from maskpack.formats import ConfigError, DataError
from maskpack.tasks.task import Kind

PLAN = {
    "models": ["some/encoder"],
    "tasks": ["reviews", "tickets"],
    "seeds": [0, 1],
    "options": {"max_length": 16},
    "methods": {
        "taught": {"bits": 4, "teacher": "run:dense"},
        "dense": {"method": "full", "keep": True},
        "mask": {"bits": [8, 4]},
        "lora": {"method": "lora", "rank": [1, 8], "bits": [4, 2]},
    },
    "reference": "dense",
}


@pytest.fixture
def plan(tmp_path):
    """A function: the plan above with some keys changed; None removes a key."""

    def make(**changes):
        tree = {key: value for key, value in {**PLAN, **changes}.items() if value is not None}
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return read_plan(path)

    return make


def test_lists_multiply_and_name_the_arms(plan):
    assert plan().labels == (
        "taught",
        "dense",
        "mask bits=8",
        "mask bits=4",
        "lora rank=1 bits=4",
        "lora rank=1 bits=2",
        "lora rank=8 bits=4",
        "lora rank=8 bits=2",
    )


def test_runs_go_by_seed_then_task_and_teachers_come_first(plan):
    runs = plan().runs
    assert len(runs) == 2 * 2 * 8
    assert [run.seed for run in runs] == [0] * 16 + [1] * 16
    assert [run.task.name for run in runs[:16]] == ["reviews"] * 8 + ["tickets"] * 8
    assert [run.arm.label for run in runs[:3]] == ["dense", "taught", "mask bits=8"]
    assert runs[1].teacher is runs[0]
    assert runs[1].config().teacher == str(runs[0].folder)


def test_options_come_from_the_plan_then_the_task_then_the_method(plan):
    made = plan(
        options={"max_length": 16, "epochs": 1, "head_lr": "1e-2"},
        tasks={"reviews": {"epochs": 2}, "tickets": {"epochs": 2}},
        methods={"mask": {"epochs": 3}, "other": {"margin": 2}},
        reference=None,
    )
    mask, other = (run.config() for run in made.runs[:2])
    assert (mask.max_length, mask.epochs, other.epochs) == (16, 3, 2)
    assert mask.head_lr == 0.01  # what YAML calls text


def test_folders_that_differ_in_case_alone_are_one_on_some_systems(plan):
    methods = {"Mask": {"bits": 8}, "mask": {"bits": 4}}
    with pytest.raises(ConfigError, match="have the same folder name"):
        plan(methods=methods, reference=None)


def test_one_task_may_stand_twice_with_other_options(plan):
    made = plan(tasks={"few": {"task": "reviews", "train_rows": 20}, "reviews": None})
    assert [task.task.name for task in made.tasks] == ["reviews", "reviews"]
    assert len({run.key for run in made.runs}) == len(made.runs)


def test_paths_are_relative_to_the_file(plan, tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\n" + "a,x\nb,y\n" * 20)
    own = {"mine": {"data": "mine.csv", "text_field": "text", "label_field": "label"}}
    made = plan(tasks=own, out="sub/here.jsonl")
    assert made.tasks[0].data == tmp_path / "mine.csv"
    assert made.out == tmp_path / "sub/here.jsonl"
    assert made.home == tmp_path / "sub/here.runs"
    assert plan().out == tmp_path / "plan.jsonl"
    assert made.runs[0].folder.name == "some_encoder-mine-dense-0"


def test_a_task_of_several_labels_and_one_of_the_hub_stand_in_a_plan(plan, tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\n" + "a,x|y\nb,y\n" * 20)
    own = {"data": "mine.csv", "text_field": "text", "label_field": "label"}
    made = plan(
        tasks={"bars": {**own, "label_separator": "|"}, "lists": {**own, "multi_label": True}}
    )
    bars, lists = (task.task for task in made.tasks)
    assert (bars.kind, bars.separator, lists.separator) == (Kind.MULTI_LABEL, "|", None)
    assert lists.kind == Kind.MULTI_LABEL
    hub = plan(tasks={"far": {**own, "data": "hub:some/rows:small"}}).tasks[0]
    assert hub.data.as_posix() == "hub:some/rows:small"
    for wrong in ({"multi_label": 1}, {"multi_label": True, "regression": True}):
        with pytest.raises(ConfigError, match="`regression`|`multi_label`"):
            plan(tasks={"odd": {**own, **wrong}})


def test_rows_of_the_hub_count_beside_a_file_to_evaluate_on(plan, tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\n" + "a,x\nb,y\n" * 20)
    own = {"eval_data": "mine.csv", "text_field": "text", "label_field": "label"}

    def digest(**changes):
        return plan(tasks={"far": {**own, **changes}}).tasks[0].digest

    assert digest(data="hub:some/rows") != digest(data="hub:other/rows")
    assert digest(data="hub:some/rows") == digest(data="hub:some/rows")
    with pytest.raises(DataError, match="task `far` has no data of its own"):
        digest()


def keys(plan):
    return [run.key for run in plan.runs]


def test_a_key_is_the_same_for_a_default_written_out(plan):
    mask = plan(methods={"mask": {"bits": 4}}, reference=None)
    longer = plan(methods={"mask": {"bits": 4, "floor": 1.0, "ema": 0}}, reference=None)
    assert keys(mask) == keys(longer)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["another"]},
        {"options": {"max_length": 17}},
        {"methods": {"mask": {"bits": 4, "margin": 2}}},
        {"methods": {"mask": {"method": "full", "bits": 4}}},
        {"seeds": [2, 3]},
    ],
)
def test_a_key_changes_with_everything_that_determines_the_run(plan, changes):
    base = {"methods": {"mask": {"bits": 4}}, "reference": None}
    assert not set(keys(plan(**base))) & set(keys(plan(**{**base, **changes})))


def test_a_key_follows_the_content_of_the_data_not_its_place(plan, tmp_path):
    made = []
    for folder, word in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.tsv").write_text(f"sentence\tlabel\n{word}\t0\n")
        made.append(plan(tasks={"sst2": {"data": folder}}))
    assert keys(made[0]) == keys(made[1])
    assert not set(keys(made[0])) & set(keys(made[2]))


def test_a_student_s_key_changes_with_its_teacher(plan):
    other = {**PLAN["methods"], "dense": {"method": "full", "keep": True, "lr": 1e-5}}
    one, two = plan(), plan(methods=other)
    assert one.runs[1].arm.label == two.runs[1].arm.label == "taught"
    assert one.runs[1].key != two.runs[1].key
    assert one.runs[2].key == two.runs[2].key


def test_masks_teach_masks_one_generation_after_the_other(plan):
    """Born again: each learns from the task in the artifact of the one before, whatever the order of the file."""
    third = {"bits": 4, "teacher": "run:second"}
    second = {"bits": 4, "teacher": "run:first", "keep": True}
    first = {"bits": 4, "teacher": "run:dense", "keep": True}
    methods = {"third": third, "second": second, "first": first, "dense": PLAN["methods"]["dense"]}
    made = plan(methods=methods, tasks=["reviews"], seeds=[0], reference=None)
    assert [run.arm.label for run in made.runs] == ["dense", "first", "second", "third"]
    dense, one, two, last = made.runs
    assert last.teachers == (two, one, dense)
    assert two.config().teacher == f"{one.folder}#reviews"
    assert len({run.key for run in made.runs}) == 4
    assert choose(made, ["third"], []) == made.runs
    assert choose(made, ["first"], []) == (dense, one)


def test_a_task_of_an_artifact_teaches(plan, tmp_path):
    """Its folder is found from the plan's, and digested; the name of the task counts beside it."""
    (tmp_path / "old").mkdir()
    taught = {"taught": {"bits": 4, "teacher": "old#reviews"}}
    first = plan(methods=taught, reference=None).runs[0]
    assert first.config().teacher == f"{tmp_path / 'old'}#reviews"
    both = {"taught": {"bits": 4, "teacher": ["old#reviews", "old#tickets"]}}
    assert len({run.key for run in plan(methods=both, reference=None).runs}) == len(
        plan(methods=both, reference=None).runs
    )
    (tmp_path / "old" / "maskpack.json").write_text("{}")
    assert plan(methods=taught, reference=None).runs[0].key != first.key
    with pytest.raises(
        ConfigError, match="no such file or folder: `.*gone`, `teacher` of `taught`"
    ):
        plan(methods={"taught": {"bits": 4, "teacher": "gone#reviews"}}, reference=None)


def test_a_mask_of_the_run_itself_is_a_teacher_too(plan):
    peers = {"peers": {"bits": 4, "teacher": "peer"}, "alone": {"bits": 4, "teacher": "none"}}
    made = plan(methods=peers, reference=None)
    assert made.runs[0].teacher is None
    assert made.runs[0].config().teacher == "peer"
    assert made.runs[0].key != made.runs[1].key


REFUSED = {
    "an unknown key": ({"task": ["x"]}, "unknown key `task`"),
    "no model": ({"models": []}, "`models` of"),
    "no task": ({"tasks": None}, "`tasks` of"),
    "no method": ({"methods": {}}, "`methods` of"),
    "no seed": ({"seeds": []}, "`seeds` is empty"),
    "a seed that is no number": ({"seeds": ["a"]}, "expected a list of whole numbers"),
    "a seed twice": ({"seeds": [1, 1]}, "`seeds` has `1` twice"),
    "a task twice": ({"tasks": ["reviews", "reviews"]}, "`tasks` has `reviews` twice"),
    "an unknown task": ({"tasks": ["nope"]}, "no task `nope`"),
    "an option of nobody": ({"options": {"nope": 1}}, "no option `nope`"),
    "an option of masks alone": ({"options": {"margin": 2}}, "method `dense` on task `reviews`"),
    "an unknown method": ({"methods": {"dense": {"method": "nope"}}}, "no method `nope`"),
    "an empty list": ({"methods": {"dense": {"bits": []}}}, "`bits` of `dense` is an empty list"),
    "a list of lists": ({"methods": {"dense": {"bits": [[8]]}}}, "expected a list of scalars"),
    "a wrong value": ({"methods": {"dense": {"layers": 3}}}, "`layers` is 3, expected a text"),
    "a file for all methods": ({"options": {"calibration": "x.txt"}}, "`calibration` cannot stand"),
    "a file for a task": (
        {"tasks": {"reviews": {"calibration": "x.txt"}}},
        "`calibration` cannot stand",
    ),
    "a seed in a method": ({"methods": {"dense": {"seed": 3}}}, "`seed` cannot stand"),
    "an unknown reference": ({"reference": "nope"}, "reference: no method `nope`"),
    "a model folder that is not there": ({"models": ["./nope"]}, "no model folder"),
    "a teacher folder that is not there": (
        {"methods": {"dense": {"teacher": "nope"}}},
        "`teacher` of `dense`",
    ),
    "an unknown teacher": (
        {"methods": {"dense": {"teacher": "run:nope"}}},
        "teacher of `dense`: no method `nope`",
    ),
    "a teacher that is not kept": (
        {"methods": {"dense": {"teacher": "run:full"}, "full": {"method": "full"}}},
        "which is not kept",
    ),
    "a teacher that teaches itself": (
        {"methods": {"dense": {"method": "full", "keep": True, "teacher": "run:dense"}}},
        "`dense` is a teacher of its own teachers",
    ),
    "teachers in a circle": (
        {
            "methods": {
                "dense": {"keep": True, "teacher": "run:third"},
                "second": {"keep": True, "teacher": "run:dense"},
                "third": {"keep": True, "teacher": "run:second"},
            }
        },
        "is a teacher of its own teachers: dense, third, second, dense",
    ),
    "a teacher that is an adapter": (
        {"methods": {"dense": {"teacher": "run:lora"}, "lora": {"method": "lora", "keep": True}}},
        "leaves no plain classifier",
    ),
    "the same run twice": (
        {"methods": {"dense": {"bits": 8}, "again": {}}},
        "are the same run",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_is_refused_before_its_first_run(plan, case):
    changes, message = REFUSED[case]
    with pytest.raises(ConfigError) as problem:
        plan(**changes)
    assert message in str(problem.value)


@pytest.mark.parametrize(
    "content", ["out: 2001-99-99", "[" * 3000, "seeds: [" + "9" * 5000 + "]", b"out: \xff", "a: \0"]
)
def test_what_yaml_cannot_read_is_refused_by_the_files_name(write, content):
    with pytest.raises(ConfigError, match=r"cannot read the sweep in `.*plan\.yaml`"):
        read_plan(write("plan.yaml", content))
    with pytest.raises(ConfigError, match=r"cannot read the options in `.*plan\.yaml`"):
        load_options(write("plan.yaml", content))


def test_half_a_letter_in_a_plan_is_refused(plan):
    said = {"data": "nope", "text_field": "text\ud83d", "label_field": "label"}
    with pytest.raises(ConfigError, match=r"'text\\ud83d' holds half of a surrogate pair"):
        plan(tasks={"mine": said})


def test_missing_data_is_refused(plan):
    with pytest.raises(DataError, match="no such file or folder"):
        plan(tasks={"sst2": {"data": "nope"}})


def test_filters_choose_runs_and_what_they_need(plan):
    made = plan()
    chosen = choose(made, ["taught"], [1])
    assert [run.names[1:] for run in chosen] == [
        (task, label, 1) for task in ("reviews", "tickets") for label in ("dense", "taught")
    ]
    assert {run.arm.label for run in choose(made, ["mask"], [])} == {"mask bits=8", "mask bits=4"}
    assert {run.arm.label for run in choose(made, ["mask bits=4"], [])} == {"mask bits=4"}
    assert choose(made, [], []) == made.runs
    with pytest.raises(ConfigError, match="no method `nope`"):
        choose(made, ["nope"], [])
    with pytest.raises(ConfigError, match="seed 7 is not in the plan"):
        choose(made, [], [7])


def test_a_slug_is_a_file_name():
    assert slug("mask bits=4") == "mask_bits=4"
    assert slug("../../etc") == "etc"
    assert slug("//") == "_"


def test_planning_imports_no_torch():
    code = (
        "import sys, maskpack.compressor.sweep.file, maskpack.compressor.sweep.table;"
        "import json; print(json.dumps([m for m in ('torch', 'resvg_py') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", ["table1", "sparsity"])
def test_the_examples_are_plans(name):
    made = read_plan(Path(__file__).parents[2] / "examples" / f"{name}.yaml")
    assert made.reference == "dense"
    assert len(made.seeds) == 3


def test_speeds_multiply_and_a_cost_model_counts_by_its_content(plan, tmp_path):
    costs = tmp_path / "costs.json"
    costs.write_text("{}")
    fast = {"units": "heads,neurons", "speedup": [2, 3], "unit_costs": "costs.json"}

    def made():
        return plan(methods={"fast": fast}, reference=None)

    first = made()
    assert first.labels == ("fast speedup=2", "fast speedup=3")
    assert [run.config().speedup for run in first.runs[:2]] == [2.0, 3.0]
    assert first.runs[0].config().unit_costs == str(costs)
    assert made().runs[0].key == first.runs[0].key
    costs.write_text("{ }")
    assert made().runs[0].key != first.runs[0].key


def test_texts_in_windows_are_another_run(plan):
    """And one whose texts are cut off keeps the key that it had."""
    keys = {
        cut: {run.key for run in choose(plan(tasks={"reviews": {"windows": cut}}), ["dense"], [0])}
        for cut in (True, False)
    }
    usual = {run.key for run in choose(plan(tasks={"reviews": {}}), ["dense"], [0])}
    assert keys[False] == usual
    assert not keys[True] & usual
