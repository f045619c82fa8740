"""Compares what is installed in a site-packages folder with a uv.lock, one package a line, for setup.sh.

    python tools/installed.py uv.lock .venv/lib/python3.11/site-packages

`broken NAME`: the lock names it, and files that it recorded are missing or of another size. Packages that share a
folder do this to each other: pygame-ce overwrites pygame's files, and takes them along when it is removed.
`beside NAME==VERSION`: the lock does not name it; somebody installed it, or an older lock did.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path


def main() -> None:
    lock, site = Path(sys.argv[1]), Path(sys.argv[2])
    locked = set(re.findall(r'^name = "(.*)"$', lock.read_text(), re.MULTILINE))
    recorded: dict[str, list[tuple[str, int | None]]] = {}
    for folder in sorted(site.glob("*.dist-info")):
        distribution, _, version = folder.name[: -len(".dist-info")].partition("-")
        name = re.sub(r"[-_.]+", "-", distribution).lower()
        if name in locked:
            recorded[name] = files(folder / "RECORD")
        else:
            print(f"beside {name}=={version}")
    # Two locked packages may share a file; it has the size that one of them recorded.
    sizes: dict[str, set[int | None]] = {}
    for entries in recorded.values():
        for path, size in entries:
            sizes.setdefault(path, set()).add(size)
    for name, entries in recorded.items():
        if not entries or any(not is_whole(site / path, sizes[path]) for path, _ in entries):
            print(f"broken {name}")


def files(record: Path) -> list[tuple[str, int | None]]:
    """The paths of a RECORD and their sizes in bytes, None where it has none; nothing where there is no RECORD."""
    if not record.is_file():
        return []
    with record.open(newline="") as lines:
        # Bytecode is written anew by other versions of Python.
        return [(row[0], int(row[2]) if row[2] else None) for row in csv.reader(lines) if not row[0].endswith(".pyc")]


def is_whole(path: Path, sizes: set[int | None]) -> bool:
    """Whether the file is there, with one of these sizes."""
    return path.is_file() and (None in sizes or path.stat().st_size in sizes)


if __name__ == "__main__":
    main()
