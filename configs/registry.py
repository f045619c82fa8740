"""Hyper-parameter files by name, --hparams=dqn_cartpole is configs/dqn_cartpole.gin, or by path: ./mine.gin."""

from __future__ import annotations

from pathlib import Path

from pipeline import index
from pipeline.types import UserError

FOLDER = Path(__file__).absolute().parent
_folders = [FOLDER]


def add(folder: Path) -> None:
    """Makes the files of `folder` known too; those of this one come first."""
    if folder not in _folders:
        _folders.append(folder)


def names() -> list[str]:
    """Every set of hyper-parameters."""
    return sorted({path.stem for folder in _folders for path in folder.glob("*.gin")})


def path(name: str) -> Path:
    """The file of `name`; raises UserError, with the near names, where there is none."""
    if name not in names():
        raise UserError(f"There are no hparams '{name}'; {index.near(name, names())}")
    return next(path for folder in _folders if (path := folder / f"{name}.gin").exists())


def paths(hparams: str) -> list[Path]:
    """The files that names and paths joined by '-' stand for; raises UserError where there is none.

    What has a '-' in it is taken whole where it exists.
    """
    return [Path(part) if part.endswith(".gin") else path(part) for part in _parts(hparams)]


def absolute(hparams: str) -> str:
    """`hparams` with paths that mean the same in every folder."""
    return "-".join(_parts(hparams))


def included(name: str, by: Path | None) -> Path:
    """The file of an `include`: beside the file that includes it, or else by its name."""
    beside = None if by is None else (by.parent / name).resolve()
    return beside if beside is not None and beside != by and beside.is_file() else path(Path(name).stem)


def _parts(hparams: str) -> list[str]:
    """Names, and whole paths of files."""
    words = hparams.split("-")
    parts: list[str] = []
    while words:
        found = ((n, part) for n in range(len(words), 0, -1) if (part := _part("-".join(words[:n]))))
        taken, part = next(found, (0, words[0]))
        rest = "-".join(words)
        if not taken and ("/" in rest or ".gin" in rest):
            raise UserError(f"There is no file '{rest.partition('.gin')[0]}.gin' for --hparams.")
        parts.append(part)
        words = words[max(taken, 1) :]
    return parts


def _part(text: str) -> str | None:
    """`text` where it is a name, the whole path where it is a file; None where it is neither."""
    if text in names():
        return text
    if not text.endswith(".gin") and "/" not in text:
        return None
    name = text.removesuffix(".gin")
    file = Path(f"{name}.gin").expanduser().resolve()
    return str(file) if file.is_file() else _part(name) if name != text else None
