"""Every error a user can cause, as one small tree.

    MaskpackError             base: `message` is the fact, `hint` the next step
    |                         (no floor below the command line names a command or a flag)
    |- ConfigError            an option is out of range, or two options contradict each other
    |- ModelError             the source model or its tokenizer cannot be used
    |- DataError              a data file, column, label or split is wrong
    |- ArtifactError          an artifact is damaged, foreign, or cannot be written
    |- ExportError            a graph cannot be made from this artifact
    |- VerifyError            a graph is outside its tolerance
    |- MissingPackageError    a package that an extra brings is not installed; an ImportError as well
    `- Interrupted            the user stopped a run; its checkpoint was kept

Messages are lower case, without a full stop, with back-quotes round literals.
`assert` is for our own bugs; these classes are for everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Hint:
    """The next step, in words of the Python interface; `cli/hints.py` has the words of commands.

    Args:
        text: the words; `{name}` stands for a field.
        **fields: names and numbers to fill in.

    >>> str(Hint("give a `max_length` of {longest}", longest=512))
    'give a `max_length` of 512'
    """

    def __init__(self, text: str, /, **fields: object) -> None:
        self.text = text
        self.fields = fields

    def __str__(self) -> str:
        return self.text.format(**self.fields) if self.fields else self.text


class MaskpackError(Exception):
    """A fact with names and numbers (`str(error)`) and, where there is one, the next step.

    Args:
        message: the fact.
        hint: the next step.

    Attributes:
        advice: the next step, its fields open; None if there is none.
        known_to_all: whether all processes that train together raise it, so that the first one alone prints it.
    """

    known_to_all = False

    def __init__(self, message: str, hint: str | Hint | None = None) -> None:
        super().__init__(message)
        self.advice = Hint(hint) if isinstance(hint, str) else hint

    @property
    def hint(self) -> str | None:
        """The next step in words of the Python interface, or None."""
        return None if self.advice is None else str(self.advice)


class ConfigError(MaskpackError):
    """An option is out of range, or two options contradict each other."""


class ModelError(MaskpackError):
    """The source model, its configuration or its tokenizer cannot be used."""


class DataError(MaskpackError):
    """A data file, column, label, encoding or split is wrong; names the row where there is one."""


class ArtifactError(MaskpackError):
    """An artifact is damaged, of an unknown version, foreign to its backbone, or not writable."""


class ExportError(MaskpackError):
    """A graph cannot be made from this artifact."""


class VerifyError(MaskpackError):
    """An exported graph is outside its tolerance."""


class MissingPackageError(MaskpackError, ImportError):
    """A package that an extra of maskpack brings is not installed; the hint installs it."""


class Interrupted(MaskpackError):  # noqa: N818 - not an error: the user asked for it
    """The user stopped a run; the message names the checkpoint and the hint how to go on."""


@contextmanager
def no_panic() -> Iterator[None]:
    """A panic of a library in Rust becomes a RuntimeError: as it comes it is no `Exception`, and passes every border."""
    try:
        yield
    except BaseException as error:
        # each library has a class of its own, which none exports
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RuntimeError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """First line of an error of a library: the native ones share no base class, and add pages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
