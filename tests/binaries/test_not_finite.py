"""A policy that is not finite is no result: what is said of it, written, shown, kept and exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.learner import Learner
from binaries import report
from binaries.actor import Loop
from binaries.evaluation import NOT_FINITE
from servers.checkpoint import Checkpoints
from tests.binaries.programs import run
from tests.binaries.test_environments_of_a_run import a_run
from tests.binaries.units import results
from tests.configs.test_conformance import parts_of


def poison(learner: Learner) -> None:
    """Some weights that rectifiers hide, and some that they do not."""
    for model in learner.params.online.values():
        for variable in model.variables[:1] + model.variables[-1:]:
            variable.assign(np.full(variable.shape, np.nan))


def test_evaluations_and_the_test_are_marked_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with a_run(tmp_path, "Counted", "Experiment.eval_policy='sampled'") as made:
        made._evaluate()
        best = made._best.steps()
        assert best
        shutil.rmtree(tmp_path / "best")
        made._best_score = -np.inf
        poison(made._agent.learner)
        capsys.readouterr()
        made._evaluate()
        made.test()
    evaluation, test = capsys.readouterr().out.splitlines()
    assert evaluation.startswith("evaluation at 0 steps: ")
    for line in (evaluation, test):
        assert NOT_FINITE in line
        assert "; NO RESULT: in " in line
    sound, *marked = results(tmp_path)
    assert sound["not_finite_steps"] == 0
    assert all(line["not_finite_steps"] > 0 for line in marked)
    assert {line["kind"] for line in marked} == {"eval", "test"}
    assert not list((tmp_path / "best").glob("step-*")), "It is nobody's best network."
    (one,) = report.group([report.read(tmp_path)])
    assert len(one.runs[0].evaluations) == 1
    assert (one.scores, report.summary(one)) == ([], "no run has a result")
    for page in (report.PAGE, report.TABLE):
        assert "no result: " in (tmp_path / page).read_text()


def test_an_actor_of_several_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    loop: Any = object.__new__(Loop)
    loop._name, loop._has_warned = "Actor 3", False
    loop._actor = SimpleNamespace(act=lambda state: state, not_finite=0)
    for loop._actor.not_finite in (0, 1, 2):
        assert loop._act(7) == 7
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("WARNING: Actor 3: what the policy says is not finite")


@pytest.mark.slow
def test_a_checkpoint_of_nan_is_tested_with_a_mark_and_not_exported(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--hparams=ppo_cartpole", "--train_steps=1100", "--eval_episodes=1", "--test_episodes=1"]
    flags += [f"--output_dir={folder}", "--hparam_override=Learner.xla=False"]
    trained = run("binaries.train", *flags)
    assert trained.code == 0, trained.stderr
    checkpoints = Checkpoints(folder / "checkpoints", 3, pytest.fail)
    unit = checkpoints.latest()
    assert unit is not None

    with parts_of("ppo_cartpole", "inline_without_xla", tmp_path / "replay") as (_, parts):
        learner = parts.agent.learner
        learner.read(unit.path / "learner")
        poison(learner)

        def write(to: Path) -> None:
            learner.write(to / "learner")
            for name in ("replay", "acting.pickle"):
                if (unit.path / name).is_dir():
                    shutil.copytree(unit.path / name, to / name)
                elif (unit.path / name).exists():
                    shutil.copy(unit.path / name, to / name)

        checkpoints.save(unit.step + 1, write, unit.state)
    tested = run("binaries.train", *flags, "--training=False", "--quiet")
    assert tested.code == 0, tested.stderr
    assert NOT_FINITE in tested.stdout.splitlines()[-1]
    assert results(folder)[-1]["not_finite_steps"] > 0
    exported = run("binaries.export", f"--output_dir={folder}", f"--to={tmp_path / 'model'}")
    assert exported.code == 2
    assert "holds numbers that are not finite (nan or inf): export the best, with --best." in exported.stderr
    assert not (tmp_path / "model").exists()
    best = run("binaries.export", f"--output_dir={folder}", f"--to={tmp_path / 'model'}", "--best")
    assert best.code == 0, best.stderr
    resumed = run("binaries.train", *flags[:1], "--train_steps=2000", *flags[2:])
    assert resumed.code == 1
    assert "they were restored so" in resumed.stderr
