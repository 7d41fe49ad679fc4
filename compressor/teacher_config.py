"""Which model a run learns from, as options. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from maskpack.formats.options import Opt, Options

DENSE_TEACHER, NO_TEACHER = "twin", "none"
"""As `teacher`: fine-tune a dense teacher first, with the same data and budget; learn from the labels alone."""

PEER_TEACHER, SNAPSHOT_TEACHER = "peer", "snapshot"
MASK_TEACHERS = frozenset({PEER_TEACHER, SNAPSHOT_TEACHER})
"""As `teacher` of a mask: another mask that learns in the same steps; the run's own mask at the end of the cycle before."""

NOT_WITH_PEERS = {
    "units": "each of two masks would remove others",
    "continual": "each of two masks would leave tasks of one name",
    "patience": "it ends a run by one mask, and there are two",
    "gradient_checkpointing": "it is a setting of one model, and there are two",
}
"""Options that two peers cannot have -> why."""

TEACHER_WORDS = frozenset({DENSE_TEACHER, NO_TEACHER, *MASK_TEACHERS})
"""Teachers that are no folder."""

OF_ARTIFACT = "#"
"""Between an artifact and one of its tasks, as the name of a teacher."""


def artifact_and_task(teacher: str) -> tuple[str, str]:
    """The folder that a teacher names, and the task of the artifact there; empty where none is named.

    >>> artifact_and_task("old#reviews"), artifact_and_task("old")
    (('old', 'reviews'), ('old', ''))
    """
    folder, mark, task = teacher.rpartition(OF_ARTIFACT)
    return (folder, task) if mark else (teacher, "")


TEACHER_HELP = "Folder of a fine-tuned model to learn from, or ARTIFACT#TASK; `twin` trains one first; or `none`."


@dataclass(frozen=True)
class TeacherConfig(Options):
    """The model that a run learns from, beside the labels."""

    teacher: Annotated[str | None, Opt(TEACHER_HELP, default="none", path=True)] = None
    teacher_share: Annotated[
        float, Opt("Weight of the teacher's logits against the labels.", within="(0, 1]")
    ] = 0.5
    temperature: Annotated[
        float, Opt("Temperature of both softmaxes in distillation.", within="(0, inf)")
    ] = 2.0
    teacher_states: Annotated[
        float | None,
        Opt(
            "Weight of the distance to the teacher's hidden states; 0: logits only.",
            within="[0, inf)",
            default="3, if the shapes agree",
        ),
    ] = None

    def teacher_name(self, finetuned: str | None) -> str | None:
        """Name of the teacher with the default resolved; None: there is none.

        Args:
            finetuned: name of the source model, if it is fine-tuned for the task already.
        """
        del finetuned
        return None if self.teacher == NO_TEACHER else self.teacher
