"""Hyper-parameter files by name: --hparams=dqn_cartpole is configs/dqn_cartpole.gin."""

from __future__ import annotations

from pathlib import Path

from pipeline import index
from pipeline.types import UserError

FOLDER = Path(__file__).absolute().parent


def names() -> list[str]:
    """Every set of hyper-parameters."""
    return sorted(path.stem for path in FOLDER.glob("*.gin"))


def path(name: str) -> Path:
    """The file of `name`; raises UserError, with the near names, where there is none."""
    if name not in names():
        raise UserError(f"There are no hparams '{name}'; {index.near(name, names())}")
    return FOLDER / f"{name}.gin"
