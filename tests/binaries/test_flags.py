"""The flags are shown in groups, and the README lists them."""

from __future__ import annotations

import re

from binaries import flags
from pipeline.index import ROOT
from tests.binaries.programs import run


def test_every_flag_is_in_one_group_and_in_the_readme() -> None:
    grouped = [name for names in flags.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(flags._names())
    table = (ROOT / "README.md").read_text().partition("## Flags")[2].partition("\n## ")[0]
    assert re.findall(r"`--(\w+)`", table) == grouped


def test_help_has_a_line_for_each_flag_below_its_group() -> None:
    ended = run("binaries.learner", "--help")
    assert (ended.code, ended.stderr) == (0, "")
    groups = dict(re.findall(r"(?m)^(\w[\w ]+):\n((?:  --.*\n)+)", ended.stdout))
    own = {title: tuple(re.findall(r"(?m)^  --(\w+) +\S", lines)) for title, lines in groups.items()}
    assert own == {**flags.GROUPS, "This program": ("replay",)}
