"""Options of a task over the user's own data, each declared once. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from maskpack.formats import ConfigError
from maskpack.formats.options import Opt, Options
from maskpack.tasks.data.cache import AUTO
from maskpack.tasks.evaluation.metrics import METRICS
from maskpack.tasks.task import Kind, Unlabelled


class Type(StrEnum):
    """What a model is asked, by the Hub's pipeline tag."""

    TEXT = "text-classification"
    TOKENS = "token-classification"
    VECTORS = "sentence-similarity"
    QUESTIONS = "question-answering"
    IMAGES = "image-classification"
    MASKS = "fill-mask"


_OWN_KINDS = {
    Type.TOKENS: Kind.TOKEN_CLASSIFICATION,
    Type.QUESTIONS: Kind.QUESTION_ANSWERING,
    Type.IMAGES: Kind.IMAGE_CLASSIFICATION,
    Type.MASKS: Kind.FILL_MASK,
}
"""Types whose name alone says what the head predicts."""

ON_IMAGES = {
    None: Kind.IMAGE_CLASSIFICATION,
    Kind.REGRESSION: Kind.IMAGE_REGRESSION,
    Kind.MULTI_LABEL: Kind.IMAGE_MULTI_LABEL,
}
"""What the head predicts of a text -> the same of an image."""


@dataclass(frozen=True)
class TaskOptions(Options):
    """Columns, labels and the metric of a task."""

    type: Annotated[
        Type | None,
        Opt(
            "What is answered of data of your own: a label or a number of each text, the entities in it, a question on it, a vector, "
            "the word where a mask stands, or labels or a number of an image.",
            default="token-classification for words with tags in lines, question-answering for columns question, "
            "context and answers, image-classification for folders of images or a column image, else text-classification",
        ),
    ] = None

    text_field: Annotated[
        str | None,
        Opt("Column of the text, for data of your own.", default="a plain name, such as text"),
    ] = None
    pair_field: Annotated[str | None, Opt("Column of a second text, for pairs.")] = None
    label_field: Annotated[
        str | None, Opt("Column of the label, for data of your own.", default="label")
    ] = None
    regression: Annotated[bool, Opt("The label is a number, for data of your own.", default="")] = (
        False
    )
    multi_label: Annotated[
        bool,
        Opt(
            "A row may have several labels, or none: a list in JSON or Parquet.",
            default="",
        ),
    ] = False
    same_label: Annotated[
        bool,
        Opt(
            "Of vectors: texts with an equal label should find each other.",
            default="for columns text and label",
        ),
    ] = False
    label_separator: Annotated[
        str | None,
        Opt("Separator of the labels in a cell, `\\t` for a tab; implies `multi_label`."),
    ] = None
    prefix: Annotated[
        str | None,
        Opt("Text before every text, such as 'query: '.", default="the model's default prompt"),
    ] = None
    pair_prefix: Annotated[
        str | None, Opt("Text before the second text of a pair.", default="as prefix")
    ] = None
    windows: Annotated[
        bool,
        Opt(
            "Cut texts of more than max-length tokens into windows and join their outputs, as windows of `predict` are; else they are cut off.",
            default="",
        ),
    ] = False
    stride: Annotated[
        int | None,
        Opt(
            "Tokens that neighbouring windows of a long context or text share, where questions are answered or with `windows`.",
            within="[0, inf)",
            default="a quarter of max-length",
        ),
    ] = None
    unlabelled: Annotated[
        Unlabelled,
        Opt("Rows without a label are an error, are left out, or are learned from the teacher."),
    ] = Unlabelled.STOP
    metric: Annotated[
        str | None, Opt("Main metric.", one_of=tuple(METRICS), default="that of the task")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regression and (self.multi_label or self.label_separator is not None):
            raise ConfigError("`regression` and several labels a row contradict each other")
        if self.same_label and (self.type is not Type.VECTORS or self.regression):
            raise ConfigError(
                "`same_label` is of vectors that are learned from labels",
                f"give `type` {Type.VECTORS}, without `regression`, or leave `same_label` out",
            )
        several = self.multi_label or self.label_separator is not None
        labels = {None, Type.TEXT, Type.IMAGES}
        if (several and self.type not in labels) or (
            self.regression and self.type not in {*labels, Type.VECTORS}
        ):
            what = "several labels a row" if several else "a number"
            raise ConfigError(f"`type` {self.type} has not {what}", "leave one of them out")

    @property
    def kind(self) -> Kind | None:
        """What the head predicts; None leaves it to the task."""
        if self.type is Type.VECTORS:
            finds = Kind.LABEL_RETRIEVAL if self.same_label else Kind.RETRIEVAL
            return Kind.SIMILARITY if self.regression else finds
        of_images, kind = self.type is Type.IMAGES, None
        if self.regression:
            kind = Kind.REGRESSION
        elif self.multi_label or self.label_separator is not None:
            kind = Kind.MULTI_LABEL
        if kind is not None:
            return ON_IMAGES[kind] if of_images else kind
        return None if self.type is None else _OWN_KINDS.get(self.type, Kind.CLASSIFICATION)

    @property
    def separator(self) -> str | None:
        """What stands between the labels of a cell."""
        return typed_separator(self.label_separator)


@dataclass(frozen=True)
class CacheOptions(Options):
    """Where rows of large files are kept."""

    cache: Annotated[
        str,
        Opt(
            "Folder that keeps rows and tokens of DATA on disk instead of in memory, for later runs too; `off`: none.",
            default="auto: for files above 32 MB, in MASKPACK_CACHE or the system's cache folder",
            path=True,
        ),
    ] = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cache:
            raise ConfigError("`cache` is empty", "give a folder, `auto` or `off`")


def typed_separator(text: str | None) -> str | None:
    r"""A separator as somebody typed it: a tab is hard to type, so `\t` stands for it.

    >>> typed_separator(r"\t") == "\t"
    True
    """
    return None if text is None else text.replace("\\t", "\t")
