"""The command in a process that is forked from one which has imported it: fractions of a second instead of a second.

What reads the environment when it is imported, as `huggingface_hub` does, is imported by the fork.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from outcome import Outcome

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["pytest", "numpy", "requests", "httpx", "safetensors", "maskpack.cli.app"]
)


def compress(arguments: Sequence[object], folder: Path, env: Mapping[str, str]) -> Outcome:
    """What the command leaves behind that is called in a folder, with that environment and no other."""
    streams = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err")]
    words = [str(each) for each in arguments]
    process = SERVER.Process(target=_call, args=(words, str(folder), dict(env), *map(str, streams)))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    out, err = (path.read_text() for path in streams)
    return Outcome(process.exitcode, out, err)


def _call(words: list[str], folder: str, env: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # the library keeps whole chunks of a download: 10 MB are more than a tiny model has
    from huggingface_hub import constants

    from maskpack.cli.app import main

    constants.DOWNLOAD_CHUNK_SIZE = 512
    sys.argv = ["compress", *words]
    main()
