"""`compress quantize`, and the options of `fit` that decide how a mask is learned."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from maskpack.formats import open_artifact


@pytest.fixture
def model(work, tiny_model, sentiment):
    shutil.copytree(tiny_model, work / "model")
    shutil.copytree(sentiment, work / "data")
    return "model"


def test_a_backbone_is_written_once_and_tasks_join_it(main, work, model, short):
    made = main("quantize", model, "--bits", "2", "--refine", "2", "-o", "art", "--json")
    assert made.code == 0
    assert "backbone (backbone) 2/2 loss" in made.err
    before = (work / "art" / "backbone.safetensors").read_bytes()
    assert made.json["backbone_bytes"] == len(before)
    assert made.json["quantizer"] == "mse, refined"
    assert open_artifact(work / "art").manifest.tasks == {}
    assert main("check", "art").code == 0

    quick = [*short[: short.index("--bits")], "--json", "--quiet"]
    fit = main("fit", model, "-t", "sst2", "--data", "data", "-o", "art", *quick)
    assert (fit.code, fit.json["bits"]) == (0, 2)
    assert (work / "art" / "backbone.safetensors").read_bytes() == before
    assert fit.err == ""


def test_refinement_changes_the_codes_and_zero_steps_leave_them(main, work, model):
    for name, steps in (("plain", 0), ("refined", 3)):
        done = main("quantize", model, "--bits", "1", "--refine", steps, "-o", name, "--quiet")
        assert done.code == 0, done.err
    plain, refined = (open_artifact(work / name).backbone for name in ("plain", "refined"))
    assert all(tensor.zero_free for tensor in plain.linears.values())
    moved = [
        not np.array_equal(plain.linears[name].codes, refined.linears[name].codes)
        for name in plain.linears
    ]
    assert any(moved)
    assert open_artifact(work / "plain").manifest.scheme.quantizer == "mse"


def test_overrides_reach_the_backbone_and_the_manifest(main, work, model):
    args = ["--bits", "2", "--refine", "0", "--bits-override", "*.layer.0.*=8"]
    assert main("quantize", model, *args, "-o", "art", "--quiet").code == 0
    artifact = open_artifact(work / "art")
    assert artifact.manifest.scheme.overrides == {"*.layer.0.*": 8}
    bits = {name: tensor.bits for name, tensor in artifact.backbone.linears.items()}
    assert {bit for name, bit in bits.items() if ".layer.0." in name} == {8}
    assert {bit for name, bit in bits.items() if ".layer.0." not in name} == {2}


@pytest.mark.parametrize(
    ("width", "told", "line"),
    [
        ("8", {"embedding_bits": 8}, None),
        ("3", {"embedding_bits": 3}, "3 bits"),
        (
            "auto",
            {"embedding_bits": 4, "rare_embedding_bits": 2},
            "4 bits, 2 in rare rows",
        ),
    ],
)
def test_widths_of_token_embeddings_are_told(main, work, model, width, told, line):
    words = ["--bits", "4", "--embedding-bits", width, "-o", "art"]
    if width == "auto":  # the shipped texts need most of so few rows
        (work / "few.txt").write_text("the film\n" * 8)
        words += ["--calibration", "few.txt"]
    made = main("quantize", model, *words, "--json")
    found = main("inspect", "art", "--json").json
    assert {key: found[key] for key in found if "embedding_bits" in key} == told
    assert told.items() <= made.json.items()
    shown = main("inspect", "art").out
    assert ("token embeddings" in shown) == (line is not None)
    assert line is None or line in shown


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--bits", "3"], "`bits` is 3"),
        (["--bits-override", "x"], "is not PATTERN=BITS"),
        (["--bits-override", "nothing=4"], "names no linear"),
        (["--quantizer", "magic"], "no quantizer `magic`"),
        (["--calibration", "absent.txt", "--quantizer", "gptq"], "cannot read `absent.txt`"),
        (["--embedding-bits", "1"], "`embedding_bits` is 1"),
        (["--refine", "-1"], "expected 0 or more"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(main, work, model, args, said):
    refused = main("quantize", model, *args, "-o", "art")
    assert refused.code == 1
    assert said in refused.err
    assert not (work / "art").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target-bytes", "10"], "the smallest patch that can be asked for here is"),
        (["--target-bytes", "9000", "--sparsity", "0.1"], "set the same thing"),
        (["--estimator", "topk"], "needs a share of zeros"),
        (["--init", "magnitude"], "needs a share of zeros"),
        (["--estimator", "magic"], "magic"),
        (["--layers", "7"], "which the encoder does not have"),
        (["--layers", "two"], "write it like"),
        (["--modules", "nothing"], "part of no linear's name"),
        (["--patience", "1", "--ema", "0.9"], "leave one of them out"),
        (["--teacher", "absent"], "absent"),
        (["--dropout", "1"], "`dropout` is 1"),
    ],
)
def test_a_fit_that_cannot_end_well_is_refused(main, work, model, short, args, said):
    refused = main("fit", model, "-t", "sst2", "--data", "data", "-o", "art", *short, *args)
    assert refused.code == 1
    assert said in refused.err
    assert not (work / "art").exists()


def test_what_is_trained_besides_the_mask_is_told(main, work, model, short):
    extra = ["--train-bias", "--train-norm", "--train-scales", "--layers", "1"]
    done = main("fit", model, "-t", "sst2", "--data", "data", "-o", "art", *short, *extra)
    assert done.code == 0
    assert "biases, norms, scales" in done.out
    told = main("inspect", "art", "--json").json["tasks"]["sst2"]
    patch = open_artifact(work / "art").patch("sst2")
    assert told["extra_bytes"] == sum(
        v.nbytes for v in (*patch.dense.values(), *patch.gains.values())
    )
    assert told["extra_bytes"] > 0
    assert all(".layer.1." in name for name in told["layer_zeros"])
    assert main("check", "art").code == 0


def test_a_hidden_network_needs_a_configuration_alone_and_inspect_says_so(main, work, model, short):
    for weights in (work / model).glob("*.safetensors"):
        weights.unlink()
    drawn = ["--random", "7", "--bits", "1"]
    made = main("quantize", model, *drawn, "-o", "art", "--json", "--quiet")
    assert made.code == 0, made.err
    assert (made.json["seed"], made.json["quantizer"]) == (7, "drawn")
    assert made.json["backbone_bytes"] < 9_000
    quick = [*short[: short.index("--bits")], "--estimator", "edge-popup", "--sparsity", "0.5"]
    fit = main("fit", model, "-t", "sst2", "--data", "data", "-o", "art", *quick, "--quiet")
    assert fit.code == 0, fit.err
    shown = main("inspect", "art")
    assert "weights drawn from seed" in shown.out
    assert "7, in place of" in shown.out
    assert main("inspect", "art", "--json").json["seed"] == 7
    assert "random: 7" in main("inspect", "art", "--config").out
    assert main("check", "art").code == 0
    refused = main("fit", model, "-t", "sst2", "--data", "data", "-o", "art", "--random", "8")
    assert "drawn from the seed 7, 8 was asked for" in refused.err
    assert "leave `--random` out" in refused.err


def test_drawn_codes_have_no_quantizer(main, work, model):
    refused = main("quantize", model, "--random", "7", "--quantizer", "mse", "-o", "art")
    assert refused.code == 1
    assert "`random` draws codes" in refused.err
    assert not (work / "art").exists()


@pytest.mark.parametrize(
    "words", [("--quantizer", "gptq"), ("--group", "32"), ("--embedding-bits", "4")], ids=str
)
def test_a_float_baseline_has_no_codes(main, work, model, words):
    asked = ["baseline", model, "-t", "sst2", "--data", "data", "--steps", "2", "--method", "full"]
    refused = main(*asked, *words)
    assert refused.code == 1
    assert (
        f"`{words[0]}` says how weights become codes, and a float model is trained" in refused.err
    )
    assert "give `--bits`" in refused.err
