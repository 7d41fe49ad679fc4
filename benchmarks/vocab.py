"""Vocabularies with fewer tokens: what texts that they were not made for become, what is smaller, and whether answers stay.

    python benchmarks/vocab.py --data DATA --e5 E5 --work WORK --out docs/results/vocab.json

DATA holds the folders SST-2, SIB-200, Tatoeba, XQuAD and plain-english-corpus (see their own pages), E5 is a folder of
multilingual-e5-small. Lines of a language are dealt to two halves in turn; a vocabulary is made for one and tried on the other.
`reading` has a line for each vocabulary for English, `languages` for other languages, `curve` one for each number of paragraphs, `graphs` one for each artifact. MASKPACK_NODE_MODULES, if it is set, names a
`node_modules` with @huggingface/tokenizers, whose numbers of tokens are compared with ours.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

SCRIPTS = {
    **dict.fromkeys(("deu_Latn", "fra_Latn", "spa_Latn", "swh_Latn"), "Latin"),
    "rus_Cyrl": "Cyrillic",
    "zho_Hans": "Han",
    "hin_Deva": "Devanagari",
}
"""Language of SIB-200 -> its script."""
OTHER_NAMES = {"deu": "de", "spa": "es", "zho": "zh"}
TATOEBA = {"deu": "deu", "fra": "fra", "spa": "spa", "rus": "rus", "zho": "cmn"}
CURVE = (1_000, 4_000, 16_000, 64_000)
UNSEEN = 8_000
"""Paragraphs that a vocabulary is made for, and those that it is tried on, in `curve`."""
STEPS = 20
ROWS = 2000  # of SST-2 on which answers are compared
NODE = """
import fs from "fs";
import { Tokenizer } from "@huggingface/tokenizers";
const read = (name) => JSON.parse(fs.readFileSync(name));
const tokenizer = new Tokenizer(read("tokenizer.json"), read("tokenizer_config.json"));
console.log(JSON.stringify(read("given.json").map((text) => tokenizer.encode(text).ids)));
"""


def sst2(data: Path, name: str = "train") -> list[str]:
    """Sentences and phrases of SST-2."""
    with gzip.open(data / "SST-2" / f"{name}.tsv.gz", "rt", encoding="utf-8") as file:
        return [line.split("\t")[0].strip() for line in file][1:]


def corpus(data: Path) -> list[str]:
    """Paragraphs of the plain English corpus."""
    with lzma.open(data / "plain-english-corpus" / "corpus.txt.xz", "rt", encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def language(data: Path, code: str) -> list[str]:
    """All lines at hand of a language: SIB-200, Tatoeba, and paragraphs and questions of XQuAD, each once."""
    short = code.split("_", maxsplit=1)[0]
    found: list[str] = []
    for part in ("train", "dev", "test"):
        rows = (data / "SIB-200" / f"{code}.{part}.tsv").read_text(encoding="utf-8").splitlines()
        found += [row.split("\t")[2] for row in rows[1:]]
    if short in TATOEBA:
        other = TATOEBA[short]
        place = data / "Tatoeba" / f"tatoeba.{other}-eng.{other}"
        found += place.read_text(encoding="utf-8").splitlines()
    if short in OTHER_NAMES:
        with gzip.open(data / "XQuAD" / f"xquad.{OTHER_NAMES[short]}.json.gz") as file:
            tree = json.load(file)
        for article in tree["data"]:
            for paragraph in article["paragraphs"]:
                found += [paragraph["context"], *(one["question"] for one in paragraph["qas"])]
    return list(dict.fromkeys(one.strip() for one in found if one.strip()))


def files_of(model: str) -> dict[str, bytes]:
    """Configuration and tokenizer of a model."""
    from maskpack.models.hub_files import file_of
    from maskpack.models.load import load_tokenizer
    from maskpack.models.locate import resolve
    from maskpack.models.tokenizer_files import tokenizer_files

    place = resolve(model)
    config = file_of(place, "config.json")
    assert config is not None
    return {**tokenizer_files(load_tokenizer(place)), "config.json": config.read_bytes()}


def reading(
    name: str,
    files: dict[str, bytes],
    lines: tuple[str, list[str]],
    others: dict[str, list[str]],
    work: Path,
    **wanted: Any,
) -> dict[str, Any]:
    """One vocabulary: made for every other line, tried on the lines between and on other languages."""
    from maskpack.models.trimmed_tokenizer import Wanted
    from maskpack.tasks.read_again import plain_tokenizer, read_again, trim_tokenizer

    source, texts = lines
    own, unseen = texts[::2], texts[1::2]
    whole = plain_tokenizer(files)
    trimmed = trim_tokenizer(files, ("",), Wanted(**wanted), [own], whole)
    tried = {
        part: read_again(part, each, whole, trimmed)
        for part, each in (("made for", own), ("unseen", unseen), *others.items())
    }
    width = json.loads(files["config.json"])["hidden_size"]
    sizes = [len(each) for each in (files["tokenizer.json"], trimmed.files["tokenizer.json"])]
    return {
        "model": name,
        "lines": source,
        **{
            key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()
        },
        "tokens_before": whole.get_vocab_size(),
        "tokens": len(trimmed.kept.ids),
        "table_mb_before": trimmed.kept.table * (width + 2) / 1e6,
        "table_mb": len(trimmed.kept.rows) * (width + 2) / 1e6,
        "tokenizer_mb_before": sizes[0] / 1e6,
        "tokenizer_mb": sizes[1] / 1e6,
        "read": {
            part: {**asdict(one), "equal_share": one.equal_share, "fallen_share": one.fallen_share}
            for part, one in tried.items()
        },
        "node": compared_in_node(
            (files, whole), (trimmed.files, trimmed.fast), [*own[:1000], *unseen[:1000]], work
        ),
    }


def compared_in_node(
    before: tuple[dict[str, bytes], Any],
    after: tuple[dict[str, bytes], Any],
    texts: list[str],
    work: Path,
) -> dict[str, int] | None:
    """Texts of which @huggingface/tokenizers has the same tokens as the library here, with fewer tokens and with all.

    All are asked only where fewer differ. None without Node.
    """
    if not os.environ.get("MASKPACK_NODE_MODULES") or not shutil.which("node"):
        return None
    found = {"texts": len(texts), "same": in_node(*after, texts, work)}
    if found["same"] != len(texts):
        found["same_with_all"] = in_node(*before, texts, work)
    return found


def in_node(files: dict[str, bytes], fast: Any, texts: list[str], work: Path) -> int:
    """Texts of which @huggingface/tokenizers has the same tokens as the library here."""
    modules = os.environ["MASKPACK_NODE_MODULES"]
    place = work / "node"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "node_modules").symlink_to(modules)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).write_bytes(files[name])
    (place / "given.json").write_text(json.dumps(texts), encoding="utf-8")
    (place / "check.mjs").write_text(NODE, encoding="utf-8")
    done = subprocess.run(
        ["node", "check.mjs"], cwd=place, capture_output=True, text=True, check=True
    )
    found, own = json.loads(done.stdout), [one.ids for one in fast.encode_batch(texts)]
    return sum(a == b for a, b in zip(found, own, strict=True))


def graphs(name: str, model: str, data: Path, work: Path, **wanted: Any) -> dict[str, Any]:
    """An artifact with a task of few steps, before and after: bytes, answers, and the metric."""
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.exporters import ExportRequest, Tolerance, export_onnx
    from maskpack.formats import open_artifact
    from maskpack.runtime import Session
    from maskpack.tasks import find_task
    from maskpack.tasks.trim import TrimRequest, trim_vocabulary

    place = work / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    rows = place / "SST-2"
    rows.mkdir()
    for part in ("train", "dev"):
        rows.joinpath(f"{part}.tsv").write_bytes(
            gzip.decompress((data / "SST-2" / f"{part}.tsv.gz").read_bytes())
        )
    texts = sst2(data)
    own, unseen = texts[::2], texts[1::2][:ROWS]
    made_for, tried = place / "own.txt", place / "unseen.txt"
    made_for.write_text("\n".join(own) + "\n", encoding="utf-8")
    tried.write_text("\n".join(unseen) + "\n", encoding="utf-8")
    config = FitConfig(bits=4, steps=STEPS, batch_size=16, teacher="none", train_rows=STEPS * 16)
    fit_task(FitRequest(model, find_task("sst2"), place / "whole", config, data=rows))
    request = TrimRequest(
        str(place / "whole"), place / "fewer", (made_for,), tries=(tried,), **wanted
    )
    result = trim_vocabulary(request)
    found: dict[str, Any] = {"model": name, **wanted, "tokens_before": result.tokens_before}
    found |= {"tokens": result.tokens, "unseen_equal": result.tries[0].equal_share}
    answers = []
    for part in ("whole", "fewer"):
        out = place / f"{part}-int8"
        report = export_onnx(
            ExportRequest(place / part, "sst2", out, "int8", Tolerance.of("int8"), data=rows)
        )
        assert report is not None
        artifact = open_artifact(place / part)
        found[part] = {
            "backbone_mb": artifact.size("backbone.safetensors") / 1e6,
            "artifact_mb": bytes_of(place / part) / 1e6,
            "graph_mb": (out / "model.onnx").stat().st_size / 1e6,
            "tokenizer_mb": (out / "tokenizer.json").stat().st_size / 1e6,
            "verified": report.ok,
            "accuracy": json.loads(report.to_json())["accuracy"]["graph"],
        }
        # one text at a time: int8 graphs round by the ranges of a whole batch
        answers.append([one.scores for one in Session(out).predict(unseen, batch_size=1)])
    found["answers"] = {
        "texts": len(unseen),
        "same_bits": sum(a == b for a, b in zip(*answers, strict=True)),
        "same_class": sum(
            max(a, key=a.__getitem__) == max(b, key=b.__getitem__)
            for a, b in zip(*answers, strict=True)
        ),
    }
    found["equal_pieces"] = result.tries[0].equal
    return found


def bytes_of(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def vocabularies(data: Path, e5: Path, work: Path) -> Iterator[dict[str, Any]]:
    """All lines of `reading`, one after the other."""
    languages = {code: language(data, code) for code in SCRIPTS}
    english = {"SST-2": sst2(data), "English corpus": corpus(data)}
    models = {"all-MiniLM-L6-v2": files_of("demo"), "multilingual-e5-small": files_of(str(e5))}
    keeps = {"SST-2": (16_000, 22_000), "English corpus": (28_000,)}
    for name, files in models.items():
        for source, lines in english.items():
            others = languages if source == "English corpus" else {}
            yield reading(name, files, (source, lines), others, work)
            for keep in keeps[source] if name == "all-MiniLM-L6-v2" else (40_000,):
                yield reading(name, files, (source, lines), {}, work, keep=keep, scripts=("Latin",))


def languages_of_e5(data: Path, e5: Path, work: Path) -> Iterator[dict[str, Any]]:
    """Vocabularies for the few lines at hand of other languages: of these lines alone, with their script, and with a part of it."""
    english = {"SST-2": sst2(data)[:2000]}
    name, files = "multilingual-e5-small", files_of(str(e5))
    for code, script in SCRIPTS.items():
        lines = (code, language(data, code))
        yield reading(name, files, lines, english, work)
        yield reading(name, files, lines, english, work, scripts=(script,))
        yield reading(name, files, lines, {}, work, keep=40_000, scripts=(script,))


def curve(data: Path, e5: Path, work: Path) -> Iterator[dict[str, Any]]:
    """Vocabularies made for more and more paragraphs, in their order in the corpus spread evenly, tried on the same others."""
    lines = corpus(data)
    unseen = lines[1::15][:UNSEEN]
    rest = [line for place, line in enumerate(lines) if place % 15 != 1]
    for name, model in (("all-MiniLM-L6-v2", "demo"), ("multilingual-e5-small", str(e5))):
        files = files_of(model)
        for count in CURVE:
            some = rest[:: len(rest) // count][:count]
            # every other line is what `reading` makes it for
            both = [line for pair in zip(some, some, strict=True) for line in pair]
            one = reading(name, files, ("English corpus", both), {"others": unseen}, work)
            yield {**one, "made_for": count}


def tables(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The tables of docs/RESULTS.md."""
    parts = ("model", "lines", "asked for", "tokens", "table, int8", "unseen lines", "same pieces")
    head = (*parts, "tokens in smaller pieces", "more tokens", "unknown (before)", "same decoded")
    for part in ("reading", "languages"):
        rows = [
            (one["model"], one["lines"], *_figures(one, "unseen"))
            for one in found[part]
            if one["tokens"]
            >= one.get("keep", 0)  # else all that were asked for fit, as a row above says
        ]
        yield from _markdown(head, rows)
    rows = [
        (one["model"], f"{one['made_for']:,}", *_figures(one, "others")[1:7])
        for one in found["curve"]
    ]
    yield from _markdown(("model", "made for", *head[3:9]), rows)
    (whole,) = (
        one
        for one in found["reading"]
        if one["model"] == "multilingual-e5-small" and len(one["read"]) > 2
    )
    (mini,) = (
        one
        for one in found["reading"]
        if one["model"] == "all-MiniLM-L6-v2" and len(one["read"]) > 2
    )
    rows = [
        (code, *(cell for each in (mini, whole) for cell in _figures(each, code)[4:7]))
        for code in SCRIPTS
    ]
    yield from _markdown(("language", *head[6:9], *head[6:9]), rows)
    sizes = ("backbone_mb", "artifact_mb", "graph_mb", "tokenizer_mb", "accuracy")
    rows = [
        (
            one["model"],
            f"{one['tokens_before']:,} to {one['tokens']:,}",
            *(f"{one['whole'][key]:.4g} to {one['fewer'][key]:.4g}" for key in sizes),
            f"{one['equal_pieces']:,} of {one['answers']['texts']:,}",
            f"{one['answers']['same_bits']:,}",
            f"{one['answers']['same_class']:,}",
        )
        for one in found["graphs"]
    ]
    ends = ("same pieces", "same bits", "same class")
    names = ("backbone", "artifact", "int8 graph", "tokenizer.json", "accuracy")
    yield from _markdown(("model", "tokens", *names, *ends), rows)


def _figures(one: dict[str, Any], part: str) -> tuple[str, ...]:
    read = one["read"][part]
    asked = [f"`--keep {one['keep']}`"] if "keep" in one else []
    asked += [f"`--script {','.join(one['scripts'])}`"] if "scripts" in one else []
    return (
        " ".join(asked) or "the lines",
        f"{one['tokens']:,}",
        f"{one['table_mb']:.1f} MB",
        f"{read['texts']:,}",
        f"{read['equal_share']:.1%}",
        f"{read['fallen_share']:.2%}",
        f"{read['tokens'] / read['tokens_before'] - 1:.2%}",
        f"{read['unknown']:,} ({read['unknown_before']:,})",
        f"{read['decoded'] / read['texts']:.2%}",
    )


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def main() -> None:
    """Measure; print a line for each vocabulary, and write all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--e5", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("reading", "languages", "curve", "graphs"))
    parser.add_argument(
        "--tables", action="store_true", help="print tables of --out, and nothing else"
    )
    args = parser.parse_args()
    if args.tables:
        print("\n".join(tables(json.loads(args.out.read_text(encoding="utf-8")))))
        return
    if None in {args.data, args.e5, args.work}:
        parser.error("--data, --e5 and --work are needed to measure")
    found: dict[str, list[dict[str, Any]]] = {}
    if args.only in {None, "curve"}:
        found["curve"] = []
        for one in curve(args.data, args.e5, args.work):
            found["curve"].append(one)
            others = one["read"]["others"]
            print(one["model"], one["made_for"], one["tokens"], others["equal_share"], flush=True)
    for part, make in (("reading", vocabularies), ("languages", languages_of_e5)):
        if args.only not in {None, part}:
            continue
        found[part] = []
        for one in make(args.data, args.e5, args.work):
            found[part].append(one)
            unseen = one["read"]["unseen"]
            print(
                f"{one['model']:22} {one['lines']:15} keep {one.get('keep', '-'):6} {one['tokens']:7,} "
                f"{unseen['texts']:6,} {unseen['equal_share']:.2%} {unseen['fallen_share']:.2%} {one['node']}",
                flush=True,
            )
    if args.only in {None, "graphs"}:
        found["graphs"] = []
        for name, model, wanted in (
            ("all-MiniLM-L6-v2", "demo", {}),
            ("all-MiniLM-L6-v2, 22,000", "demo", {"keep": 22_000}),
            ("multilingual-e5-small", str(args.e5), {}),
            (
                "multilingual-e5-small, 40,000",
                str(args.e5),
                {"keep": 40_000, "scripts": ("Latin",)},
            ),
        ):
            found["graphs"].append(graphs(name, model, args.data, args.work, **wanted))
            print(json.dumps(found["graphs"][-1], indent=2), flush=True)
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    found = {**before, **found}  # the part that was not asked for stays
    args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
