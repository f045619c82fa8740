"""No script, manifest or page of launching names a flag that the programs do not take."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml
from tensorboard.plugins.core.core_plugin import CorePluginLoader

from pipeline.index import ROOT
from tests.launch.local import Checkout
from tests.launch.manifests import LAUNCH, OVERLAYS, call, flag_file, pods, rendered
from tests.launch.program_flags import defined, flags_of, wrong
from tests.limits import LIMIT_S

PROGRAMS = ("replay_server", "learner", "actor", "evaluator")
PAGE = (ROOT / "docs/kubernetes.md").read_text()


def commands(text: str, program: str) -> list[list[str]]:
    """The words after `program` in a text's commands; a backslash joins lines."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found = [line.partition(program)[2] for line in lines if f"{program} " in line and not line.startswith("#")]
    return [shlex.split(rest, comments=True) for rest in found]


def tensorboards() -> set[str]:
    """The flags that TensorBoard defines."""
    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    return {option for action in parser._actions for option in action.option_strings}


def test_the_flags_are_read_from_the_source() -> None:
    for program in PROGRAMS:
        assert {"hparams", "output_dir", "port", "seed", "flagfile"} <= flags_of(program).keys()
    assert {"checkpoint_dir", "health_port"} <= flags_of("replay_server").keys()
    assert {"replay", "actor_id", "num_actors"} <= flags_of("actor").keys()
    assert "actor_id" not in flags_of("learner")
    assert flags_of("learner")["sys"].choices == ("local", "tpu", "gcp")
    (flag,) = defined('absl_flags.DEFINE_integer("a", 0, "what")').values()
    assert (flag.name, flag.kind) == ("a", "integer")


@pytest.mark.parametrize(
    "word", ["--actor_ids=3", "--actor_id=x", "--actor_id", "actor_id=3", "--sys=cpu", "--checkpoint_dir=a"]
)
def test_a_flag_that_an_actor_refuses_is_found(word: str) -> None:
    assert len(wrong("actor", ["--replay=a:1", word, "--actor_id=$(N)", "--quiet", "--import=a.b"])) == 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_manifests_name_flags_that_there_are(name: str) -> None:
    manifests = rendered(name)
    seen = set()
    for found in pods(manifests):
        if found.component == "tpu":
            continue
        program, *words = found.container["args"]
        seen.add(program)
        if program == "tensorboard":
            assert {word.partition("=")[0] for word in words} <= tensorboards()
        else:
            assert wrong(program, words) == []
            assert wrong(program, flag_file(manifests)) == []
    assert seen == {*PROGRAMS, "tensorboard"}


def test_local_sh_names_flags_that_there_are(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    with checkout.start("--num_actors=2", "--shards=2", "--", "--seed=3") as process:
        for name in ("learner", "evaluator", "actor_0", "actor_1"):
            checkout.end(name)
        assert process.wait(LIMIT_S) == 0
    seen = set()
    for program, *words in checkout.calls():
        assert wrong(program, words) == []
        seen.add(program)
    assert seen == {"train", *PROGRAMS}


def test_skypilot_and_the_image_name_flags_that_there_are() -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    (words,) = commands(task["run"], "./run")
    values = {name: str(value) for name, value in task["envs"].items()}
    assert set(re.findall(r"\$([A-Z_]+)", task["run"])) <= {*values, "HOME"}
    words = [re.sub(r"\$(\w+)", lambda m: values.get(m.group(1), "x"), word) for word in words]
    assert words[0] == "train"
    assert wrong("train", [word for word in words[1:] if word]) == []
    # Every field is one that SkyPilot documents.
    assert task.keys() <= {"name", "workdir", "resources", "envs", "setup", "run"}
    assert task["resources"].keys() <= {"cpus", "memory", "disk_size", "use_spot", "autostop"}
    assert (ROOT / task["setup"].split()[0]).exists()


def test_the_pages_commands_render() -> None:
    words = commands(PAGE, "launch/kubernetes.sh")
    assert len(words) >= 6
    for given in words:
        if "--delete" not in given and "--help" not in given:
            ended = call("--dry_run", *given)
            assert ended.returncode == 0, ended.stderr
            for found in pods(yaml.safe_load_all(ended.stdout)):
                assert found.container["image"]
            after = given[given.index("--") + 1 :] if "--" in given else []
            for program in PROGRAMS:
                assert wrong(program, after) == []


def test_other_commands_of_the_pages_name_flags_that_there_are() -> None:
    recipes = "\n".join(re.findall(r"(?m)^    (.*)$", PAGE))
    (given,) = commands(recipes, "launch/local.sh")
    known = re.findall(r"(?m)^    --(\w+)=\*\)", (LAUNCH / "local.sh").read_text())
    assert {"hparams", "output_dir", "num_actors", "port", "shards"} == set(known)
    assert {word.partition("=")[0].removeprefix("--") for word in given} <= set(known)
    head = (LAUNCH / "skypilot.yaml").read_text().replace("\n#  ", "\n")
    for program, *words in commands(f"{recipes}\n{head}", "./run"):
        if program != "tensorboard":
            assert wrong(program, [word for word in words if word.startswith("--") and "$" not in word]) == []
