"""launch/local.sh: what it starts, who is asked to stop when, what it ends with, and that nothing is left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.index import ROOT
from servers.ports import free_ports
from tests.binaries.programs import environment
from tests.launch.local import Checkout, lives
from tests.launch.manifests import LAUNCH
from tests.limits import LIMIT_S, wait_until

ARGUMENTS = ("--num_actors=2", "--shards=2", "--port=9100")
EVERYBODY = {"replay_0", "replay_1", "learner", "actor_0", "actor_1", "evaluator"}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_each_program_gets_its_own_flags_and_the_common_ones(checkout: Checkout) -> None:
    flags = ["--seed=3", "--hparam_override=DQN.memory='uniform'; DQN.n_step=3"]
    with checkout.start(*ARGUMENTS, "--", *flags) as process:
        for name in ("learner", "evaluator", "actor_0", "actor_1"):
            checkout.end(name)
        assert process.wait(LIMIT_S) == 0
    replay = "--replay=localhost:9100,localhost:9101"
    common = ["--hparams=dqn_cartpole", *flags]
    folder = checkout.output
    assert sorted(checkout.calls()[1:]) == sorted(
        [
            ["replay_server", "--port=9100", "--shards=2", f"--checkpoint_dir={folder}/replay_0", *common],
            ["replay_server", "--port=9101", "--shards=2", f"--checkpoint_dir={folder}/replay_1", *common],
            ["learner", replay, f"--output_dir={folder}", *common],
            ["actor", replay, "--actor_id=0", "--num_actors=2", *common],
            ["actor", replay, "--actor_id=1", "--num_actors=2", *common],
            ["evaluator", replay, f"--output_dir={folder}", *common],
        ]
    )
    for name in EVERYBODY:
        assert "has something to say." in (folder / f"logs/{name}.log").read_text()


def test_the_installation_is_done_before_several_programs_want_it(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS):
        assert checkout.calls()[0] == ["train", "--list"]


def test_when_the_training_is_done_the_others_may_end_by_themselves(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS) as process:
        checkout.end("learner")
        wait_until(lambda: not lives(checkout.pid("learner")), "the learner's end")
        for name in ("actor_0", "actor_1"):
            checkout.end(name)
        # The evaluator still plays its test: the servers hold on.
        wait_until(lambda: not lives(checkout.pid("actor_1")), "the actors' end")
        assert checkout.asked() == []
        checkout.end("evaluator")
        assert process.wait(LIMIT_S) == 0
        assert sorted(checkout.asked()) == ["replay_0", "replay_1"]
        assert not any(map(lives, checkout.pids()))


@pytest.mark.parametrize("code", [1, 7])
def test_a_learner_that_fails_ends_all_with_its_status_and_its_last_words(checkout: Checkout, code: int) -> None:
    with checkout.start(*ARGUMENTS) as process:
        checkout.end("learner", code)
        _, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == code
        assert f"local.sh: learner ended with status {code}: learner has something to say.\n" in said
        assert set(checkout.asked()) == EVERYBODY - {"learner"}
        assert not any(map(lives, checkout.pids()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_those_who_write_first_those_who_keep_it_last(
    checkout: Checkout, number: signal.Signals
) -> None:
    with checkout.start(*ARGUMENTS) as process:
        (checkout.folder / "learner.asked").write_text("5")
        # As a terminal does it, to the whole group.
        os.killpg(process.pid, number)
        assert process.wait(LIMIT_S) == 5
        asked = checkout.asked()
        # Each once: a second signal would end a program before it has saved.
        assert sorted(asked) == sorted(EVERYBODY)
        assert set(asked[:3]) == {"actor_0", "actor_1", "evaluator"}
        assert asked[3] == "learner"
        assert not any(map(lives, checkout.pids()))


def test_asked_a_second_time_it_waits_for_nobody(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS) as process:
        (checkout.folder / "actor_1.deaf").touch()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "actor_1" in checkout.asked(), "the first signal")
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)
        assert not any(map(lives, checkout.pids()))


def test_a_users_error_of_any_program_ends_all(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS) as process:
        checkout.end("replay_1", 2)
        _, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 2
        assert "local.sh: replay_1 ended with status 2: replay_1 has something to say.\n" in said
        assert not any(map(lives, checkout.pids()))


def test_an_actor_that_dies_is_reported_and_the_others_go_on(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS) as process:
        checkout.end("actor_0", 1)
        wait_until(lambda: not lives(checkout.pid("actor_0")), "the actor's end")
        for name in ("learner", "evaluator", "actor_1"):
            checkout.end(name)
        _, said = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0
        assert said.count("local.sh: actor_0 ended with status 1") == 1


def test_where_it_is_killed_its_programs_are_asked_to_stop(checkout: Checkout) -> None:
    with checkout.start(*ARGUMENTS) as process:
        process.kill()
        wait_until(lambda: not any(map(lives, checkout.pids())), "the programs' end")
        assert set(checkout.asked()) == EVERYBODY


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output_dir=x"], "no hyper-parameters were chosen: add --hparams=NAME"),
        (["--hparams=x"], "no folder was chosen for the run: add --output_dir=FOLDER."),
        (["--hparams=x", "--output_dir=y", "--num_actors=none"], "--num_actors=none: it must be a whole number"),
        (["--hparams=x", "--output_dir=y", "--port=0"], "--port=0: it must be a whole number"),
        (["--hparams=x", "--output_dir=y", "--shards=0"], "--shards=0: it must be a whole number"),
        (["--hparams=x", "--output_dir=y", "--num_workers=3"], "unknown argument '--num_workers=3'"),
        (["--hparams=x", "--output_dir=/dev/null/y"], "--output_dir=/dev/null/y cannot be written."),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(checkout: Checkout, arguments: list[str], said: str) -> None:
    ended = subprocess.run(
        [checkout.script, *arguments], capture_output=True, text=True, cwd=checkout.folder, timeout=LIMIT_S
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"local.sh: {said}")
    assert ended.stderr.count("\n") == 1
    assert not (checkout.folder / "calls").exists()


@pytest.mark.slow
def test_a_run_of_the_real_programs_learns_and_ends(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ended = subprocess.run(
        [
            LAUNCH / "local.sh",
            "--hparams=dqn_cartpole",
            f"--output_dir={tmp_path}/run",
            "--num_actors=2",
            f"--port={port}",
            "--",
            "--train_steps=2000",
            "--test_episodes=2",
            "--hparam_override=DQN.min_replay_size=500;Learner.xla=False",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"The training is done: \d+", ended.stdout.replace(",", ""))
    assert '"kind": "test"' in (tmp_path / "run/results.jsonl").read_text()
