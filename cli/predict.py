"""`compress predict`: a line of JSON for each text; texts are lines of a file or rows of a table. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli.answers import (
    Ask,
    answer_lines,
    check_columns,
    tasks_of_texts,
    write_vectors,
)
from maskpack.cli.asked import Columns, of_images, of_lines, of_table
from maskpack.formats import ConfigError
from maskpack.tasks.options import typed_separator


def predict(
    folder: Annotated[
        Path, Argument(help="Folder that `compress export --onnx` wrote, or one of several.")
    ],
    texts: Annotated[
        Path | None, Option(help="File of texts, one a line. [standard input]")
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="Instead: CSV, TSV, JSON, JSONL or Parquet file (or .gz) of rows, a folder with a dev file, "
            "or hub:NAME[:CONFIG]."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        Option(
            help="Instead, of a task of images: a file, or a folder that is looked through; can be given several times."
        ),
    ] = None,
    text_field: Annotated[
        str | None, Option(help="Column of the text in --data. [a plain name, such as text]")
    ] = None,
    pair_field: Annotated[
        str | None, Option(help="Column of a second text in --data, for pairs.")
    ] = None,
    label_field: Annotated[
        str | None, Option(help="Column of the label in --data; it comes back as `expected`.")
    ] = None,
    label_separator: Annotated[
        str | None, Option(help="What stands between the labels of a cell of --data.")
    ] = None,
    task: Annotated[str | None, Option("--task", "-t", help="Which, of several.")] = None,
    ensemble: opt.Ensemble = None,
    every: Annotated[
        bool,
        Option("--all", help="Every task that reads so many texts a row; on a trunk, in one pass."),
    ] = False,
    csv: Annotated[
        bool, Option("--csv", help="Lines of CSV: the texts, and a column a task with its answer.")
    ] = False,
    npy: Annotated[
        Path | None,
        Option(
            help="Write vectors `(texts, width)` of a task that gives them into this file of numpy, and no lines."
        ),
    ] = None,
    second: Annotated[
        bool,
        Option("--second", help="With --npy: texts to be found, behind the task's second prefix."),
    ] = False,
    pair: Annotated[
        bool, Option("--pair", help="A tab parts a line into two texts of a pair.")
    ] = False,
    windows: Annotated[
        bool,
        Option(
            "--windows",
            help="Cut a text of more tokens than the task reads into windows and join their answers; else it is cut off.",
        ),
    ] = False,
    stride: Annotated[
        int | None,
        Option(
            help="With --windows: tokens that neighbouring windows share. [a quarter of a window]"
        ),
    ] = None,
    batch_size: Annotated[
        int, Option(help="Texts a run; 1: no text changes another's answer.")
    ] = 32,
    threads: Annotated[
        int,
        Option(
            help="Of one operator; 0: OMP_NUM_THREADS, else one for each core that no other program keeps busy."
        ),
    ] = 0,
    provider: opt.Providers = None,
    json: Annotated[
        bool, Option("--json", help="As always here: the output is lines of JSON.")
    ] = True,
) -> None:
    """Answer texts with an exported task in ONNX Runtime, one line of JSON for each text.

    A text that cannot be answered gets a line with `error`, the others are answered; then the exit code is 1.

    Texts are lines of a file or of standard input, or a column of a table. A row's own label, if the
    table has one, is printed beside the answer as `expected`. On standard input, such as a pipe from
    `tail -f`, texts are answered when no further line comes for a fifth of a second.

    With `--all` a line holds an object of tasks, `tasks`, with the answer of each. In a folder of `--layout trunk` the
    lower layers then run once for all of them.

    Example: echo "where is my parcel" | compress predict tickets

    Example: compress predict tickets --data rows.csv --text-field body --label-field queue

    With `--windows` an answer also says into how many windows its text was cut.

    Example: compress predict trunk --all --texts texts.txt

    Example: compress predict tickets --windows --texts letters.txt

    Example: compress predict help --texts pages.txt --npy pages.npy --second

    Example: compress predict pets --images photos/

    Tasks of `--ensemble` answer as one; they are of one type, with the same labels.

    Example: compress predict reviews --ensemble reviews-1,reviews-2,reviews --texts texts.txt
    """
    del json
    from maskpack.runtime import Session  # noqa: PLC0415 - imports ONNX Runtime

    session = Session(folder, threads=threads, providers=provider or ())
    separator = typed_separator(label_separator)
    columns = Columns(text_field, pair_field, label_field, separator)
    members = opt.members_of(ensemble, task)
    if every and (task is not None or label_field is not None or members):
        other = opt.given(task=task, label_field=label_field, ensemble=members)
        raise ConfigError(f"`--all` goes without {other}", "choose one of them")
    pairs = pair or pair_field is not None
    if every:
        names, config = tasks_of_texts(session, pairs=pairs)
    else:
        config = session.config(members or task)
        names = (config.name,)
    if csv:
        check_columns(names)
    if images:
        if data is not None or texts is not None or pair or columns != Columns():
            raise ConfigError(
                "`--images` goes without texts, a table and columns", "leave them out"
            )
        rows = of_images(config, images)
    elif data is None:
        if columns != Columns():
            raise ConfigError("columns are of `--data`", f"`compress predict {folder} --data FILE`")
        rows = of_lines(folder, texts, config, pair=pair)
    else:
        if texts is not None or pair:
            other = opt.given(texts=texts, pair=pair)
            raise ConfigError(f"`--data` goes without {other}", "choose one of them")
        rows = of_table(config, data, columns, labels=not every, second=second)
    if npy is not None or second:
        _check_alone(csv=csv, all=every, windows=windows, stride=stride is not None)
        asked = members or config.name
        write_vectors(rows, session, asked, npy, second=second, batch_size=batch_size)
        return
    ask = Ask(session, names, batch_size, every, windows, stride, members)
    answer_lines(rows, ask, csv=csv)


def _check_alone(**options: bool) -> None:
    """Refuse options that say how lines are written beside `--npy`, which writes none."""
    if any(options.values()):
        raise ConfigError(f"`--npy` goes without {opt.given(**options)}", "choose one of them")
