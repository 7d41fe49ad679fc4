from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.compressor.config import BaselineConfig, FitConfig, Method, Precision
from maskpack.compressor.masking.sparsity import target_sparsity
from maskpack.compressor.options import load_options, save_options
from maskpack.formats import ConfigError
from maskpack.formats.bits import binary_entropy

NOT_POSITIVE = ("epochs", "batch_size", "head_lr", "steps", "train_rows", "lr", "margin")


@pytest.mark.parametrize("name", NOT_POSITIVE)
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "3"])
def test_an_option_that_must_be_above_zero_refuses_everything_else(name, value):
    with pytest.raises(
        ConfigError, match=rf"`{name}` is .*expected a (number above 0|whole number)"
    ):
        FitConfig(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 3}, "`max_length` is 3, expected 4 or more"),
        ({"warmup": 1.0}, "`warmup` is 1.0"),
        ({"warmup": -0.1}, "`warmup` is -0.1"),
        ({"seed": -1}, "`seed` is -1"),
        ({"seed": 2**31}, "`seed` is 2147483648"),
        ({"bits": 3}, "`bits` is 3, expected 8, 4, 2 or 1"),
        ({"embedding_bits": 5}, "`embedding_bits` is 5, expected 8, 4, 3, 2 or auto"),
        (
            {"bits_override": {"*": 3}},
            "`bits_override` is .*, expected a mapping of patterns to 8, 4, 2 or 1 bits",
        ),
        ({"bits": 16}, "`bits` is 16"),
        ({"group": -1}, "`group` is -1, expected 0 or more"),
        ({"checkpoint_every": -1}, "`checkpoint_every` is -1, expected 0 or more"),
        ({"floor": -0.5}, "`floor` is -0.5, expected 0 or more"),
        ({"quantizer": "kmeans"}, "no quantizer `kmeans`"),
        ({"sparsity": 0.1, "target_bpp": 0.1}, "set the same thing"),
        ({"sparsity": 0.0}, "`sparsity` is 0.0"),
        ({"sparsity": 1.0}, "`sparsity` is 1.0"),
        ({"target_bpp": 0.0}, "`target_bpp` is 0.0"),
        ({"target_bpp": 1.1}, "`target_bpp` is 1.1"),
        ({"sparsity": 0.1, "target_bytes": 9}, "set the same thing"),
        ({"target_bytes": 0}, "`target_bytes` is 0"),
        ({"init": "kaiming"}, "no init `kaiming`"),
        ({"init": "snip"}, "init snip needs a share of zeros"),
        ({"estimator": "topk"}, "estimator topk needs a share of zeros"),
        ({"estimator": "bernoulli", "target_bpp": 0.1}, "needs a share of zeros"),
        ({"ema": 1.0}, r"`ema` is 1.0, expected a number in \[0, 1\)"),
        ({"dropout": 1.0}, r"`dropout` is 1.0, expected a number in \[0, 1\)"),
        ({"teacher_share": 0.0}, "`teacher_share` is 0.0"),
        ({"temperature": 0.0}, "`temperature` is 0.0"),
        ({"patience": 2, "sparsity": 0.1}, "`patience` ends a run early"),
        ({"patience": 2, "ema": 0.9}, "`patience` ends a run early"),
        ({"layers": "1-"}, "`layers` is `1-`"),
        ({"layers": "a"}, "`layers` is `a`"),
        ({"layers": "3-2"}, "names no layer"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        FitConfig(**options)


WHOLE = ("batch_size", "max_length", "seed", "steps", "train_rows", "bits", "group")


@pytest.mark.parametrize("name", [*WHOLE, "checkpoint_every"])
@pytest.mark.parametrize("value", [8.0, 8.5, True, "8", float("nan")])
def test_an_option_that_counts_takes_whole_numbers_only(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` is .*expected a whole number"):
        FitConfig(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 4},
        {"warmup": 0.0},
        {"seed": 2**31 - 1},
        {"group": 0, "checkpoint_every": 0, "floor": 0.0},
        {"target_bpp": 1.0},
        {"epochs": 0.25},
        {"bits": 4},
        {"bits": 1, "embedding_bits": 4},
        {"ema": 0.0, "dropout": 0.0, "teacher_share": 1.0, "patience": 1},
    ],
)
def test_the_edges_of_every_range_are_accepted(options):
    config = FitConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_baseline_checks_its_learning_rate_too():
    with pytest.raises(ConfigError, match="`lr` is 0"):
        BaselineConfig(lr=0)


def test_an_unknown_option_is_named_and_the_known_ones_are_listed():
    with pytest.raises(ConfigError, match="no option `learning_rate`") as caught:
        FitConfig.from_dict({"lr": 0.1, "learning_rate": 0.1})
    assert "margin" in caught.value.hint
    assert "head_lr" in caught.value.hint


def test_an_option_of_the_other_kind_of_run_is_unknown():
    with pytest.raises(ConfigError, match="no option `margin`"):
        BaselineConfig.from_dict({"margin": 1.0})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FitConfig, {"precision": "fp64"}),
        (FitConfig, {"sparsity": "half"}),
        (FitConfig, {"seed": "one"}),
        (FitConfig, {"max_length": None}),
        (BaselineConfig, {"method": "dora"}),
        (FitConfig, {"estimator": "best"}),
        (FitConfig, {"bits_override": 4}),
    ],
)
def test_a_value_of_the_wrong_type_in_a_mapping_is_our_error(kind, options):
    with pytest.raises(
        ConfigError,
        match=r"no (precision|method|estimator) `|expected a (whole number|mapping|number)",
    ):
        kind.from_dict(options)


def test_words_for_precision_and_method_become_their_enums():
    assert FitConfig.from_dict({"precision": "bf16"}).precision is Precision.BF16
    assert BaselineConfig.from_dict({"method": "head-pooler"}).method is Method.HEAD_POOLER


@pytest.mark.parametrize(
    "config",
    [
        FitConfig(),
        FitConfig(bits=4, group=32, steps=7, sparsity=0.25, precision=Precision.FP32, seed=9),
        FitConfig(target_bpp=0.05, train_rows=100, epochs=0.5, quantizer="mse"),
        BaselineConfig(),
        BaselineConfig(method=Method.HEAD, lr=3e-5, warmup=0.0),
    ],
)
def test_options_survive_the_way_through_yaml(config, tmp_path):
    path = tmp_path / "options.yaml"
    save_options(path, config)
    assert type(config).from_dict(load_options(path)) == config


def test_a_saved_file_states_every_option_with_its_value(tmp_path):
    path = tmp_path / "options.yaml"
    save_options(path, FitConfig(lr=0.125))
    assert load_options(path) == {**asdict(FitConfig(lr=0.125)), "precision": "auto"}


def test_a_file_may_write_options_as_the_command_line_does(write):
    path = write("options.yaml", "head-lr: 0.5\nbatch_size: 8\n")
    assert load_options(path) == {"head_lr": 0.5, "batch_size": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- lr\n- bits\n", "does not hold a mapping"),
        ("", "does not hold a mapping"),
        ("lr: [1, 2\n", "cannot read the options"),
        (b"lr: \xff\xfe\n", "cannot read the options"),
        ("!!python/object/apply:os.getcwd []\n", "cannot read the options"),
    ],
)
def test_a_file_that_is_no_mapping_of_options_is_refused(write, content, message):
    with pytest.raises(ConfigError, match=message):
        load_options(write("options.yaml", content))


def test_a_missing_file_of_options_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_options(tmp_path / "nowhere.yaml")


def test_options_that_cannot_be_written_are_our_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        save_options(tmp_path / "missing" / "options.yaml", FitConfig())


def share_for(**options):
    return target_sparsity(FitConfig(**options), weights=1000, other_bytes=0)


@settings(deadline=None)
@given(st.floats(1e-4, 0.5))
def test_a_target_in_bits_is_the_inverse_of_the_entropy(share):
    assert share_for(target_bpp=binary_entropy(share)) == pytest.approx(share, abs=1e-6)


def test_a_target_in_bits_never_asks_for_more_than_half():
    assert share_for(target_bpp=1.0) == pytest.approx(0.5, abs=1e-6)


def test_a_target_as_a_share_is_taken_as_it_is():
    assert share_for(sparsity=0.75) == 0.75
    assert share_for() is None


@pytest.mark.parametrize(
    ("options", "rows", "steps"),
    [
        ({"batch_size": 32}, 96, 400),  # a small task needs steps more than rows
        ({"batch_size": 32}, 100_000, 9375),
        ({"batch_size": 32, "epochs": 3}, 100, 12),  # a short last batch is a step
        ({"batch_size": 32, "epochs": 3}, 96, 9),
        ({"batch_size": 32, "epochs": 0.5}, 128, 2),
        ({"batch_size": 32, "epochs": 0.001}, 128, 1),
        ({"batch_size": 32, "epochs": 3, "steps": 5}, 10_000, 5),
    ],
)
def test_steps_follow_from_epochs_and_rows_unless_they_are_given(options, rows, steps):
    assert FitConfig(**options).total_steps(rows) == steps


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"lr": 1e-3},
        {"floor": 0.5},
        {"sparsity": 0.1},
        {"precision": Precision.FP32},
        {"checkpoint_every": 7},
    ],
)
def test_the_digest_of_the_options_changes_with_each_of_them(change):
    assert FitConfig().sha256() == FitConfig().sha256()
    assert replace(FitConfig(), **change).sha256() != FitConfig().sha256()


def test_reading_the_options_imports_no_torch():
    script = (
        "import sys, maskpack.compressor.config\n"
        "from maskpack.compressor import FitConfig\n"
        "FitConfig()\n"
        "sys.exit(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_package_knows_all_the_names_it_offers_and_no_other():
    import maskpack.compressor

    offered = {name: getattr(maskpack.compressor, name) for name in maskpack.compressor.__all__}
    assert offered["FitConfig"] is FitConfig
    assert offered["fit_task"].__module__ == "maskpack.compressor.fit"
    assert set(offered) == set(maskpack.compressor._HOME)
    with pytest.raises(AttributeError, match="no attribute 'fit_tasks'"):
        _ = maskpack.compressor.fit_tasks


def test_a_record_of_options_names_no_folder_of_this_machine():
    config = FitConfig(teacher="/home/me/twin", calibration="texts/english.txt")
    record = config.record()
    assert (record["teacher"], record["calibration"]) == ("twin", "english.txt")
    assert FitConfig().record()["teacher"] is None
    assert {**record, "teacher": None, "calibration": None} == FitConfig().record()


@pytest.mark.parametrize(("bits", "margin"), [(8, 1.6), (4, 1.6), (2, 1.6), (1, 0.8)])
def test_one_bit_flips_sooner_unless_told_otherwise(bits, margin):
    assert FitConfig(bits=bits).flip_margin == margin
    assert FitConfig(bits=bits, margin=1.2).flip_margin == 1.2
