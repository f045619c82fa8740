"""What a user of an environment should know, and hears once."""

from __future__ import annotations

from collections.abc import Iterable

_said: set[str] = set()


def say_once(text: str) -> None:
    """Prints a warning, unless this process did before."""
    if text not in _said:
        _said.add(text)
        print(f"WARNING: {text}", flush=True)


def said() -> frozenset[str]:
    """What was said so far."""
    return frozenset(_said)


def keep_quiet_of(texts: Iterable[str]) -> None:
    """Another process said `texts` already."""
    _said.update(texts)
