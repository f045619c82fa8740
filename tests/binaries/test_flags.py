"""The flags are shown in groups, and the README lists them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dm_env.specs import Array, DiscreteArray

from agents.algos.ppo import PPO
from agents.models.registry import MODELS
from binaries import flags
from configs import registry as configs
from pipeline import index
from pipeline.index import ROOT
from pipeline.types import UserError
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
    assert own == {**flags.GROUPS, "This program": ("drop_replay", "replay")}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The flags of a command line."""

    def parse(*words: str) -> dict[str, Any]:
        flags.FLAGS.unparse_flags()
        monkeypatch.setattr(sys, "argv", ["train"])
        return flags.parse(["train", "--hparams=dqn_cartpole", *words]).flags

    return parse


@pytest.mark.parametrize("form", ["--render={}", "--render {}", "-render={}"])
@pytest.mark.parametrize(
    ("word", "value"),
    [(word, True) for word in ("yes", "Yes", "on", "1", "true", "True", "t", "y")]
    + [(word, False) for word in ("no", "NO", "off", "0", "false", "False", "f", "n")],
)
def test_yes_and_no_may_be_written_in_every_way(
    parsed: Callable[..., dict[str, Any]], form: str, word: str, value: bool
) -> None:
    assert parsed(*form.format(word).split())["render"] is value


def test_absls_own_ways_to_write_a_flag_work_too(parsed: Callable[..., dict[str, Any]]) -> None:
    assert parsed("--notraining", "--quiet", "--seed", "3") | {"training": False, "quiet": True, "seed": 3} == parsed(
        "--training=no", "--quiet=on", "--seed=3"
    )


@pytest.mark.parametrize("form", ["--train_steps={}", "--train_steps {}"])
@pytest.mark.parametrize(("word", "value"), [("1e5", 100_000), ("2.5e3", 2_500), ("100_000", 100_000), ("1E+2", 100)])
def test_a_whole_number_may_be_written_with_an_exponent(
    parsed: Callable[..., dict[str, Any]], form: str, word: str, value: int
) -> None:
    assert parsed(*form.format(word).split())["train_steps"] == value


@pytest.mark.parametrize("word", ["1.5", "1e-3", "1e999", "nan", "many"])
def test_what_is_no_whole_number_is_one_sentence(parsed: Callable[..., dict[str, Any]], word: str) -> None:
    with pytest.raises(UserError, match=rf"^flag --train_steps={word}: .*\.$"):
        parsed(f"--train_steps={word}")


def test_a_flag_that_is_neither_yes_nor_no_is_one_sentence(parsed: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"^flag --training=maybe: "):
        parsed("--training=maybe")


def test_the_list_has_every_value_of_value_model(
    parsed: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed("--list")
    [models] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("models ")]
    assert re.search(r"\bbasic, .*\bshared\b", models)
    assert "shared" not in MODELS.names()
    assert set(PPO(value_model="shared").models(Array((3,), np.float32), DiscreteArray(2))) == {"policy"}


def test_settings_in_quotes_keep_their_semicolons(parsed: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"^There is no environment 'a;b'"):
        parsed("--hparam_override=Experiment.environment='a;b';Experiment.lanes=2")


@pytest.mark.parametrize("name", ["agents", "binaries", "configs", "pipeline", "servers", "benchmarks", "examples"])
@pytest.mark.parametrize("file", ["{}/mine.py", "{}/mine/__init__.py", "{}/dqn_plus.py", "{}/registry.py"])
def test_a_persons_package_with_a_name_of_ours_is_told_so(
    parsed: Callable[..., dict[str, Any]], name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file.format(name)
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.chdir(tmp_path)
    module = ".".join(Path(file.format(name).removesuffix(".py").removesuffix("/__init__")).parts)
    sentence = (
        rf"^Encore's own package '{name}' hides the module '{module}' in {re.escape(str(path))}: give yours another"
    )
    with pytest.raises(UserError, match=sentence):
        parsed(f"--import={module}")
    with pytest.raises(UserError, match=sentence):
        parsed(f"--env={module}:Maze")


def test_a_module_of_our_own_may_be_imported(
    parsed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_added", {})
    monkeypatch.setattr(configs, "_folders", [configs.FOLDER])
    assert parsed("--import=agents.algos.dqn")["import"] == ["agents.algos.dqn"]
