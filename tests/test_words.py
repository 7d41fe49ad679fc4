"""Private words that have a standard name: none of them stands in the code. Option names and file formats keep theirs."""

from __future__ import annotations

import ast

from sources import MODULES, ROOT, tree_of

LEFT = {
    "Answers": "Predictions",
    "Boundary": "NoiseThreshold",
    "Companion": "TrainerCallback",
    "Company": "CallbackList",
    "FlipCost": "FlipPenalty",
    "GlobalShare": "GlobalSparsity",
    "Grapher": "GraphBuilder",
    "Ground": "PreparedBackbone",
    "Guide": "HiddenStateTeacher",
    "MasksBeside": "ExternalMasks",
    "MatrixShare": "MatrixSparsity",
    "News": "Progress",
    "Newsroom": "ProgressReporter",
    "Observe": "OnProgress",
    "OwnHead": "PretrainedHead",
    "Place": "TaskFiles",
    "Remark": "DataWarning",
    "Shape": "ParameterShapes",
    "Student": "MaskedModel",
    "TWIN": "DENSE_TEACHER",
    "TaskCard": "TaskConfig",
    "Teaching": "DistillationTargets",
    "Thing": "PathKind",
    "encode_material": "preprocess_splits",
    "enroll": "build_masked_model",
    "give_to": "copy_to",
    "heed_padding": "set_pad_token",
    "judge": "verify, confusion",
    "material": "preprocessed rows",
    "objective": "task_loss",
    "prepare_ground": "load_or_quantize",
    "quicken_dropout": "use_fast_dropout",
    "twin": "dense teacher",
    "what_is": "path_kind",
}
"""Identifier as it stood in the code -> what is said now."""

FILES = (
    "companion",
    "material",
    "plain",
    "size",
    "starts",
    "thing",
    "tuning",
    "widen",
    "scores",
    "share",
)
"""Modules and folders of those names, that others replace."""


def identifiers(tree: ast.AST) -> set[str]:
    """Every name that code defines or uses; `ir.Shape` is ONNX's own."""
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            onnx = isinstance(node.value, ast.Name) and node.value.id == "ir"
            found |= set() if onnx else {node.attr}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg | ast.keyword):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found |= {node.name, node.asname}
    return {name for name in found if name is not None}


def test_the_helper_does_what_it_says():
    tree = ast.parse("import a.b as c; ir.Shape(x=d.e)")
    assert sorted(identifiers(tree)) == ["a.b", "c", "d", "e", "ir", "x"]


def test_no_private_word_is_an_identifier():
    private = {
        str(path.relative_to(ROOT)): {word: LEFT[word] for word in found}
        for path in MODULES
        if (found := identifiers(tree_of(path)) & LEFT.keys())
    }
    assert private == {}


def test_no_module_has_a_private_name():
    parts = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & set(FILES)
