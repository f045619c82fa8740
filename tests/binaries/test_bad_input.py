"""What a person gets wrong on the command line: one sentence, exit code 2, and a disk as it was."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.binaries import programs
from tests.binaries.conftest import Once

HPARAMS = "--hparams=dqn_cartpole"
NEW = "--output_dir={folder}/new/run"
SHORT = [f"--hparam_override=Experiment.{name}=300" for name in ("train_steps", "eval_period")]
SHORT += [f"--hparam_override=Experiment.{name}=1" for name in ("eval_episodes", "test_episodes")]
"""what is not rejected, though it should be, comes to its end before long; a case's own arguments win"""


class Case(NamedTuple):
    """A command line and the sentence that answers it; {folder} is the case's own, {port} is in use."""

    arguments: list[str]
    sentence: str


def override(*settings: str) -> list[str]:
    return [HPARAMS, NEW, f"--hparam_override={';'.join(settings)}"]


LIGHT = {
    "flag": Case([HPARAMS, NEW, "--train_step=5"], "There is no flag --train_step; did you mean train_steps"),
    "flag_without_value": Case([HPARAMS, NEW, "--seed"], "Missing value for flag --seed."),
    "nothing_to_test": Case(
        [HPARAMS, NEW, "--training", "False"],
        "There is no checkpoint in {folder}/new/run/checkpoints to test: train first, with the same flags.",
    ),
    "no_flag": Case([HPARAMS, NEW, "seed=3"], "'seed=3' is no flag: flags are written --name=value."),
    "sys": Case([HPARAMS, NEW, "--sys=gpu"], "flag --sys=gpu: value should be one of <local|tpu|gcp>."),
    "no_hparams": Case([NEW], "No hyper-parameters were chosen: add --hparams=NAME"),
    "hparams": Case(["--hparams=dqn_carpole", NEW], "There are no hparams 'dqn_carpole'; did you mean dqn_cartpole or"),
    "second_hparams": Case(["--hparams=dqn_cartpole-fast", NEW], "There are no hparams 'fast'; there are: "),
    "hparams_without_environment": Case(["--hparams=dqn", NEW], "No environment was chosen: add --env=ID"),
    "environment": Case(
        [HPARAMS, NEW, "--env=CartPol-v1"], "There is no environment 'CartPol-v1'; did you mean CartPole-v1 or"
    ),
    "environment_module": Case(
        [HPARAMS, NEW, "--env=no_module:X-v0"], "Environment 'no_module:X-v0': No module named 'no_module'."
    ),
    "action_space": Case(
        [HPARAMS, NEW, "--env=Pendulum-v1"],
        "Algorithm 'dqn' serves discrete actions, and those of Pendulum-v1 are continuous: choose another algorithm"
        " or environment.",
    ),
    "algorithm": Case(override("Experiment.algo='dnq'"), "There is no algorithm 'dnq'; did you mean dqn?"),
    "class": Case(
        override("DNQ.gamma=0.9"), "--hparam_override: there is no class 'DNQ' to configure; did you mean DQN?"
    ),
    "parameter": Case(override("DQN.gama=0.9"), "--hparam_override: DQN has no parameter 'gama'; did you mean gamma?"),
    "type": Case(override("DQN.batch_size=1.5"), "--hparam_override: DQN.batch_size is 1.5: it must be of type int."),
    "text": Case(override("DQN.gamma"), "--hparam_override: 'DQN.gamma' is no setting ("),
    "bare_word": Case(
        override("DQN.memory=uniform"),
        "--hparam_override: 'DQN.memory=uniform' is no setting (Failed to parse token 'uniform'); write text in quotes",
    ),
    "infinite": Case(
        override("DQN.learning_rate=1e999"), "--hparam_override: DQN.learning_rate is inf: a number must be finite."
    ),
    "no_file": Case(["--hparams=./no.gin", NEW], "There is no file './no.gin' for --hparams."),
    "open_bracket": Case(
        override("MLP.hidden_sizes=(64,"), "--hparam_override: 'MLP.hidden_sizes=(64,' is no setting ("
    ),
    "reference": Case(override("DQN.model=@MLP"), "--hparam_override: DQN.model is @MLP: settings are plain values."),
    "train_steps": Case([HPARAMS, NEW, "--train_steps=0"], "flag --train_steps=0: 0 is not a positive integer."),
    "negative_train_steps": Case(
        override("Experiment.train_steps=-1"), "Experiment.train_steps is -1: it must be positive."
    ),
    "lanes": Case(override("Experiment.lanes=0"), "Experiment.lanes is 0: it must be positive."),
    "eval_period": Case(override("Experiment.eval_period=0"), "Experiment.eval_period is 0: it must be positive."),
    "test_episodes": Case([HPARAMS, NEW, "--test_episodes=-3"], "flag --test_episodes=-3: -3 is not a positive"),
    "checkpoint_period": Case(
        override("Experiment.checkpoint_period=-0.5"), "Experiment.checkpoint_period is -0.5: it must be positive."
    ),
    "seed": Case(override("Experiment.seed=-1"), "Experiment.seed is -1: it must lie in [0, "),
    "large_seed": Case([HPARAMS, NEW, f"--seed={2**31}"], f"Experiment.seed is {2**31}: it must lie in [0, "),
    "no_output_dir": Case([HPARAMS], "No folder was chosen for the run: add --output_dir=FOLDER."),
    "file": Case([HPARAMS, "--output_dir={folder}/file"], "--output_dir={folder}/file is a file: name a folder."),
    "below_file": Case(
        [HPARAMS, "--output_dir={folder}/file/run"], "--output_dir={folder}/file/run cannot be written ("
    ),
    "read_only": Case([HPARAMS, "--output_dir=/proc/run"], "--output_dir=/proc/run cannot be written ("),
    "other_run": Case(
        [HPARAMS, "--output_dir={folder}/other"],
        "{folder}/other holds another experiment's run: DQN.batch_size was 7 there and is 64 here and",
    ),
    "damaged_run": Case([HPARAMS, "--output_dir={folder}/damaged"], "{folder}/damaged/run.json cannot be read ("),
    "old_environment": Case(
        ["--hparams=ddpg_pendulum", NEW, "--env=Pendulum-v0"],
        "There is no environment 'Pendulum-v0'; did you mean Pendulum-v1",
    ),
    "copies": Case([HPARAMS, NEW, "--copies=0"], "flag --copies=0: 0 is not a positive integer."),
    "copies_on_a_port": Case([HPARAMS, NEW, "--copies=2", "--port=7001"], "--port names one replay server's port, and"),
    "copies_nowhere": Case([HPARAMS, "--copies=2"], "No folder was chosen for the runs: add --output_dir=FOLDER."),
    "copies_in_a_run": Case(
        [HPARAMS, "--output_dir={folder}/other", "--copies=2"], "{folder}/other holds another experiment's run: "
    ),
    "profile": Case(
        [HPARAMS, NEW, "--profile=500"], "--profile=500: give two environment steps as START:STOP, for example 10000:"
    ),
    "codec": Case(
        [HPARAMS, NEW, "--record_video", "--hparam_override=Experiment.video_codec='libx999'"],
        "ffmpeg has no encoder 'libx999' (Experiment.video_codec): choose one that",
    ),
    "eval_policy": Case(
        override("Experiment.eval_policy='best'"), "Experiment.eval_policy is 'best': it must be 'greedy' or 'sampled'."
    ),
    "port": Case([HPARAMS, NEW, "--port={port}"], "Port {port} cannot be opened (Address already in use): choose"),
    "port_number": Case([HPARAMS, NEW, "--port=65536"], "flag --port=65536: 65536 is not an integer in the range"),
}
"""known before TensorFlow is imported"""

HEAVY = {
    "replay_size": Case(override(f"DQN.replay_size={10**12}"), "The replay needs "),
    "batch_size": Case(
        override("DQN.memory='uniform'", "DQN.batch_size=60", "Experiment.lanes=8"),
        "batch_size is 60: it must be a multiple of 8 (",
    ),
    "no_batch": Case(override("DQN.batch_size=0"), "DQN.batch_size is 0: it must be positive."),
    "fraction": Case(override("DQN.gamma=1.5"), "DQN.gamma is 1.5: it must lie in [0, 1]."),
    "memory": Case(override("DQN.memory='priority'"), "There is no memory 'priority'; did you mean prioritized"),
    "model": Case(override("DQN.model='basik'"), "There is no model 'basik'; did you mean basic"),
    "act_select": Case(override("DQN.act_select='epsilonn'"), "There is no action function 'epsilonn'; did you mean"),
    "kind_of_act_select": Case(
        ["--hparams=ddpg_pendulum", NEW, "--hparam_override=DDPG.act_select='epsilon'"],
        "The action function 'epsilon' takes values, and actions are what there is: use normal_noise or ou_noise.",
    ),
    "kind_of_grad_comp": Case(
        override("DQN.grad_comp='ppo'"),
        "The gradient function 'ppo' takes advantages, and errors are what there is: use huber or mean_squared_error.",
    ),
    "minibatch": Case(
        ["--hparams=ppo_cartpole", NEW, "--hparam_override=PPO.batch_size=100"],
        "batch_size is 100: its part for each of 1 replicas must divide the 1024 transitions of a rollout",
    ),
    "lr_schedule": Case(override("DQN.lr_schedule='cosin'"), "There is no learning-rate schedule 'cosin'; did you"),
    "updates_per_call": Case(
        override("Learner.updates_per_call=0"), "Learner.updates_per_call is 0: it must be positive."
    ),
    "unread": Case(
        override("DQN.memory='uniform'", "Prioritized.exponent=0.5"),
        "--hparam_override: nothing reads Prioritized.exponent, because Prioritized is no part of this run;",
    ),
    "unread_environment": Case(
        override("Scripted.lengths=(3,)", "Scripted.truncated=(True,)"),
        "--hparam_override: nothing reads Scripted.lengths, because Scripted is no part of this run;",
    ),
    "pictures_flattened": Case(
        [HPARAMS, NEW, "--env=ALE/Pong-v5"],
        "DQN.model would flatten states, uint8 [210, 160, 3], into 100,800 inputs of a dense layer: choose a network"
        " for pictures, --hparam_override=\"DQN.model='conv'\"; Experiment.wrappers=('resize',) makes them 84 x 84.",
    ),
}
"""known once the classes are imported, or put together"""


def answers(once: Once, name: str, cases: dict[str, Case]) -> dict[str, Any]:
    """What each case's command line led to, and what was in its folder before and after."""

    def fill(root: Path) -> None:
        with socket.socket() as server:
            server.bind(("", 0))
            server.listen()
            places = {case: {"folder": str(root / case), "port": server.getsockname()[1]} for case in cases}
            for case in cases:
                _furnish(root / case)
            before = {case: _contents(root / case) for case in cases}
            commands = [[*SHORT, *(a.format(**places[case]) for a in cases[case].arguments)] for case in cases]
            ended = programs.rejected(commands)
        for case, answer in zip(cases, ended, strict=True):
            answer |= {"before": before[case], "after": _contents(root / case)}
            answer |= {"sentence": cases[case].sentence.format(**places[case])}
        (root / "answers.json").write_text(json.dumps(dict(zip(cases, ended, strict=True))))

    return json.loads((once(name, fill) / "answers.json").read_text())


def _furnish(folder: Path) -> None:
    for name in ("other", "damaged"):
        (folder / name).mkdir(parents=True)
    (folder / "file").write_text("here before")
    (folder / "other/run.json").write_text(json.dumps({"settings": {"DQN.batch_size": "7"}}))
    (folder / "damaged/run.json").write_text("{")


def _contents(folder: Path) -> dict[str, str | None]:
    found = programs.contents(folder)
    return {name: None if data is None else base64.b64encode(data).decode() for name, data in found.items()}


@pytest.fixture(scope="session")
def light(once: Once) -> dict[str, Any]:
    return answers(once, "light", LIGHT)


@pytest.fixture(scope="session")
def heavy(once: Once) -> dict[str, Any]:
    return answers(once, "heavy", HEAVY)


def check_rejected(answer: dict[str, Any]) -> None:
    assert answer["stderr"].startswith(f"train: {answer['sentence']}")
    assert answer["stderr"].endswith("\n")
    assert answer["stderr"].count("\n") == 1
    assert answer["code"] == 2
    assert answer["stdout"] == ""
    assert answer["after"] == answer["before"]


@pytest.mark.parametrize("case", LIGHT)
def test_a_bad_command_line_is_one_sentence_before_tensorflow_is_imported(light: dict[str, Any], case: str) -> None:
    check_rejected(light[case])
    assert not light[case]["tensorflow"]


@pytest.mark.parametrize("case", HEAVY)
def test_a_setting_that_its_class_refuses_is_one_sentence(heavy: dict[str, Any], case: str) -> None:
    check_rejected(heavy[case])


def test_the_program_ends_with_code_2_and_says_what_it_misses() -> None:
    ended = programs.run("binaries.train")
    assert ended.code == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "train: No hyper-parameters were chosen: add --hparams=NAME, for example --hparams=dqn_cartpole.\n"
    )
