"""Runs `train` once for each command line in the JSON list on stdin, in one process; prints what each of them did.

Starting Python and TensorFlow costs seconds and a rejected command line does not: so one process serves many.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import traceback
from typing import Any

from binaries import flags, train


def run(arguments: list[str]) -> dict[str, Any]:
    """Exit code (None for a crash), what came out on each stream, and whether TensorFlow was imported by then."""
    flags.FLAGS.unparse_flags()
    # One process serves all commands: the first must not take it out of the machine's network for good.
    sys.argv = ["binaries/train.py", "--private_network=False", *arguments]
    code: Any = None
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # The program itself moves file descriptor 2 and replaces sys.stderr.
        streams, kept = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code = flags.answer(train.main)
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
        finally:
            # What the program leaves behind ends now, as with its process: where its native log still listens.
            gc.collect()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = streams
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return {"code": code, "stdout": texts[0], "stderr": texts[1], "tensorflow": "tensorflow" in sys.modules}


if __name__ == "__main__":
    json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
