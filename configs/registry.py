"""Hyper-parameter files by name: --hparams=dqn_cartpole is configs/dqn_cartpole.gin."""

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
