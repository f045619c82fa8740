"""Checks of what a person sets."""

from __future__ import annotations

from pipeline.types import UserError


def check_positive(owner: str, **values: float) -> None:
    """Raises UserError, naming `owner` and the value, where one is not above 0."""
    for name, value in values.items():
        if value <= 0:
            raise UserError(f"{owner}.{name} is {value}: it must be positive.")


def check_fraction(owner: str, **values: float) -> None:
    """Raises UserError, naming `owner` and the value, where one lies outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{owner}.{name} is {value}: it must lie in [0, 1].")
