"""What a run does with its environments: it opens what it needs, closes all of it, and hears a signal between them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from binaries import settings
from binaries.experiment import Experiment, Plan
from binaries.run_folder import RunFolder
from binaries.signals import STOPPED
from binaries.train import Run, _warn_of_no_update
from pipeline.types import UserError
from pipeline.waiting import Stopped
from servers.checkpoint import Checkpoints
from tests.binaries import habits
from tests.binaries.units import results

SMALL = (
    "PPO.rollout_length=8",
    "PPO.batch_size=16",
    "PPO.epochs=1",
    "Learner.xla=False",
    "MLP.hidden_sizes=(8,)",
    "Experiment.lanes=2",
    "Experiment.train_steps=100",
    "Experiment.eval_period=40",
    "Experiment.eval_episodes=3",
    "Experiment.test_episodes=4",
)
ONE = ("Experiment.lanes=1", "Experiment.exclusive_environment=True", "PPO.batch_size=8")


@pytest.fixture(autouse=True)
def none_open() -> Iterator[None]:
    for kind in vars(habits).values():
        if isinstance(kind, type) and issubclass(kind, habits.Counted):
            kind.opened.clear()
            kind.most = 0
    yield
    habits.Interrupting.hooks.clear()


class Asked:
    """What `binaries.signals.Stop` says, as a test wants it."""

    leave = None

    def __init__(self) -> None:
        self.said = False

    def __call__(self) -> bool:
        return self.said


@contextlib.contextmanager
def a_run(folder: Path, habit: str, *overrides: str, stop: Asked | None = None) -> Iterator[Run]:
    """The run of `habit` in `folder`, put together as `train` does."""
    stop = stop or Asked()
    folder.mkdir(parents=True, exist_ok=True)
    environment = f"Experiment.environment='tests.binaries.habits:{habit}'"
    read = settings.read("ppo_cartpole", [environment, *SMALL, *overrides], {})
    settings.apply(read)
    plan = Plan("local", stop=stop)
    try:
        parts = plan.build(folder / "checkpoints/replay.new")
    except UserError:
        plan.close()
        raise
    try:
        run_folder = RunFolder(str(folder), read)
        run_folder.write({}, settings.operative(), read)
        checkpoints = Checkpoints(run_folder.checkpoints, 3, pytest.fail)
        unit = checkpoints.to_resume(False)
        yield Run(parts, run_folder, checkpoints, unit, stop=stop, quiet=True, videos=None, profile=None)  # pyright: ignore[reportArgumentType]
    finally:
        parts.close()


def test_every_environment_is_closed_after_a_training_and_its_test(tmp_path: Path) -> None:
    with a_run(tmp_path, "Counted") as run:
        assert run.train()
        assert habits.Counted.most == 2 + 3, "Those of the test are made when they are needed."
        run.test()
        # Training's and evaluation's are gone by then.
        assert habits.Counted.most == 2 + 3
        assert len(habits.Counted.opened) == 4
    assert not habits.Counted.opened
    assert not (tmp_path / "checkpoints/replay.new").exists()


@pytest.mark.parametrize("error", [RuntimeError, UserError, KeyboardInterrupt])
def test_every_environment_is_closed_where_a_run_breaks_off(tmp_path: Path, error: type[BaseException]) -> None:
    def break_off() -> None:
        with a_run(tmp_path, "Counted") as run:
            run._evaluate()
            assert len(habits.Counted.opened) == 2 + 3
            raise error("here")

    with pytest.raises(error):
        break_off()
    assert not habits.Counted.opened


def test_every_environment_is_closed_where_a_run_cannot_be_put_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must divide"), a_run(tmp_path, "Counted", "PPO.batch_size=7"):
        pass
    assert not habits.Counted.opened


def test_an_environment_that_cannot_be_closed_is_a_warning_and_the_others_are_closed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with a_run(tmp_path, "Unclosable") as run:
        run.train()
        run.test()
    assert not habits.Unclosable.opened
    warning = "WARNING: an environment could not be closed (RuntimeError: already closed).\n"
    assert warning in capfd.readouterr().out
    assert [line["kind"] for line in results(tmp_path)][-1] == "test"


def test_an_environment_of_which_one_may_exist_is_evaluated_in_turn_with_the_training(tmp_path: Path) -> None:
    with a_run(tmp_path, "Single", *ONE) as run:
        assert run.train()
        run.test()
        # An evaluation every 40 steps cut the episode of 10 that was under way, if there was one; none was longer.
        assert {length for _, length in run._agent.actor.finished} <= {10}
    assert habits.Single.most == 1
    assert [line["kind"] for line in results(tmp_path)] == ["eval", "eval", "eval", "test"]
    assert all(line["mean_return"] == 10.0 for line in results(tmp_path))


def test_what_to_set_is_said_where_a_second_environment_cannot_be_made(tmp_path: Path) -> None:
    advice = r"set Experiment\.exclusive_environment=True and Experiment\.lanes=1\."
    with (
        pytest.raises(UserError, match=rf"Of 2 environments 1 could be made .*Address already in use.* {advice}"),
        a_run(tmp_path, "Single"),
    ):
        pass
    with (
        pytest.raises(UserError, match=rf"cannot be made beside training's .*Address already in use.* {advice}"),
        a_run(tmp_path, "Single", "Experiment.lanes=1", "PPO.batch_size=8"),
    ):
        pass
    assert not habits.Single.opened
    with pytest.raises(UserError, match=r"allows one environment and Experiment\.lanes is 2"):
        Experiment(exclusive_environment=True, lanes=2)


def test_an_evaluation_without_an_end_is_cut_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_run(tmp_path, "Endless", "Experiment.eval_episode_steps=25") as run:
        run._progress._quiet = False
        run._evaluate()
        run.test()
    evaluation, test = results(tmp_path)
    assert (evaluation["mean_return"], evaluation["cut_episodes"]) == (25.0, 3)
    assert (test["mean_return"], test["cut_episodes"]) == (25.0, 4)
    said = capsys.readouterr().out
    assert "over 3 episodes; 3 cut after 25 steps (Experiment.eval_episode_steps)" in said
    assert "over 4 greedy episodes; 4 cut after 25 steps (Experiment.eval_episode_steps)" in said


def asked_at(step: int, stop: Asked) -> Callable[[], None]:
    """Has the process asked to stop in the environments' step of that number."""
    steps = iter(range(1, 10**9))

    def at_step() -> None:
        stop.said |= next(steps) == step

    return at_step


def test_an_evaluation_hears_a_signal_between_two_environments_and_is_made_up_for(tmp_path: Path) -> None:
    stop = Asked()
    with a_run(tmp_path, "Interrupting", stop=stop) as run:
        # 40 steps of the training, then the first environment of three.
        habits.Interrupting.hooks[:] = [asked_at(40 + 1, stop)]
        assert not run.train()
    assert results(tmp_path) == []
    assert not habits.Interrupting.opened
    unit = Checkpoints(tmp_path / "checkpoints", 3, pytest.fail).latest()
    assert unit is not None
    assert unit.step == 40
    with a_run(tmp_path, "Interrupting") as run:
        assert run.train()
    assert [line["env_steps"] for line in results(tmp_path)] == [40, 80, 100]


def test_the_test_hears_a_signal_and_leaves_no_line(tmp_path: Path) -> None:
    stop = Asked()
    with a_run(tmp_path, "Interrupting", stop=stop) as run:
        assert run.train()
        habits.Interrupting.hooks[:] = [asked_at(2, stop)]
        with pytest.raises(Stopped):
            run.test()
    assert "test" not in [line["kind"] for line in results(tmp_path)]
    assert not habits.Interrupting.opened


def test_a_step_that_does_not_come_back_after_a_signal_ends_the_run_unsaved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with a_run(tmp_path, "Counted") as run:
        now = time.monotonic()
        for later, saving, ends in ((1.0, False, []), (20.0, False, []), (22.0, True, []), (22.0, False, [STOPPED])):
            monkeypatch.setattr(time, "monotonic", lambda later=later: now + later)
            run._saving = saving
            run._leave()
            assert codes == ends
        assert not habits.Counted.opened
    assert capsys.readouterr().out.splitlines() == [
        "Asked to stop: what is under way is finished and saved first.",
        "Stopped, and not saved: what was under way did not come back for 21 s. The last checkpoint stands, and the"
        " same command goes on from it.",
    ]


@pytest.mark.parametrize("name", ["run[1]", "a ?*b", "\\é\u4e2d{x}'\"", "deep/" + "x" * 250])
def test_a_run_goes_on_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    with a_run(folder, "Counted") as run:
        assert run.train()
        weights = [v.numpy() for v in run._agent.learner.params.online["policy"].variables]
    with a_run(folder, "Counted", "Experiment.train_steps=140") as run:
        assert run._steps == 100
        for before, now in zip(weights, run._agent.learner.params.online["policy"].variables, strict=True):
            np.testing.assert_array_equal(before, now.numpy())
        assert run.train()
        run.test()
    assert [line["env_steps"] for line in results(folder)] == [40, 80, 100, 120, 140, 140]


# What was best is of an evaluation that counts.


def best_steps(folder: Path) -> list[int]:
    return Checkpoints(folder / "best", None, pytest.fail).steps()


def evaluated(run: Run, steps: int, score: float) -> None:
    """An evaluation at `steps` environment steps that ends with `score`."""
    run._agent.actor.env_steps = steps
    for evaluator in run._parts.evaluators.values():
        evaluator.run = lambda env_steps=0, told=None: np.full(2, score)
    run._evaluate()


def test_the_best_network_goes_back_with_the_run(tmp_path: Path) -> None:
    with a_run(tmp_path, "Counted") as run:
        evaluated(run, 10, 1.0)
        evaluated(run, 20, 2.0)
        evaluated(run, 25, 1.5)
        run._save()
        evaluated(run, 30, 9.0)
        evaluated(run, 40, 3.0)
        assert best_steps(tmp_path)[-1] == 30
    # Killed here: the evaluation at 30 steps is taken back, and what was best before it stands.
    with a_run(tmp_path, "Counted") as run:
        assert [line["env_steps"] for line in results(tmp_path)] == [10, 20, 25]
        assert best_steps(tmp_path) == [20]
        evaluated(run, 30, 1.9)
        assert best_steps(tmp_path) == [20]
        evaluated(run, 40, 2.1)
        assert best_steps(tmp_path)[-1] == 40


def test_a_run_that_goes_back_to_an_older_checkpoint_has_what_was_best_then(tmp_path: Path) -> None:
    with a_run(tmp_path, "Counted") as run:
        for steps, score in ((10, 1.0), (20, 2.0), (30, 3.0), (40, 4.0)):
            evaluated(run, steps, score)
            run._save()
        # Three checkpoints are kept.
        assert best_steps(tmp_path) == [20, 30, 40]
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    (newest / "manifest.json").unlink()
    with a_run(tmp_path, "Counted") as run:
        assert run._best_score == 3.0
        assert best_steps(tmp_path) == [20, 30]


# Steps that are too few.


def test_a_training_too_short_for_an_update_says_so_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_run(tmp_path, "Counted", "PPO.rollout_length=64", "Experiment.train_steps=100") as run:
        _warn_of_no_update(run._parts)
        assert run.train()
        run.test()
    said = capsys.readouterr().out
    assert "WARNING: nothing will be learnt in 100 steps: the first update comes after 128.\n" in said
    assert "habits:Counted after 100 steps and no update: 10.0" in said


def test_fewer_steps_than_environments_are_refused() -> None:
    with pytest.raises(UserError, match=r"Experiment\.train_steps is 1, and one step of all 8 environments is 8 steps"):
        Experiment(train_steps=1, lanes=8)


@pytest.mark.parametrize(
    ("hparams", "overrides", "first"),
    [
        ("ppo_cartpole", ("Experiment.lanes=8", "PPO.rollout_length=32"), 8 * 32),
        ("dqn_cartpole", ("Experiment.lanes=4", "DQN.min_replay_size=500", "Learner.updates_per_call=8"), 500 + 8),
        ("dqn_cartpole", ("Experiment.lanes=128", "DQN.n_step=10"), 128 * 11),
        ("dqn_cartpole", ("DQN.min_replay_size=1", "DQN.n_step=3", "Learner.updates_per_call=1"), 16 * 4),
    ],
)
def test_the_first_update_comes_when_the_replay_can_give_it(
    tmp_path: Path, hparams: str, overrides: tuple[str, ...], first: int
) -> None:
    quick = ("Learner.xla=False", "MLP.hidden_sizes=(8,)", "Experiment.eval_episodes=1")
    settings.apply(settings.read(hparams, [*quick, *overrides], {}))
    parts = Plan("local").build(tmp_path / "replay")
    try:
        agent, environment = parts.agent, parts.environment
        assert agent.learner.first_due(parts.plan.lanes) == first
        state = environment.reset(0)
        while not agent.learner.updates:
            last_state = state
            action = agent.act(state)
            state, reward, done = environment.step(action)
            agent.observe(last_state, action, reward, done, state)
            agent.update()
        # Steps in which an environment begins anew are none of its own.
        assert first - 2 * parts.plan.lanes <= agent.actor.env_steps <= first + parts.plan.lanes
    finally:
        parts.close()


# Levels that are drawn with the global generators.


def levels(folder: Path, habit: type[habits.Levels], *overrides: str) -> list[tuple[int, int]]:
    """Those that training drew in one life of the run."""
    with a_run(folder, habit.__name__, *overrides) as run:
        habit.drawn.clear()
        run._evaluate()
        evaluation = set(habit.drawn)
        habit.drawn.clear()
        assert run.train()
        return [level for level in habit.drawn if level not in evaluation]


@pytest.mark.parametrize("habit", [habits.Levels, habits.Saved])
def test_levels_of_the_global_generators_go_on_with_the_run(tmp_path: Path, habit: type[habits.Levels]) -> None:
    no_evaluation = "Experiment.eval_period=1_000"
    short, long = (f"Experiment.train_steps={steps}" for steps in (200, 400))
    whole = levels(tmp_path / "whole", habit, long, no_evaluation)
    played = levels(tmp_path / "again", habit, short, no_evaluation)
    assert played == whole[: len(played)]
    assert len(played) > 15
    new = levels(tmp_path / "again", habit, long, no_evaluation)
    assert not set(new) & set(played), "Levels are not played twice."
    if habit is habits.Saved:
        assert [*played, *new] == whole


def test_evaluations_draw_the_same_levels_every_time(tmp_path: Path) -> None:
    with a_run(tmp_path, "Levels") as run:
        drawn = []
        for _ in range(2):
            habits.Levels.drawn.clear()
            run._evaluate()
            drawn.append(list(habits.Levels.drawn))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
