"""The columns of text and label of the user's own data, if the user does not name them.

Columns with plain names are taken, and a note says so. Other names are an error that lists the columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.tasks.data.cells import column_list
from maskpack.tasks.data.hub import hub_columns, is_hub
from maskpack.tasks.data.images import IMAGE_COLUMNS, is_image_folder
from maskpack.tasks.data.splits import TRAIN, find_file
from maskpack.tasks.data.tables import LINES, TAGGED, column_names
from maskpack.tasks.options import ON_IMAGES, TaskOptions
from maskpack.tasks.task import TASKS, Kind, Task, find_task

_LOG = logging.getLogger(__name__)
_LABEL = "label"
_TAGS = ("ner_tags", "tags", "entities", "spans")
"""Plain names of a column of entities."""
_QUESTIONS = ("question", "context", "answers")
"""Plain names of questions, contexts and answers, as the Hub has them."""
_IMAGES = ("image", "img", "file_name")
"""Plain names of a column of images, or of their files."""
_LINE = ("text",)
"""What the column of a file of lines is called, which has no name in it."""

_TEXTS = (
    *((name,) for name in _IMAGES),
    ("text",),
    ("tokens",),
    ("words",),
    ("sentence",),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
)
"""Names of texts that most data sets of the Hub have beside their `label`."""
_FOUND = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "document"),
    ("question", "answer"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
)
"""Plain names of a text and of the text that it should find."""
_WRONG = "negative"
_IDLE = {"", "id", "idx", "index", "unnamed: 0", "label_text"}
"""Columns that may occur beside them and are no text: row numbers of GLUE and pandas, a label's name."""
_SHOWN = 12  # columns that a hint spells out


@dataclass(frozen=True)
class Said:
    """The user's options for a task.

    Attributes:
        name: of the task.
        named: False if it is only the name of the data.
        data: where the rows are, or None.
        options: columns, labels and metric.
    """

    name: str
    named: bool = True
    data: Path | None = None
    options: TaskOptions = field(default_factory=TaskOptions)

    def task(self, texts: Sequence[str] = (), label: str | None = None) -> Task:
        """The task, over these columns instead of the given ones."""
        options = self.options
        first, second = (
            (*texts, None, None)[:2] if texts else (options.text_field, options.pair_field)
        )
        if options.kind is Kind.FILL_MASK and first is None and self.name not in TASKS:
            (first,) = _LINE
        return find_task(
            self.name,
            text_field=first,
            pair_field=second,
            label_field=label or options.label_field,
            kind=self._kind((first, second, label or options.label_field)),
            metric=options.metric,
            separator=options.separator,
            prefix=options.prefix,
            pair_prefix=options.pair_prefix,
            unlabelled=options.unlabelled,
            stride=options.stride,
            windows=options.windows,
        )

    def _kind(self, columns: tuple[str | None, ...]) -> Kind | None:
        """What options say of the kind, else data by their ending or the names of their columns."""
        kind = self.options.kind
        names = tuple(None if name is None else name.strip().casefold() for name in columns)
        if self.options.type is None and names[0] in _IMAGES and names[1] is None:
            return ON_IMAGES[kind]
        if kind is not None:
            return kind
        if self.data is not None and is_tagged(self.data):
            return Kind.TOKEN_CLASSIFICATION
        return Kind.QUESTION_ANSWERING if names == _QUESTIONS else None


def task_of_said(said: Said) -> Task:
    """The user's task: a known one, or one over columns that are given or have plain names.

    A name that the user gave is that of a known task, if there is one. The name of a file is not:
    `tickets.csv` is probably not the sample that ships with the package.

    Raises:
        ConfigError: no column is given, or only one, or options contradict each other.
        DataError: the data cannot be read.
    """
    options = said.options
    given = (options.text_field, options.pair_field, options.label_field)
    if said.data is None or None not in (options.text_field, options.label_field):
        return said.task()
    if options.kind is Kind.FILL_MASK:
        return _of_texts(said, said.data)
    known = TASKS.get(said.name)
    if said.named and known is not None and given == (None, None, None):
        return said.task()
    columns = columns_of(said.data)
    if given != (None, None, None):
        fact = "your own data needs both a text field and a label field"
        raise ConfigError(fact, columns_hint(columns, said.data))
    if known is not None and known.folder is None and _holds(columns, known):
        return said.task()
    finds = options.kind is Kind.RETRIEVAL
    plain = found_columns(columns) if finds else plain_columns(columns)
    if plain is None and finds and (labelled := plain_columns(columns)) is not None:
        options, plain = replace(options, same_label=True), labelled
    if plain is None:
        raise _asked(said, columns)
    *texts, label = plain
    _LOG.info("%s%s", taken(said.data, texts, label), _or_known(said))
    return replace(replace(said, options=options).task(texts, label), guessed=True)


def _of_texts(said: Said, data: Path) -> Task:
    """The task over the column of the text alone: that of the lines of a file, or of a table's plain name.

    Raises:
        ConfigError: a column of labels is named, or none of texts has a plain name.
        DataError: the data cannot be read.
    """
    options = said.options
    if options.text_field is not None or options.label_field is not None:
        return said.task(() if options.text_field else _LINE)
    if is_lines(data):
        return said.task(_LINE)
    columns = columns_of(data)
    plain = plain_texts(columns) or (plain_columns(columns) or ())[:-1]
    if len(plain) != 1:
        fact = f"which column of `{data.as_posix()}` is the text?"
        names = column_list(columns[:_SHOWN]) or "none, it is empty"
        raise ConfigError(fact, Hint("its columns: {columns}; choose `text_field`", columns=names))
    _LOG.info("%s", taken(data, plain, None))
    return replace(said.task(plain), guessed=True)


def is_lines(data: Path) -> bool:
    """Whether data are lines of text, for a type of task that reads them."""
    return _suffix(data) == LINES


def taken(data: Path, texts: Sequence[str], label: str | None) -> str:
    """A note that names columns which were taken because of their names.

    >>> taken(Path("a.csv"), ["text"], "label")
    'of `a.csv` `text` is taken as the text, `label` as the label'
    """
    shown = " and ".join(f"`{text}`" for text in texts) + (" are" if len(texts) == 2 else " is")
    also = "" if label is None else f", `{label}` as the label"
    return f"of `{data.as_posix()}` {shown} taken as the text{also}"


def columns_of(data: Path) -> tuple[str, ...]:
    """Names of the columns of a file, of the training file of a folder, or of a data set of the Hub.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    if is_hub(data):
        return hub_columns(data)
    if is_image_folder(data):
        return IMAGE_COLUMNS
    return column_names(find_file(data, TRAIN) if data.is_dir() else data)


def plain_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """Columns of the texts and, last, of the label, if they have plain names; else None.

    >>> plain_columns(["idx", "Text", "Label"])
    ('Text', 'Label')
    >>> plain_columns(["text", "title", "label"])
    """
    if (questions := _questions_in(names)) is not None:
        return questions
    tagged = (_chosen(names, (label,)) for label in _TAGS)
    return _chosen(names, (_LABEL,)) or next((one for one in tagged if one is not None), None)


def found_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """Columns of a text, of one that it should not find if there is one, and, last, of the one that it should find.

    >>> found_columns(["anchor", "positive", "negative"])
    ('anchor', 'negative', 'positive')
    """
    folded = {name.strip().casefold(): name for name in names}
    left = set(folded) - _IDLE
    for first, second in _FOUND:
        for chosen in ((first, second), (first, _WRONG, second)):
            if left == set(chosen):
                return tuple(folded[one] for one in chosen)
    return None


def plain_texts(names: Sequence[str]) -> tuple[str, ...] | None:
    """The same of a table without labels.

    >>> plain_texts(["id", "premise", "hypothesis"])
    ('premise', 'hypothesis')
    """
    questions = _questions_in([*names, _QUESTIONS[-1]])
    return _chosen(names, ()) if questions is None else questions[:-1]


def _questions_in(names: Sequence[str]) -> tuple[str, ...] | None:
    """Columns of question, context and answers; others may stand beside them."""
    folded = {name.strip().casefold(): name for name in names}
    if len(folded) != len(names) or not set(_QUESTIONS) <= set(folded):
        return None
    return tuple(folded[name] for name in _QUESTIONS)


def _chosen(names: Sequence[str], label: tuple[str, ...]) -> tuple[str, ...] | None:
    folded = {name.strip().casefold(): name for name in names}
    left = set(folded) - _IDLE
    if len(folded) != len(names):  # twice, or in two letter cases
        return None
    for texts in _TEXTS:
        if left == {*texts, *label}:
            return tuple(folded[one] for one in (*texts, *label))
    return None


def is_tagged(data: Path) -> bool:
    """Whether data are words with tags in lines."""
    return _suffix(data) in TAGGED


def _suffix(data: Path) -> str | None:
    """The ending of a file, or of the training file of a folder; None: there is none."""
    if is_hub(data) or not data.exists() or is_image_folder(data):
        return None
    file = find_file(data, TRAIN) if data.is_dir() else data
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _holds(columns: Sequence[str], task: Task) -> bool:
    """Whether data may be that of a task: its columns are there, or a label where a file without a header line has it."""
    if {*task.texts, task.label} <= set(columns):
        return True
    if len(columns) != len(task.header):
        return False
    return columns[task.header.index(task.label)] in task.raw_labels


def _asked(said: Said, columns: Sequence[str]) -> ConfigError:
    """The error that asks for the columns."""
    assert said.data is not None
    if not said.named:
        fact = f"which columns of `{said.data.as_posix()}` are the text and the label?"
        return ConfigError(fact, columns_hint(columns, said.data))
    fact = f"no task `{said.name}`, and no columns for one of your own"
    close = _close(said.name)
    known = f"; known tasks: {', '.join(TASKS)}"
    return ConfigError(
        fact,
        columns_hint(
            columns, said.data, before=f"did you mean `{close}`? " if close else "", after=known
        ),
    )


def columns_hint(columns: Sequence[str], data: Path, *, before: str = "", after: str = "") -> Hint:
    """A hint that lists the columns and the arguments that name them."""
    place = data.as_posix()
    if not columns:
        return Hint("{before}`{data}` is empty{after}", before=before, data=place, after=after)
    more = f", {len(columns) - _SHOWN} more" if columns[_SHOWN:] else ""
    return Hint(
        "{before}`{data}` has the columns {columns}; choose `text_field` and `label_field`{after}",
        before=before,
        data=place,
        columns=f"{column_list(columns[:_SHOWN])}{more}",
        after=after,
    )


def _or_known(said: Said) -> Hint | str:
    """A hint for a user who means a known task and did not give its name."""
    close = _close(said.name)
    return Hint(" of a task of your own; the known task is `{name}`", name=close) if close else ""


def _close(name: str) -> str | None:
    return next(iter(get_close_matches(name, TASKS, n=1)), None)
