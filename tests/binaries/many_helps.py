"""Runs each command line in the JSON list on stdin, [module, words...], as `python -m` does; prints what each did.

Each is a fork of this process, which has imported what all programs begin with: Python need not start for each.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NoReturn

# Whose import is most of a program's start; they define no flags.
import absl.flags
import gin
import numpy as np
import typeguard

SHARED = (absl.flags, gin, np, typeguard)


def ran(module: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Exit code, what came out on each stream, and whether TensorFlow was imported."""
    child = os.fork()
    if not child:
        run(module, words, folder)
    _, status = os.waitpid(child, 0)
    streams = {name: (folder / name).read_text() for name in ("stdout", "stderr", "heavy")}
    return {"code": os.waitstatus_to_exitcode(status), **streams}


def run(module: str, words: list[str], folder: Path) -> NoReturn:
    """In the fork: the program, and its end."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    (folder / "heavy").write_text("it ended at once")
    code: Any = 1
    try:
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
        (folder / "heavy").write_text(" ".join(sorted({"tensorflow", "reverb"} & set(sys.modules))))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Not a TemporaryDirectory, which a fork that ends would remove.
    scratch = Path(tempfile.mkdtemp())
    json.dump([ran(module, words, scratch) for module, *words in json.load(sys.stdin)], sys.stdout)
    shutil.rmtree(scratch)
