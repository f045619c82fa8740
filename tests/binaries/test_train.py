"""The train program from its first line to its last: what it shows and leaves behind, and how it goes on after an end.

Starting it takes seconds: the tests of one ending share the run that ended so.
"""

from __future__ import annotations

import json
import math
import pickle
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from reverb.cc import schema_pb2
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from binaries import train as program
from binaries.network import OPEN, PRIVATE
from binaries.run_folder import NATIVE_LOG
from pipeline.types import UserError
from servers.checkpoint import Checkpoints, Unit
from tests.binaries.conftest import Once
from tests.binaries.programs import Ended, contents, on_screen, run, running
from tests.binaries.units import curve, results

LANES = 8
SETTINGS = (
    "DQN.min_replay_size=200",
    "DQN.batch_size=64",
    "DQN.n_step=3",
    "Epsilon.final=0.05",
    "Epsilon.decay_steps=10_000",
    "Learner.updates_per_step=1.0",
    "Learner.updates_per_call=8",
    f"Experiment.lanes={LANES}",
    "Experiment.log_period=240",
)
OPERATIVE = "operative_config.gin"
STEPS = 1_500
EVALUATION = r"evaluation at ([\d,]+) steps: (\d+\.\d) \+- (\d+\.\d) over 2 episodes"
PROGRESS = r"[\d,]+ of [\d,]+ steps \| [\d,]+ updates \| return \S+ \| [\d,]+ steps/s \| [\d,]+ updates/s \| \S+ left"


def command(folder: Path, train_steps: int, *settings: str) -> list[str]:
    """A small run in `folder`."""
    return [
        "--hparams=dqn_cartpole",
        f"--output_dir={folder}",
        f"--train_steps={train_steps}",
        "--eval_episodes=2",
        "--test_episodes=3",
        "--seed=3",
        f"--hparam_override={';'.join([*SETTINGS, *settings])}",
    ]


def ends(train_steps: int) -> range:
    """The numbers of environment steps after which a step of all lanes would be one too many."""
    return range(train_steps - LANES + 1, train_steps + 1)


def updates_after(env_steps: int) -> int:
    """One update a step once there are 200 steps, eight at a time."""
    return (env_steps - 200) // 8 * 8


def newest(folder: Path) -> Unit | None:
    """The newest whole checkpoint; there must be no damaged one."""
    warnings: list[str] = []
    unit = Checkpoints(folder / "checkpoints", 3, warnings.append).latest()
    assert not warnings
    return unit


def steps_of(unit: Unit | None) -> int:
    return 0 if unit is None else unit.step


def replay_keys(unit: Unit) -> set[int]:
    """The keys of the items that the checkpoint of the replay holds."""
    records = tf.data.TFRecordDataset(str(unit.path / "replay/items.tfrecord"), compression_type="ZLIB")
    proto: Any = schema_pb2
    return {proto.PrioritizedItem.FromString(record).key for record in records.as_numpy_iterator()}


def learner_values(unit: Unit) -> dict[str, Any]:
    """The learner's variables in a checkpoint, by name."""
    reader = tf.train.load_checkpoint(str(unit.path / "learner"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def ended_run(once: Once, name: str, copy_of: Path | None, *arguments: Any) -> tuple[Path, Ended]:
    """The folder and the output of the run of that name: `command(folder, *arguments)` run to its end, once."""

    def fill(root: Path) -> None:
        if copy_of is not None:
            shutil.copytree(copy_of, root / "run")
        (root / "ended.json").write_text(json.dumps(run("binaries.train", *command(root / "run", *arguments))))

    root = once(name, fill)
    return root / "run", Ended(*json.loads((root / "ended.json").read_text()))


# A run from beginning to end. Its only evaluation comes with its last step.


@pytest.fixture(scope="session")
def finished(once: Once) -> tuple[Path, Ended]:
    settings = (
        f"Experiment.eval_period={ends(STEPS)[0]}",
        "Experiment.checkpoint_period=0.2",
        "Experiment.kept_checkpoints=2",
    )
    return ended_run(once, "finished", None, STEPS, *settings)


def test_a_run_that_reaches_its_last_step_ends_with_code_0_and_nothing_on_stderr(
    finished: tuple[Path, Ended],
) -> None:
    _, ended = finished
    assert ended.stderr == ""
    assert ended.code == 0


def test_a_run_shows_each_setting_with_its_origin_before_it_begins(finished: tuple[Path, Ended]) -> None:
    folder, ended = finished
    title, *lines = ended.stdout.splitlines()
    assert title == f"dqn on CartPole-v1, in {folder}"
    rows = [
        re.split(r"\s{2,}", line.strip())
        for line in lines[: lines.index(f"  everything else has its default: {folder / OPERATIVE}")]
    ]
    origins = {name: (value, origin) for name, value, origin in rows}
    made = json.loads((folder / "run.json").read_text())["environment"]
    assert made == {
        "name": "CartPole-v1",
        "library": "gym",
        "version": "0.23.0",
        "other": "gymnasium:CartPole-v1",
    }
    assert origins["DQN.gamma"] == ("0.99", "dqn.gin:6")
    assert origins["DQN.memory"][0] == "'prioritized'"
    assert origins["DQN.memory"][1].startswith("dqn_cartpole.gin:")
    assert origins["DQN.min_replay_size"] == ("200", "--hparam_override")
    assert origins["Experiment.train_steps"] == (str(STEPS), "--train_steps")
    recorded = json.loads((folder / "run.json").read_text())["settings"]
    assert {name: value for name, (value, _) in origins.items()} == recorded


def test_a_run_shows_memory_evaluation_result_and_places_and_nothing_else(finished: tuple[Path, Ended]) -> None:
    folder, ended = finished
    lines = ended.stdout.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("  everything else"))
    made, network, replay, *shown = lines[begin + 1 :]
    assert made.startswith("Environment: CartPole-v1 of gym 0.23.0 (gymnasium:CartPole-v1 asks for gymnasium's)")
    assert re.fullmatch(
        r"Replay: prioritized, [\d,]+ windows of 4 rows of \d+ bytes: at most \d+ MiB of memory", replay
    )
    # Which of the two, is for the machine to say.
    assert network in (f"Network: {PRIVATE}", f"Network: {OPEN}")
    # A file is shown the progress every ten seconds: a quick run has none.
    evaluation, result, *places = [line for line in shown if not re.fullmatch(PROGRESS, line)]
    assert re.fullmatch(EVALUATION, evaluation)
    last = results(folder)[-1]
    assert result == (
        f"CartPole-v1 after {last['env_steps']:,} steps: {last['mean_return']:.1f} +- {last['std_return']:.1f}"
        " over 3 greedy episodes"
    )
    assert places == [
        f"Report: {folder}/report.html",
        f"TensorBoard: ./run tensorboard --logdir={folder}",
        f"Checkpoints: {folder}/checkpoints",
    ]
    # Videos cost nothing where nobody asked for them.
    assert not (folder / "videos").exists()


def test_the_noise_of_native_libraries_is_in_a_file(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    noise = (folder / "native.log").read_text()
    assert "reverb/cc" in noise
    assert "tensorflow/core" in noise


def test_a_run_records_flags_settings_versions_commit_and_seed(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    record = json.loads((folder / "run.json").read_text())
    assert record["flags"]["hparams"] == "dqn_cartpole"
    assert record["flags"]["train_steps"] == STEPS
    assert record["flags"]["output_dir"] == str(folder)
    assert record["flags"]["seed"] == 3
    assert record["settings"]["Experiment.seed"] == "3"
    assert record["settings"]["DQN.batch_size"] == "64"
    assert record["versions"]["tensorflow"] == tf.__version__
    assert "git_commit" in record


def test_the_operative_configuration_names_settings_and_defaults_of_what_ran(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    lines = (folder / OPERATIVE).read_text().splitlines()
    for line in ("DQN.min_replay_size = 200", "Experiment.seed = 3", "Learner.xla = True", "Prioritized.beta = 0.4"):
        assert line in lines
    assert not any(line.startswith(("Uniform.", "Scripted.")) for line in lines)


def test_results_have_a_line_for_each_evaluation_and_one_for_the_test(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    evaluation, test = results(folder)
    assert (evaluation["kind"], evaluation["episodes"]) == ("eval", 2)
    assert (test["kind"], test["episodes"]) == ("test", 3)
    for line in (evaluation, test):
        assert line["env_steps"] in ends(STEPS)
        assert line["updates"] == updates_after(line["env_steps"])
        assert line["mean_return"] > 0
        assert line["std_return"] >= 0


def read_events(folder: Path) -> EventAccumulator:
    # Every point, also those that TensorBoard hides because a later one went back behind them.
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}, purge_orphaned_data=False)
    events.Reload()
    return events


def points(events: EventAccumulator, tag: str) -> dict[int, float]:
    """A tag's values by step."""
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


@pytest.mark.parametrize(
    "tag",
    [
        "episode_return",
        "episode_steps",
        "learner/loss",
        "learner/q",
        "learner/td_error",
        "learner/priority_mean",
        "learner/priority_max",
        "learner/gradient_norm/q",
        "learner/sample_age",
        "epsilon",
        "speed/env_steps_per_second",
        "speed/updates_per_second",
        "replay/samples_per_insert",
        "memory/resident_megabytes",
    ],
)
def test_tensorboard_shows_the_training_against_environment_steps(finished: tuple[Path, Ended], tag: str) -> None:
    curve = points(read_events(finished[0] / "train"), tag)
    assert len(curve) == STEPS // 240
    for index, (step, value) in enumerate(sorted(curve.items()), start=1):
        assert 240 * index <= step < 240 * index + LANES
        assert math.isfinite(value)
    assert any(value > 0 for value in curve.values())


def test_tensorboard_shows_exploration_and_reuse_as_they_are(finished: tuple[Path, Ended]) -> None:
    events = read_events(finished[0] / "train")
    for step, value in points(events, "epsilon").items():
        assert value == pytest.approx(1 - 0.95 * step / 10_000, abs=1e-5)
    for step, value in points(events, "replay/samples_per_insert").items():
        assert value == pytest.approx(64 * updates_after(step) / step, rel=1e-5)


def test_tensorboard_shows_evaluation_and_test(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    events = read_events(folder / "eval")
    evaluation, test = results(folder)
    for line, tag in ((evaluation, "episode_return"), (test, "test/episode_return")):
        assert points(events, tag) == {line["env_steps"]: pytest.approx(line["mean_return"])}
        assert points(events, f"{tag}_std") == {line["env_steps"]: pytest.approx(line["std_return"])}


def test_tensorboard_shows_the_configuration(finished: tuple[Path, Ended]) -> None:
    (event,) = read_events(finished[0] / "train").Tensors("config")
    text = tf.make_ndarray(event.tensor_proto).item().decode()
    assert "DQN.min_replay_size = 200" in text
    assert "Learner.xla = True" in text


def test_the_last_checkpoint_is_of_the_last_step_and_the_best_network_is_kept_with_its_score(
    finished: tuple[Path, Ended],
) -> None:
    folder, _ = finished
    evaluation, _ = results(folder)
    unit = newest(folder)
    assert unit is not None
    assert unit.step == evaluation["env_steps"]
    assert unit.state["env_steps"] == unit.step
    best = Checkpoints(folder / "best", 1, pytest.fail).latest()
    assert best is not None
    assert best.state == {"score": evaluation["mean_return"]}
    same = [tf.train.load_checkpoint(str(one.path / "learner")) for one in (unit, best)]
    names = [name for name in same[0].get_variable_to_shape_map() if name.startswith("online/")]
    assert names
    for name in names:
        np.testing.assert_array_equal(same[0].get_tensor(name), same[1].get_tensor(name))


def test_as_many_checkpoints_are_kept_as_was_said(finished: tuple[Path, Ended]) -> None:
    assert len(list((finished[0] / "checkpoints").glob("step-*/manifest.json"))) == 2


# The same command with more steps.


@pytest.fixture(scope="session")
def resumed(once: Once, finished: tuple[Path, Ended]) -> tuple[Path, Ended]:
    return ended_run(once, "resumed", finished[0], STEPS + 500, f"Experiment.eval_period={ends(STEPS + 500)[0]}")


def test_a_resumed_run_says_where_it_goes_on(finished: tuple[Path, Ended], resumed: tuple[Path, Ended]) -> None:
    folder, ended = resumed
    step = steps_of(newest(finished[0]))
    assert (ended.code, ended.stderr) == (0, "")
    assert f"Resuming at {step:,} environment steps from {folder}/checkpoints/step-{step:012d}\n" in ended.stdout


class Mark:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def plant(folder: Path, mark: Path) -> Path:
    """A newer checkpoint in `folder` that makes `mark` where somebody unpickles it; returns what is pickled."""
    checkpoints = Checkpoints(folder / "checkpoints", kept=9, warn=pytest.fail)
    unit = checkpoints.latest()
    assert unit is not None

    def write(path: Path) -> None:
        shutil.copytree(unit.path, path, dirs_exist_ok=True)
        (path / "manifest.json").unlink()
        (path / "acting.pickle").write_bytes(pickle.dumps(Mark(mark)))

    return checkpoints.save(unit.step, write, unit.state).path / "acting.pickle"


def test_who_only_tests_a_run_unpickles_nothing(finished: tuple[Path, Ended], tmp_path: Path) -> None:
    folder, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(finished[0], folder)
    planted = plant(folder, mark)
    ended = run("binaries.train", *command(folder, STEPS), "--training=False")
    assert (ended.code, ended.stderr) == (0, "")
    assert str(planted.parent) in ended.stdout, "It reads the planted checkpoint."
    assert not mark.exists()


@pytest.mark.slow
def test_who_only_reads_a_run_unpickles_nothing_and_who_goes_on_does(
    finished: tuple[Path, Ended], tmp_path: Path
) -> None:
    folder, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(finished[0], folder)
    plant(folder, mark)
    for name, words in (
        ("export", [f"--output_dir={folder}", f"--to={tmp_path / 'policy'}"]),
        ("report", [str(folder)]),
    ):
        ended = run(f"binaries.{name}", *words)
        assert ended.code == 0, ended.stderr
        assert not mark.exists(), name
    run("binaries.train", *command(folder, STEPS + 500))
    assert mark.exists()


def test_a_run_in_a_folder_of_another_user_does_not_go_on_unasked(
    finished: tuple[Path, Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = newest(finished[0])
    assert unit is not None
    acting = unit.path / "acting.pickle"
    program._check_own(acting, finished[0])
    monkeypatch.setattr(program.os, "geteuid", lambda: 12_345)
    with pytest.raises(UserError, match=r"acting\.pickle belongs to another user .* --trust_folder"):
        program._check_own(acting, finished[0])
    program._check_own(acting.with_name("none"), finished[0])


def test_a_resumed_run_counts_on(finished: tuple[Path, Ended], resumed: tuple[Path, Ended]) -> None:
    before, after = results(finished[0]), results(resumed[0])
    assert after[: len(before)] == before
    evaluation, test = after[len(before) :]
    for line in (evaluation, test):
        assert line["env_steps"] in ends(STEPS + 500)
        # The learner makes up for no update of the run before, and does none again.
        assert line["updates"] == updates_after(line["env_steps"])
    steps = [event.step for event in read_events(resumed[0] / "train").Tensors("epsilon")]
    assert steps == sorted(set(steps))
    unit = newest(resumed[0])
    assert unit is not None
    assert learner_values(unit)["updates/.ATTRIBUTES/VARIABLE_VALUE"] == test["updates"]


def test_a_resumed_run_has_the_replay_of_the_run_before(
    finished: tuple[Path, Ended], resumed: tuple[Path, Ended]
) -> None:
    before, after = newest(finished[0]), newest(resumed[0])
    assert before is not None
    assert after is not None
    assert len(replay_keys(before)) > STEPS / 2
    assert replay_keys(before) < replay_keys(after)


# The newest checkpoint is damaged, and a signal asks the run to stop.


def test_a_damaged_checkpoint_is_passed_over_and_a_signal_stops_and_saves(
    tmp_path: Path, finished: tuple[Path, Ended]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    sound, damaged = sorted((folder / "checkpoints").glob("step-*"))[-2:]
    replay = damaged / "replay/chunks.tfrecord"
    replay.write_bytes(replay.read_bytes()[:-1])
    never = 10**6
    # Its evaluations are so far away that a line of progress is the last thing on the screen when the signal comes.
    arguments = command(folder, never, f"Experiment.eval_period={never}", "Experiment.checkpoint_period=1000.0")
    with running("binaries.train", *arguments, terminal=True) as train:
        train.read_until(lambda text: re.search(PROGRESS, text.rpartition("\n")[2]))
        train.process.send_signal(signal.SIGTERM)
        train.read_rest()
        assert train.process.wait() == 0, train.text + (folder / NATIVE_LOG).read_text()
    lines = on_screen(train.text)
    warning = (
        f"Checkpoint {damaged} is damaged (replay/chunks.tfrecord is not what was written):"
        " falling back to the one before."
    )
    assert warning in lines
    before = int(sound.name.removeprefix("step-"))
    assert f"Resuming at {before:,} environment steps from {sound}" in lines
    assert lines[-1] == f"Stopped and saved; the same command goes on from here. Checkpoints: {folder}/checkpoints"
    assert not any(re.search(PROGRESS, line) for line in lines)
    # The damaged one may be newer still.
    whole = Checkpoints(folder / "checkpoints", 3, lambda warning: None).latest()
    assert whole is not None
    assert whole.step > before
    assert whole.state["env_steps"] == whole.step
    assert replay_keys(whole) >= replay_keys(Unit(sound, before, {}))


# Its environments fail.


@pytest.mark.slow
def test_a_run_outlives_environments_that_fail(tmp_path: Path) -> None:
    settings = ("Experiment.crash_rate=0.1", "Experiment.step_timeout=0.5", "Learner.xla=False")
    flags = ["--env=tests.pipeline.envs.flaky:FlakyCartPole-v0", *command(tmp_path, STEPS, *settings)]
    ended = run("binaries.train", *flags)
    assert ended.code == 0, ended.stderr
    crashes = [count for _, count in curve(tmp_path, "environment/crashes")]
    assert crashes == sorted(crashes)
    assert crashes[-1] > 3
    again = run("binaries.train", *flags[:1], *command(tmp_path, STEPS + 400, *settings))
    assert again.code == 0, again.stderr
    assert curve(tmp_path, "environment/crashes")[-1][1] >= crashes[-1], "A resumed run goes on counting."
    assert ended.stdout.count("its state or reward is not finite") == 1
    few = run("binaries.train", *flags[:1], *command(tmp_path / "few", STEPS, "Experiment.crash_rate=0.0001"))
    assert few.code == 1
    assert few.stderr.startswith("train: Environments failed 4 times in ")


# The weights are frozen, in the seed's own words.


def test_without_training_the_newest_checkpoint_is_tested_again(finished: tuple[Path, Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before, unit = results(folder), newest(folder)
    assert unit is not None
    files = contents(unit.path)
    ended = run("binaries.train", *command(folder, STEPS), "--training", "False", "--quiet", "True")
    assert (ended.code, ended.stderr) == (0, "")
    resuming, *said = ended.stdout.splitlines()
    assert resuming.startswith("Resuming at ")
    assert said == [line for line in finished[1].stdout.splitlines() if "greedy episodes" in line]
    assert results(folder) == [*before, before[-1]]
    assert newest(folder) == unit
    assert contents(unit.path) == files


# The run is killed, whatever it is doing.


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("Experiment.eval_period=250", "Experiment.checkpoint_period=0.1", "Learner.xla=False")
    told: list[str] = []

    def check_goes_on(step: int, before: list[dict[str, Any]], text: str) -> None:
        told.append(f"from {step}:\n{text}")
        _, *said = text.partition("\nReplay: ")[2].splitlines()
        if said:
            assert said[0].startswith(f"Resuming at {step:,} environment steps from") == (step > 0), told
            assert "new episodes" not in said[0]
        assert "damaged" not in text, told
        lines = results(folder)
        # What was reported after the checkpoint is reported anew, and only once.
        kept = [line for line in before if line["env_steps"] <= step]
        assert lines[: len(kept)] == kept
        counts = [(line["env_steps"], line["kind"]) for line in lines]
        assert counts == sorted(set(counts)), told

    count = random.randint(0, 4)
    with running("binaries.train", *command(folder, 10**6, *settings)) as train:
        train.read_until(lambda text: text.partition("\nReplay: ")[2].count("\n") > count)
        train.process.kill()
        train.read_rest()
        assert train.process.wait() == -signal.SIGKILL
    check_goes_on(0, [], train.text)

    step, before = steps_of(newest(folder)), results(folder)
    ended = run("binaries.train", *command(folder, step + 800, *settings))
    assert (ended.code, ended.stderr) == (0, ""), told
    check_goes_on(step, before, ended.stdout)
    assert results(folder)[-1]["kind"] == "test"
    assert results(folder)[-1]["env_steps"] in ends(step + 800)
    assert steps_of(newest(folder)) == results(folder)[-1]["env_steps"]
    for writer, tag in [("train", "learner/loss"), ("eval", "episode_return")]:
        points = [step for step, _ in curve(folder, tag, writer)]
        assert len(points) >= 3
        assert points == sorted(set(points))


# Learning cannot go on.


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # There are checkpoints before the first update, which comes after 200 steps.
    settings = ("Experiment.checkpoint_period=0.05", "Learner.xla=False")
    ended = run("binaries.train", *command(folder, STEPS, "DQN.learning_rate=1e30", *settings))
    assert ended.code == 1
    sentence = re.fullmatch(
        r"train: The loss is (nan|inf) at update 8 \(environment step (\d+)\), though all that it was computed from was"
        r" finite: the run stops, and the last checkpoint stands\. A smaller learning rate or a smaller"
        r" max_gradient_norm may help\.\n",
        ended.stderr,
    )
    assert sentence, ended.stderr
    unit = newest(folder)
    assert unit is not None
    assert 0 < unit.step < int(sentence[2])
    values = learner_values(unit)
    assert values["updates/.ATTRIBUTES/VARIABLE_VALUE"] == 0
    weights = [value for name, value in values.items() if name.startswith("online/")]
    assert weights
    for value in weights:
        assert np.isfinite(value).all()
    assert all(line["env_steps"] <= int(sentence[2]) for line in results(folder))


# The folder is not this run's.


def test_a_checkpoint_of_another_network_is_refused_in_a_sentence(finished: tuple[Path, Ended], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    # Nothing says any more that the settings were others.
    (folder / "run.json").unlink()
    unit = newest(folder)
    assert unit is not None
    ended = run("binaries.train", *command(folder, STEPS + 100, "MLP.hidden_sizes=(32, 32)"))
    assert (ended.code, ended.stderr) == (
        2,
        f"train: {unit.path} was written for another algorithm, network or environment, or by another version of them:"
        " choose another --output_dir.\n",
    )
