"""What every test begins with: no gin bindings but its own."""

from __future__ import annotations

from collections.abc import Iterator

import gin
import pytest


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    """Bindings, and the record of which of them were read, belong to the whole process: each test leaves none."""
    yield
    gin.clear_config()
