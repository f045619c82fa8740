"""launch/kubernetes.sh: what it refuses, and what it asks of kubectl and kind. No cluster is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.launch.manifests import IMAGE, SCRIPT, TOOLS, call, pods, render
from tests.limits import LIMIT_S

GOOD = ("--cloud=gke", "--hparams=dqn_cartpole", f"--image={IMAGE}")
TELL = """#!/usr/bin/env bash
printf '%s\\n' "{name} $*" >>"{log}"
case "{name} $1 ${{2-}}" in
  "kubectl kustomize "*) exec "{kubectl}" "$@" ;;
  "kubectl apply "*) cp "${{2#--filename=}}" "{log}.yaml" ;;
  "kubectl config "*) echo "{context}" ;;
  "kubectl api-resources "*) printf '%s' "{resources}" ;;
esac
exit {code}
"""
"""a stand-in that tells how it was called"""


def stand_ins(
    folder: Path, *names: str, context: str = "kind-mine", resources: str = "", code: int = 0
) -> tuple[Path, Path]:
    """A folder of programs, and the file where they tell how they were called."""
    log = folder / "log"
    (folder / "bin").mkdir()
    for name in names:
        path = folder / "bin" / name
        path.write_text(
            TELL.format(name=name, log=log, kubectl=TOOLS / "kubectl", context=context, resources=resources, code=code)
        )
        path.chmod(0o755)
    return folder / "bin", log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hparams=dqn_cartpole", f"--image={IMAGE}"], "no cloud was chosen: add --cloud=gke, eks, aks or kind."),
        ([*GOOD, "--cloud=azure"], "--cloud=azure: it must be gke, eks, aks or kind."),
        (["--cloud=gke", f"--image={IMAGE}"], "no hyper-parameters were chosen: add --hparams=NAME, for example"),
        ([*GOOD, "--hparams=dqn cartpole"], "--hparams=dqn cartpole: it must be names in configs/, joined by -."),
        ([*GOOD, "--hparams=dqn_cartpole-nonsense"], "there are no hyper-parameters 'nonsense'"),
        (["--cloud=gke", "--hparams=dqn_cartpole"], "no image was chosen: build launch/Dockerfile, and add --image="),
        ([*GOOD, "--image=a b"], "--image=a b is no name of an image."),
        ([*GOOD, "--num_actors=0"], "--num_actors=0: it must be a whole number from 1 to 9999."),
        ([*GOOD, "--num_actors=many"], "--num_actors=many: it must be a whole number from 1 to 9999."),
        ([*GOOD, "--replay_shards=-1"], "--replay_shards=-1: it must be a whole number from 1 to 9999."),
        ([*GOOD, "--overlay=gpus"], "--overlay=gpus: 'gpus' is none of gpu, spot, tpu and tpu-slice."),
        ([*GOOD, "--overlay=gpu,tpu"], "--overlay=gpu,tpu: the learner runs on one of gpu, tpu and tpu-slice."),
        ([*GOOD, "--cloud=eks", "--overlay=tpu"], "--overlay=tpu: TPUs are in Google's clusters only"),
        ([*GOOD, "--cloud=kind", "--overlay=spot"], "--overlay=spot: a kind cluster has no spot nodes."),
        ([*GOOD, "--name=Mine"], "--name=Mine: at most 30 small letters, digits and -, a letter first."),
        ([*GOOD, "--name=" + "a" * 31], "at most 30 small letters"),
        ([*GOOD, "--namespace=a_b"], "--namespace=a_b: small letters, digits and -, a letter first."),
        ([*GOOD, "--storage_class=a b"], "--storage_class=a b is no name of a storage class."),
        ([*GOOD, "--num_workers=3"], "unknown argument '--num_workers=3': flags are written --name=value"),
        ([*GOOD, "--num_actors", "3"], "unknown argument '--num_actors'"),
        ([*GOOD, "--", "seed=3"], "'seed=3' after -- is no flag"),
        ([*GOOD, "--", "--seed", "3"], "'3' after -- is no flag"),
        ([*GOOD, "--", "--env=a\n--seed=3"], "after -- is no flag"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl", "kind")
    ended = call(*arguments, path=[programs])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("kubernetes.sh: ")
    assert said in ended.stderr
    assert ended.stderr.endswith(".\n")
    assert not log.exists()


def test_a_missing_kubectl_is_one_sentence(tmp_path: Path) -> None:
    needed = ("bash", "dirname", "env")
    for name in needed:
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    ended = subprocess.run(
        [SCRIPT, *GOOD, "--dry_run"], capture_output=True, text=True, env={"PATH": str(tmp_path)}, timeout=LIMIT_S
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "kubernetes.sh: kubectl is not installed: it is all that this script needs,"
        " see kubernetes.io/docs/tasks/tools.\n"
    )


def test_a_dry_run_asks_kubectl_for_nothing_but_the_manifests(tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl", "kind")
    ended = call(*GOOD, "--cloud=kind", "--dry_run", path=[programs])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split()[:2] for line in log.read_text().splitlines()] == [["kubectl", "kustomize"]]


def test_what_is_applied_is_what_a_dry_run_prints(tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl")
    arguments = [*GOOD, "--name=mine", "--namespace=research", "--", "--seed=3"]
    ended = call(*arguments, path=[programs])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["kustomize", "apply"]
    printed = call("--dry_run", *arguments, path=[programs]).stdout
    assert Path(f"{log}.yaml").read_text() == printed
    # What it says to do next names what is there.
    assert "port-forward --namespace=research service/mine-tensorboard 6006" in ended.stdout
    assert "name: mine-tensorboard\n" in printed


def test_it_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    render("--cloud=gke")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (ROOT / "launch/kubernetes/run").exists()


def test_kind_gets_the_image_from_this_machine(tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl", "kind")
    ended = call(*GOOD, "--cloud=kind", path=[programs])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"kind load docker-image {IMAGE} --name mine" in log.read_text().splitlines()
    assert log.read_text().splitlines()[-1].startswith("kubectl apply ")


def test_kind_on_another_cluster_is_refused(tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl", "kind", context="gke_mine")
    ended = call(*GOOD, "--cloud=kind", path=[programs])
    assert ended.returncode == 2
    assert "kubectl's current context is 'gke_mine', and a kind cluster's begins with 'kind-'" in ended.stderr
    assert "apply" not in log.read_text()


def test_what_kubectl_refuses_is_code_1(tmp_path: Path) -> None:
    programs, _ = stand_ins(tmp_path, "kubectl", code=1)
    ended = call(*GOOD, path=[programs])
    assert ended.returncode == 1
    assert ended.stderr.startswith("kubernetes.sh: kubectl could not apply the run 'encore'")


@pytest.mark.parametrize(("resources", "asked"), [("", False), ("jobsets.jobset.x-k8s.io\n", True)])
def test_a_run_is_removed_by_its_label_and_its_volumes_stay(tmp_path: Path, resources: str, asked: bool) -> None:
    programs, log = stand_ins(tmp_path, "kubectl", resources=resources)
    ended = call("--delete", "--name=mine", "--namespace=research", path=[programs])
    assert (ended.returncode, ended.stderr) == (0, "")
    command = log.read_text().splitlines()[-1].split()
    kinds = command[2].split(",")
    assert command[:2] == ["kubectl", "delete"]
    assert ("jobsets.jobset.x-k8s.io" in kinds) == asked
    assert command[3:] == [
        "--namespace=research",
        "--selector=app.kubernetes.io/name=encore,app.kubernetes.io/instance=mine",
    ]
    rendered = {f"{m['kind'].lower()}s" for m in render("--cloud=gke", "--overlay=tpu-slice")}
    removed = {kind.partition(".")[0] for kind in kinds} | {"jobsets"}
    assert {kind.replace("policys", "policies") for kind in rendered} - removed == {"persistentvolumeclaims"}
    assert "kubectl delete persistentvolumeclaims --namespace=research --selector=" in ended.stdout


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    programs, log = stand_ins(tmp_path, "kubectl")
    assert call("--delete", "--dry_run", path=[programs]).returncode == 0
    assert log.read_text().splitlines()[-1].endswith(" --dry-run=client")


def test_hyper_parameters_of_an_imported_module_need_not_be_here() -> None:
    assert list(pods(render("--cloud=gke", "--hparams=theirs", "--", "--import=my_package.my_algo")))


def test_it_works_from_any_folder(tmp_path: Path) -> None:
    ended = call(*GOOD, "--dry_run", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
