"""An actor on another host waits while the network between them is cut, and goes on when it is whole again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.binaries.programs import running
from tests.faults.networks import two_hosts
from tests.faults.test_killed_processes import STARTUP_S, faults, goes_on, progress, wait_until

PORT = 8000
CUT_S = 40.0
STEPS = 12_000
COMMON = ("--hparams=dqn_cartpole", f"--train_steps={STEPS}", "--eval_episodes=2", "--test_episodes=2")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cut_between_the_hosts_is_survived_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with two_hosts() as cable:
        here, there = cable.left, cable.right
        at = f"--replay={here.address}:{PORT}"
        server_flags = (f"--port={PORT}", f"--checkpoint_dir={tmp_path / 'replay'}")
        with (
            running("binaries.replay_server", *COMMON, *server_flags, inside=here.inside) as server,
            running("binaries.learner", *COMMON, at, f"--output_dir={folder}", inside=here.inside) as learner,
            running("binaries.actor", *COMMON, at, inside=there.inside) as actor,
        ):
            server.read_until(lambda text: "Serving" in text)
            wait_until(lambda: progress(folder)["updates"] > 200, STARTUP_S, "The beginning of learning")
            cable.cut()
            time.sleep(CUT_S)
            before = progress(folder)
            cable.heal()
            goes_on(folder, f"a cut of {CUT_S:.0f} s")
            assert before["env_steps"] < STEPS, "The cut came too late to show anything."
            learner.read_rest()
            actor.read_rest()
            assert (learner.process.wait(), actor.process.wait()) == (0, 0), learner.text + actor.text
    assert "The learner waits for the replay: " in learner.text
    assert "1 actors connected" in learner.text or "0 actors connected" in learner.text
    assert "does not answer" in actor.text
    assert ("learner", "waited for the actors") in [(fault["process"], fault["fault"]) for fault in faults(folder)]
