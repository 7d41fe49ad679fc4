"""Every error a user can cause, as one small tree.

    MaskpackError             base: `message` is the fact, `hint` the next thing to do
    |- ConfigError            an option is out of range, or two options contradict each other
    |- ModelError             the source model or its tokenizer cannot be used
    |- DataError              a data file, column, label or split is wrong
    |- ArtifactError          an artifact is damaged, foreign, or cannot be written
    |- ExportError            a graph cannot be made from this artifact
    |- VerifyError            a graph is outside its tolerance
    `- Interrupted            the user stopped a run; its checkpoint was kept

Messages are lower case, without a full stop, with back-quotes round literals.
`assert` is for our own bugs; these classes are for everything else.
"""

from __future__ import annotations


class MaskpackError(Exception):
    """A fact with names and numbers (`str(error)`) and, where there is one, the next step."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


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


class Interrupted(MaskpackError):  # noqa: N818 - not an error: the user asked for it
    """The user stopped a run; the message names the checkpoint and the hint how to go on."""
