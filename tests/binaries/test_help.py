"""Every program and every benchmark says what its flags are, at once, whatever word asks for it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from binaries import flags
from pipeline.index import ROOT
from tests.binaries.conftest import Once
from tests.binaries.programs import run

FILES = [file for folder in ("binaries", "benchmarks") for file in sorted((ROOT / folder).glob("*.py"))]
SOURCES = {f"{file.parent.name}.{file.stem}": file.read_text() for file in FILES}
PROGRAMS = [module for module, source in SOURCES.items() if '\nif __name__ == "__main__"' in source]
WORDS = ("--help", "-h", "--helpshort", "--helpfull")
OF_A_RUN = {"binaries.actor", "binaries.evaluator", "binaries.learner", "binaries.replay_server", "binaries.train"}
"""programs that take all the flags of a run"""
Answers = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def answers(once: Once) -> Answers:
    """What each program said to each word."""
    commands = [(module, word) for module in PROGRAMS for word in (*WORDS, "--no_such_flag=3")]

    def fill(folder: Any) -> None:
        ended = run("tests.binaries.many_helps", stdin=json.dumps(commands))
        assert ended.code == 0, ended.stderr
        (folder / "answers.json").write_text(ended.stdout)

    found = json.loads((once("helps", fill) / "answers.json").read_text())
    said: Answers = {module: {} for module in PROGRAMS}
    for (module, word), answer in zip(commands, found, strict=True):
        said[module][word] = answer
    return said


def test_there_are_programs_and_benchmarks() -> None:
    assert {"binaries.train", "binaries.report", "benchmarks.throughput", "benchmarks.worlds"} <= set(PROGRAMS)


@pytest.mark.parametrize("module", PROGRAMS)
def test_every_word_for_help_lists_the_programs_flags_and_nothing_else_happens(module: str, answers: Answers) -> None:
    source = SOURCES[module]
    own = set(re.findall(r'(?:DEFINE_\w+|declare_key_flag)\(\s*"(\w+)"', source))
    shared = {name for names in flags.GROUPS.values() for name in names} if module in OF_A_RUN else set()
    for word in WORDS:
        answer = answers[module][word]
        assert (answer["code"], answer["stderr"], answer["heavy"]) == (0, "", ""), word
        assert answer["stdout"] == answers[module]["--help"]["stdout"]
    title, *lines = answers[module]["--help"]["stdout"].splitlines()
    assert title == source.splitlines()[0].strip('"')
    listed = re.findall(r"(?m)^  --(\w+) +\S", "\n".join(lines))
    assert len(listed) == len(set(listed))
    assert own | shared <= set(listed)
    assert own or shared


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_flag_that_a_program_does_not_have_is_one_sentence(module: str, answers: Answers) -> None:
    answer = answers[module]["--no_such_flag=3"]
    assert answer["code"] == 2
    assert re.fullmatch(r"\w+: There is no flag --no_such_flag; [^\n]*\n", answer["stderr"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["binaries.report", "--hparams=dqn_cartpole"], "report: There is no flag --hparams; there are: to."),
        (["benchmarks.time_to_return", "--work=dqn_cartpole"], "time_to_return: There is no flag --work; "),
        (["benchmarks.overhead", "--env=CartPole-v1"], "overhead: There is no flag --env; there are: rounds."),
        (["benchmarks.overhead", "3"], "overhead: '3' is no flag: flags are written --name=value."),
        (["benchmarks.overhead", "--rounds=0"], "overhead: flag --rounds=0: 0 is not a positive integer."),
        (["benchmarks.worlds", "--world=nowhere"], "worlds: There is no world 'nowhere'; there are: "),
        (["binaries.export", "--too=x"], "export: There is no flag --too; did you mean to?"),
        (["binaries.export", "x"], "export: 'x' is no flag: flags are written --name=value."),
    ],
)
def test_a_flag_that_only_others_have_is_refused(words: list[str], sentence: str) -> None:
    ended = run("tests.binaries.many_helps", stdin=json.dumps([words]))
    [answer] = json.loads(ended.stdout)
    assert answer["code"] == 2
    assert answer["stderr"].startswith(sentence)
    assert answer["stderr"].count("\n") == 1


def test_what_follows_two_dashes_is_another_programs() -> None:
    ended = run("tests.binaries.many_helps", stdin=json.dumps([["binaries.tunnel", "--", "./run", "actor", "--help"]]))
    [answer] = json.loads(ended.stdout)
    assert answer["code"] == 2
    assert answer["stderr"].startswith("tunnel: Choose --accept=PORT")
