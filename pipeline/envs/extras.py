"""Packages of optional worlds: imported where they are used, and missed in one sentence."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.types import UserError


def need(module: str, extra: str) -> Any:
    """Imports `module`; where it is not installed, raises UserError with the command that installs its extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"This environment needs {module}, which is not installed ({error}): ./setup.sh --with={extra} installs it."
        ) from error
