"""README lists as learnt what a page has results of, with the command, and everything else apart."""

from __future__ import annotations

import re

import pytest

from binaries import settings
from configs import registry as configs
from pipeline.index import ROOT

PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/algorithms").glob("*.md"))]
COMMAND = re.compile(r"\./run train --hparams=(\w+)")
RESULT = re.compile(r"\d \+- \d")


def results(text: str) -> set[str]:
    """The hyper-parameters of which a page has a table of results, under their command or in a row of their own."""
    found: set[str] = set()
    commands: set[str] = set()
    tabled = False
    for line in text.splitlines():
        if line.startswith("|"):
            tabled = True
            if RESULT.search(line):
                found |= commands | set(re.findall(r"^\| `(\w+)` \|", line))
        elif line.startswith("#") or (tabled and COMMAND.search(line)):
            commands, tabled = set(), False
        # Commands without a table between them share the next one.
        commands |= set(COMMAND.findall(line))
    return found


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("    ./run train --hparams=a --copies=3\n\n| seed | return |\n|---|---|\n| 0 | 500.0 +- 0.0 |\n", {"a"}),
        ("    ./run train --hparams=a\n    ./run train --hparams=b\n\n| 0 | 1.0 +- 0.0 | 2.0 +- 0.0 |\n", {"a", "b"}),
        ("    ./run train --hparams=a\n\n| 0 | 1.0 +- 0.0 |\n\n    ./run train --hparams=b\n\n| b | 3 |\n", {"a"}),
        ("    ./run train --hparams=a\n\nIt learns.\n", set()),
        ("    ./run train --hparams=a\n\n## Next\n\n| 0 | 1.0 +- 0.0 |\n", set()),
        ("| `a` | 50,000 | 500.0 +- 0.0 (0) |\n| `b` | 50,000 | |\n", {"a"}),
    ],
)
def test_a_result_is_a_table_under_its_command(text: str, names: set[str]) -> None:
    assert results(text) == names


def listed() -> tuple[list[str], list[str]]:
    """README's hyper-parameters: those that were trained to their end, and those that were not yet."""
    section = (ROOT / "README.md").read_text().partition("\n## What learns\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ") and "`" in line]
    trained, untrained = ([name for row in rows for name in re.findall(r"`(\w+)`", row[i])] for i in (2, 3))
    return trained, untrained


def test_readme_lists_as_learnt_what_has_a_table_of_results() -> None:
    trained, untrained = listed()
    with_results = set().union(*(results(page.read_text()) for page in PAGES))
    assert set(trained) <= with_results
    assert not set(untrained) & with_results


def test_readme_lists_every_experiment_once() -> None:
    trained, untrained = listed()
    experiments = [name for name in configs.names() if "Experiment.environment" in settings.read(name, [], {})]
    assert sorted(trained + untrained) == experiments


def test_what_was_not_trained_to_its_end_says_so_in_its_file() -> None:
    texts = {name: configs.path(name).read_text().replace("\n#", "") for name in configs.names()}
    said = {name for name, text in texts.items() if re.search("Not (yet )?trained to its end", text)}
    assert said == set(listed()[1])
