"""The algorithms of docs/adding_an_algorithm.md, in a package outside the repository, train in every mode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.algos.registry import ALGOS
from binaries import settings
from binaries.experiment import Plan
from binaries.run_folder import OPERATIVE
from configs import registry as configs
from pipeline import index
from pipeline.types import UserError
from tests.configs.test_conformance import MODES, QUICK, learn
from tests.limits import LIMIT_S

PAGE = (index.ROOT / "docs" / "adding_an_algorithm.md").read_text()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds my_package, as the page writes it."""
    folder = tmp_path_factory.mktemp("outside") / "my_package"
    folder.mkdir()
    folder.joinpath("__init__.py").touch()
    # The file's name stands in the heading or the sentence above.
    for name, block in re.findall(r"`my_package/(\w+\.\w+)`[^`]*```\w+\n(.*?)```", PAGE, re.DOTALL):
        folder.joinpath(name).write_text(block)
    return folder.parent


@pytest.fixture(scope="module")
def imported(package: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        patch.setattr(index, "_added", {})
        patch.setattr(configs, "_folders", [configs.FOLDER])
        patch.setattr(ALGOS, "_imported", dict(ALGOS._imported))
        for module in ("my_package.soft_q", "my_package.warm_dqn"):
            configs.add(index.add(module).parent)
        yield


def command(package: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "binaries.train", *flags]
    path = f"{index.ROOT}:{package}"
    return subprocess.run(
        program, cwd=index.ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=LIMIT_S
    )


def test_the_command_line_of_the_page_trains_it(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    [line] = re.findall(r"\./run train (--import=my_package.soft_q .*?) --output_dir", PAGE)
    quick = ["--train_steps=2000", "--eval_episodes=1", "--test_episodes=2"]
    done = command(package, *line.split(), f"--output_dir={output}", *quick)
    assert done.returncode == 0, done.stderr
    [*_, last] = (output / "results.jsonl").read_text().splitlines()
    result = json.loads(last)
    assert result["kind"] == "test"
    assert result["updates"] > 900


def test_the_command_line_of_the_small_variant_trains_it_and_shows_what_holds(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    [line] = re.findall(r"\./run train (--import=my_package.warm_dqn .*?) --output_dir", PAGE)
    quick = ["--train_steps=1300", "--eval_episodes=1", "--test_episodes=2", "--hparam_override=DQN.n_step=3"]
    done = command(package, *line.split(), f"--output_dir={output}", *quick)
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", row.strip()) for row in done.stdout.splitlines() if row.startswith("  WarmDQN.")]
    shown = {name.partition(".")[2]: (value, origin) for name, value, origin in rows}
    assert shown["n_step"] == ("3", "--hparam_override (DQN)")
    assert shown["learning_rate"] == ("0.002", "warm_dqn_cartpole.gin:6")
    assert shown["double"][0] == "True"
    assert re.fullmatch(r"dqn_cartpole\.gin:\d+ \(DQN\)", shown["double"][1])
    assert not any(row.startswith("  DQN.") for row in done.stdout.splitlines())
    assert "windows of 4 rows" in done.stdout
    recorded = json.loads((output / "run.json").read_text())["settings"]
    operative = {b.name: b.value for b in settings.read_bindings((output / OPERATIVE).read_text(), "gin")}
    assert {name: recorded[f"WarmDQN.{name}"] for name in shown} == {name: value for name, (value, _) in shown.items()}
    assert all(repr(operative[name]) == value for name, value in recorded.items())
    # Defaults that its constructor's **settings hide are there too.
    assert operative["WarmDQN.act_select"] == "epsilon"
    assert set(operative) > {f"WarmDQN.{name}" for name in settings.entries()["DQN"].parameters}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("imported")
def test_it_learns_in_every_mode(mode: str, tmp_path: Path) -> None:
    small = ["SoftQ.min_replay_size=64", "SoftQ.batch_size=16"]
    check_learns("soft_q_cartpole", mode, small, tmp_path / "replay")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("imported")
def test_the_small_variant_learns_in_every_mode(mode: str, tmp_path: Path) -> None:
    small = ["DQN.min_replay_size=64", "WarmDQN.batch_size=16"]
    check_learns("warm_dqn_cartpole", mode, small, tmp_path / "replay")


def check_learns(hparams: str, mode: str, small: list[str], scratch: Path) -> None:
    """The parts of `hparams`, made `small`, learn for two calls."""
    read = settings.read(hparams, [*QUICK, *small, f"Learner.xla={MODES[mode]}"], {})
    settings.apply(read)
    parts = Plan("local", single=mode == "seeds_loop").build(scratch)
    try:
        settings.check_all_read(read)
        learn(parts, calls=2)
    finally:
        parts.close()


@pytest.mark.usefixtures("imported")
def test_its_settings_are_checked_like_ours() -> None:
    with pytest.raises(UserError, match="SoftQ has no parameter 'temprature'; did you mean temperature"):
        settings.read("soft_q_cartpole", ["SoftQ.temprature=1.0"], {})


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("my_package.soft_p", "There is no module 'my_package.soft_p' to import"),
        ("nowhere.at_all", "There is no module 'nowhere.at_all' to import"),
    ],
)
def test_a_module_that_does_not_exist_is_one_sentence(
    package: Path, module: str, sentence: str, tmp_path: Path
) -> None:
    done = command(package, f"--import={module}", "--hparams=dqn_cartpole", f"--output_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"train: {sentence}")
    assert len(done.stderr.splitlines()) == 1
