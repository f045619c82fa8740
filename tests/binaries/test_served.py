"""Actors, learner, replay server and evaluator as processes of their own, and `train --num_workers` that runs them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import reverb

from binaries.run_folder import read_progress
from binaries.signals import STOPPED
from pipeline.index import ROOT
from pipeline.loopback import is_this_machine
from servers import reports
from servers.checkpoint import Checkpoints
from servers.ports import free_ports
from tests.binaries.programs import Running, run, running
from tests.binaries.units import curve, results, variables
from tests.limits import LIMIT_S, wait_until

OVERRIDES = "DQN.min_replay_size=300;Learner.updates_per_call=8;Experiment.eval_period=1000;Experiment.log_period=500"
STEPS = 2_500
IPV6 = "[::1]" if is_this_machine("::1") else "localhost"
"""this machine, by IPv6 where it knows that"""


def flags(*more: str, steps: int = STEPS) -> list[str]:
    return [
        "--hparams=dqn_cartpole",
        f"--train_steps={steps}",
        "--eval_episodes=2",
        "--test_episodes=3",
        f"--hparam_override={OVERRIDES}",
        *more,
    ]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those whose command line names `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two actors that came to its end."""
    folder = tmp_path_factory.mktemp("served") / "run"
    ended = run("binaries.train", *flags("--num_workers=2", f"--output_dir={folder}"))
    assert ended.code == 0, ended.stderr + ended.stdout
    assert "CartPole-v1 after " in ended.stdout
    return folder


def test_it_trains_to_the_end_with_every_step_and_update_counted(trained: Path) -> None:
    last = results(trained)[-1]
    assert last["kind"] == "test"
    unit = Checkpoints(trained / "checkpoints", kept=3, warn=pytest.fail).latest()
    assert unit is not None
    assert STEPS - 16 < unit.step <= STEPS, "Two actors of 16 lanes make the steps of the training and none more."
    assert sum(steps for _, _, steps, _, _ in unit.state["actors"]) == unit.step
    assert {actor for actor, *_ in unit.state["actors"]} == {0, 1}
    # One update a window past the first 300, in whole calls of 8; windows of 10 rows and 2 x 16 lanes are incomplete.
    assert unit.step - 300 - 2 * 16 * 10 - 8 <= last["updates"] <= unit.step - 300
    assert variables(trained)


def test_tensorboard_shows_lags_rates_and_who_is_there(trained: Path) -> None:
    tags = {
        tag: [value for _, value in curve(trained, tag)]
        for tag in (
            "learner/loss",
            "learner/sample_age",
            "learner/policy_lag",
            "replay/priority_lag_seconds",
            "replay/samples_per_insert",
            "replay/inserts_per_second",
            "replay/samples_per_second",
            "replay/items/0",
            "processes/actors",
            "episode_return",
            "memory/resident_megabytes",
        )
    }
    for tag, values in tags.items():
        assert values, tag
        assert np.all(np.isfinite(values)), tag
    assert tags["processes/actors"][-1] == 2
    assert min(tags["learner/policy_lag"]) >= 0
    assert curve(trained, "episode_return", "eval")


def test_it_leaves_a_report_and_no_process(trained: Path) -> None:
    assert "report" in (trained / "report.html").read_text()
    assert not processes_of(trained)
    # Nobody died; on a busy machine somebody may have been slow.
    faults = trained / "faults.jsonl"
    lines = faults.read_text().splitlines() if faults.exists() else []
    assert not [line for line in lines if json.loads(line)["fault"].startswith(("killed by", "ended with"))]


def test_an_evaluator_without_a_server_follows_the_checkpoints(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "results.jsonl").unlink()
    command = flags(f"--output_dir={tmp_path / 'run'}")
    ended = run("binaries.evaluator", *command)
    assert ended.code == 0, ended.stderr
    evaluation, test = results(tmp_path / "run")
    assert (evaluation["kind"], test["kind"]) == ("eval", "test")
    # The same weights, episodes and actions as those of the evaluator that was sent them.
    assert test == results(trained)[-1]
    ended = run("binaries.evaluator", *command)
    assert ended.code == 0, ended.stderr
    assert "is finished and tested" in ended.stdout
    assert results(tmp_path / "run") == [evaluation, test], "What was evaluated is not evaluated again."


@pytest.mark.slow
def test_the_same_command_goes_on_from_what_was_saved(trained: Path) -> None:
    before = results(trained)[-1]
    ended = run("binaries.train", *flags("--num_workers=2", f"--output_dir={trained}", steps=STEPS + 1_000))
    assert ended.code == 0, ended.stderr + ended.stdout
    log = (trained / "logs" / "learner.log").read_text()
    assert "Resuming at " in log
    assert "items restored" in (trained / "logs" / "replay_0.log").read_text().splitlines()[-2]
    last = results(trained)[-1]
    assert STEPS + 1_000 - 16 < last["env_steps"] <= STEPS + 1_000
    assert last["updates"] > before["updates"]
    for kind in ("eval", "test"):
        steps = [result["env_steps"] for result in results(trained) if result["kind"] == kind]
        assert sorted(set(steps)) == steps, "Nothing is evaluated twice, and time goes on."


@pytest.mark.slow
def test_what_a_server_holds_of_a_training_whose_checkpoints_are_gone_is_dropped(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "results.jsonl").unlink()
    ended = run("binaries.train", *flags("--num_workers=2", f"--output_dir={folder}"))
    assert ended.code == 0, ended.stderr + ended.stdout
    assert "items of another training: they are dropped." in (folder / "logs" / "learner.log").read_text()
    last = results(folder)[-1]
    assert STEPS - 16 < last["env_steps"] <= STEPS
    assert STEPS - 300 - 2 * 16 * 10 - 2 * 8 <= last["updates"] <= STEPS - 300


@pytest.mark.slow
def test_of_two_learners_on_one_server_the_second_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = flags(f"--replay=localhost:{port}", steps=1_000_000)
    with replay_server(tmp_path / "replay", port, steps=1_000_000) as server:
        with running("binaries.learner", *command, f"--output_dir={tmp_path / 'a'}") as first:
            first.read_until(lambda text: "waits for the replay" in text)
            second = run("binaries.learner", *command, f"--output_dir={tmp_path / 'b'}")
            assert (second.code, len(second.stderr.splitlines())) == (2, 1), second.stderr
            assert "belongs to another training" in second.stderr
            with running("binaries.learner", *command, "--drop_replay", f"--output_dir={tmp_path / 'b'}") as third:
                third.read_until(lambda text: "waits for the replay" in text)
                first.read_rest()
                assert first.process.wait() == 1, first.text
                assert "The learner of another training has taken over" in first.text
        assert server.process.poll() is None


@pytest.mark.slow
def test_a_learner_that_goes_on_says_so_though_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    served = flags(f"--replay=localhost:{port}", steps=1_000_000)
    learn = ["binaries.learner", *served, f"--output_dir={tmp_path / 'run'}"]
    client = reverb.Client(f"localhost:{port}")

    def life() -> float:
        """Of the learner whose weights the server holds."""
        samples: Any = client.sample("variables", emit_timesteps=False, unpack_as_table_signature=True)
        (data,) = (sample.data for sample in samples)
        return data["version"][1]

    with replay_server(tmp_path / "replay", port, steps=1_000_000):
        with running(*learn) as learner, running("binaries.actor", *served) as actor:
            wait_until(lambda: (read_progress(tmp_path / "run") or {}).get("updates"), "the first updates")
            actor.process.terminate()
            actor.process.wait(LIMIT_S)
            learner.read_until(lambda text: "waits for the replay" in text)
            learner.process.terminate()
            learner.read_rest()
        before = life()
        with running(*learn) as learner:
            learner.read_until(lambda text: "Resuming at " in text)
            # Actors get steps to make from this learner, and none before.
            wait_until(lambda: life() != before, "the weights of the learner's new life")


@pytest.mark.slow
def test_actors_and_learner_take_nothing_that_others_write(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = flags(f"--replay={IPV6}:{port}", steps=STEPS)
    with replay_server(tmp_path / "replay", port) as server:
        client = reverb.Client(f"localhost:{port}")
        with running("binaries.learner", *command, f"--output_dir={tmp_path / 'run'}") as learner:
            learner.read_until(lambda text: "waits for the replay" in text)
            write(client, "experiment", {"settings": np.frombuffer(b"not json{{{", np.uint8)}, whole=False)
            for counts in ([-5, 0, -1, -1, -1, -1, -1, -9], [2**62] * 7 + [64], [99, 1, 5, 5, 5, 5, 5, 2**40]):
                episodes = np.full((reports.EPISODES, 2), np.nan, np.float32)
                write(client, "reports", {"counts": np.array(counts, np.int64), "episodes": episodes})
            server.read_until(lambda text: "somebody else wrote what this server serves" in text)
            actor = run("binaries.actor", *command)
            assert actor.code == 0, actor.stderr + actor.stdout
            learner.read_rest()
            assert learner.process.wait() == 0, learner.text
            for actor in (0, 2**62, 1):
                assert f"a report of actor {actor} is not taken: it is of another training." in learner.text
            assert "The training is done" in learner.text
    assert "sent a report that was not taken" in (tmp_path / "run" / "faults.jsonl").read_text()


def write(client: reverb.Client, table: str, row: dict[str, np.ndarray], whole: bool = True) -> None:
    """Inserts what no program of ours does."""
    writer: Any = client.trajectory_writer(num_keep_alive_refs=1)
    writer.append(row)
    columns = {name: column[-1] if whole else column[-1:] for name, column in writer.history.items()}
    writer.create_item(table, 1.0, columns)
    writer.flush(timeout_ms=int(1000 * LIMIT_S))


def test_what_was_trained_is_tested_and_exported_like_any_run(trained: Path, tmp_path: Path) -> None:
    ended = run("binaries.train", *flags(f"--output_dir={trained}", "--training=False"))
    assert ended.code == 0, ended.stderr
    inline = run("binaries.train", *flags(f"--output_dir={trained}", steps=1_000_000))
    assert (inline.code, len(inline.stderr.splitlines())) == (2, 1)
    assert "holds a run of several processes: go on with --num_workers" in inline.stderr
    ended = run("binaries.export", f"--output_dir={trained}", f"--to={tmp_path / 'policy'}")
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "policy" / "saved_model.pb").exists()


@pytest.mark.slow
def test_a_rollouts_queue_is_served_too(tmp_path: Path) -> None:
    command = ["--hparams=ppo_cartpole", "--train_steps=20000", "--num_workers=2", f"--output_dir={tmp_path / 'run'}"]
    ended = run("binaries.train", *command, "--test_episodes=3", "--hparam_override=Experiment.log_period=2000")
    assert ended.code == 0, ended.stderr + ended.stdout
    assert [value for _, value in curve(tmp_path / "run", "replay/stale_rollouts")][-1] >= 0
    assert results(tmp_path / "run")[-1]["updates"] > 0


@pytest.mark.slow
def test_a_stopped_run_leaves_nothing_behind_but_what_it_saved(tmp_path: Path) -> None:
    command = flags("--num_workers=2", f"--output_dir={tmp_path / 'run'}", steps=1_000_000)
    with running("binaries.train", *command) as train:
        wait_for(tmp_path / "run" / "progress.json", train)
        wait_until(lambda: (read_progress(tmp_path / "run") or {}).get("env_steps"), "an actor's first report")
        train.process.send_signal(signal.SIGTERM)
        train.read_rest()
        assert train.process.wait() == 0, train.text
    assert "Stopped and saved; the same command goes on from here." in train.text
    assert not processes_of(tmp_path)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*/manifest.json"))
    assert list((tmp_path / "run" / "replay_0").glob("step-*/manifest.json"))


def wait_for(path: Path, train: Running) -> None:
    """Until `path` is there; a program that ends before that fails the test."""
    while not path.exists():
        assert train.process.poll() is None, train.text
        with contextlib.suppress(psutil.TimeoutExpired):
            psutil.Process(train.process.pid).wait(0.2)


@contextlib.contextmanager
def replay_server(folder: Path, port: int, *more: str, steps: int = STEPS) -> Iterator[Running]:
    command = flags(f"--port={port}", f"--checkpoint_dir={folder}", *more, steps=steps)
    with running("binaries.replay_server", *command) as server:
        server.read_until(lambda text: "Serving" in text)
        yield server


def test_a_replay_server_says_how_it_is_and_refuses_other_experiments(tmp_path: Path) -> None:
    port, health = free_ports(1)[0], free_ports(1)[0]
    with replay_server(tmp_path / "replay", port, f"--health_port={health}") as server:
        for host in ("127.0.0.1", IPV6):
            with urllib.request.urlopen(f"http://{host}:{health}/healthz", timeout=LIMIT_S) as answer:
                assert json.loads(answer.read())["experience"] == 0
        assert "at most " in server.text
        other = ["--hparam_override=DQN.n_step=2", f"--replay={IPV6}:{port}"]
        learner = run("binaries.learner", *flags(*other, f"--output_dir={tmp_path / 'other'}"))
        actor = run("binaries.actor", *flags(*other))
        for ended in (learner, actor):
            assert (ended.code, len(ended.stderr.splitlines())) == (2, 1)
            assert "serves another experiment: DQN.n_step was 10 there and is 2 here." in ended.stderr
        second = run(
            "binaries.replay_server", *flags(f"--port={free_ports(1)[0]}", f"--checkpoint_dir={tmp_path}/replay")
        )
        assert (second.code, len(second.stderr.splitlines())) == (2, 1)
        assert "is in use by process" in second.stderr
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT_S) == STOPPED


def test_who_finds_nobody_says_so_and_ends(tmp_path: Path) -> None:
    alone = ["--hparam_override=Experiment.startup_timeout=12", f"--replay=localhost:{free_ports(1)[0]}"]
    more = {"actor": [], "learner": [f"--output_dir={tmp_path}"]}
    with ThreadPoolExecutor() as both:
        ends = both.map(lambda program: run(f"binaries.{program}", *flags(*alone, *more[program])), more)
        for ended, name in zip(ends, ("Actor 0", "The learner"), strict=True):
            assert (ended.code, len(ended.stderr.splitlines())) == (1, 1)
            assert f"{name} waits for the replay server localhost:" in ended.stderr
            assert "which does not answer: nothing moved for " in ended.stderr
            assert "which does not answer; this has lasted for " in ended.stdout


@pytest.mark.parametrize(
    ("program", "more", "sentence"),
    [
        ("learner", ["--output_dir=x"], "No replay server was named: add --replay=HOST:PORT."),
        ("actor", ["--replay=here"], "--replay=here: 'here' is not HOST:PORT."),
        ("actor", ["--replay=a:1,::1:8000"], "--replay=a:1,::1:8000: '::1:8000' is not HOST:PORT."),
        ("actor", ["--replay=a:1,a:1"], "--replay=a:1,a:1 names a server twice."),
        ("actor", ["--replay=a:1", "--actor_id=3"], "--actor_id=3: with --num_actors=1 it lies in [0, 0]."),
        ("replay_server", ["--checkpoint_dir=x"], "No port was chosen: add --port=PORT"),
        ("replay_server", ["--port=1234"], "No folder was chosen for the replay's contents"),
        ("train", ["--num_workers=0", "--output_dir=x"], "num_workers"),
        ("train", ["--num_workers=2", "--training=False", "--output_dir=x"], "--training=False tests what was trained"),
    ],
)
def test_bad_input_is_one_sentence(program: str, more: list[str], sentence: str) -> None:
    ended = run(f"binaries.{program}", *flags(*more))
    assert (ended.code, len(ended.stderr.splitlines())) == (2, 1)
    assert sentence in ended.stderr
    assert not (ROOT / "x").exists()


@pytest.mark.slow
def test_a_run_whose_parent_is_killed_leaves_no_process_though_its_replay_server_does_not_answer(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with running("binaries.train", *flags("--num_workers=2", f"--output_dir={folder}", steps=1_000_000)) as train:
        wait_for(folder / "progress.json", train)
        while not (read_progress(folder) or {"updates": 0})["updates"]:
            with contextlib.suppress(psutil.TimeoutExpired):
                psutil.Process(train.process.pid).wait(0.2)
        children = psutil.Process(train.process.pid).children()
        (server,) = (child for child in children if "binaries.replay_server" in child.cmdline())
        try:
            server.suspend()
            # As by the kernel where memory is short: nobody is left who could ask twice, or kill.
            train.process.kill()
            others = [child for child in children if child != server]
            _, left = psutil.wait_procs(others, LIMIT_S)
            assert not left
            server.resume()
            server.wait(LIMIT_S)
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
    said = {path.stem: path.read_text().splitlines()[-1] for path in (folder / "logs").glob("*.log")}
    assert said["actor_0"] == "Actor 0: stopped."
    assert said["actor_1"] == "Actor 1: stopped."
    assert said["evaluator"] == "The evaluator: stopped."
    assert said["learner"].startswith("Stopped and saved: ")
    assert list((folder / "checkpoints").glob("step-*/manifest.json"))
