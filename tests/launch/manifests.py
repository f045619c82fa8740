"""The manifests as launch/kubernetes.sh renders them, and what is in them."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.index import ROOT
from tests.limits import LIMIT_S

Manifest = dict[str, Any]

LAUNCH = ROOT / "launch"
SCRIPT = LAUNCH / "kubernetes.sh"
TOOLS = Path(sysconfig.get_path("scripts"))
"""where kubectl, shellcheck and hadolint are: the lock file brings them"""
IMAGE = "registry.example/encore:1"
COMPONENT = "app.kubernetes.io/component"
OVERLAYS = {
    "base": ("--cloud=gke",),
    "gpu": ("--cloud=gke", "--overlay=gpu"),
    "spot": ("--cloud=gke", "--overlay=spot"),
    "gpu,spot": ("--cloud=gke", "--overlay=gpu,spot"),
    "tpu": ("--cloud=gke", "--overlay=tpu"),
    "tpu-slice": ("--cloud=gke", "--overlay=tpu-slice"),
    "tpu-slice,spot": ("--cloud=gke", "--overlay=tpu-slice,spot"),
    "eks": ("--cloud=eks",),
    "aks": ("--cloud=aks",),
    "kind": ("--cloud=kind",),
    "sharded": ("--cloud=gke", "--replay_shards=3", "--num_actors=7"),
}
"""every way to render, by what is special about it"""


class Pod(NamedTuple):
    """A pod's template."""

    owner: Manifest
    labels: dict[str, str]
    spec: Manifest

    @property
    def component(self) -> str:
        return self.labels[COMPONENT]

    @property
    def container(self) -> Manifest:
        (container,) = self.spec["containers"]
        return container


def call(*arguments: str, path: Iterable[Path] = (TOOLS,), cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs launch/kubernetes.sh, with the programs in `path` before all others."""
    variables = os.environ | {"PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, cwd=cwd, env=variables, timeout=LIMIT_S)


def render(*arguments: str) -> list[Manifest]:
    """What --dry_run prints, with an image and hyper-parameters unless `arguments` have others."""
    given = {word.partition("=")[0] for word in arguments}
    defaults = [w for w in (f"--image={IMAGE}", "--hparams=dqn_cartpole") if w.partition("=")[0] not in given]
    ended = call("--dry_run", *defaults, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return list(yaml.safe_load_all(ended.stdout))


@functools.cache
def rendered(name: str) -> list[Manifest]:
    """One of OVERLAYS; nobody may change it."""
    return render(*OVERLAYS[name])


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """The pods of every workload; a JobSet's too."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        templates = [job["template"]["spec"]["template"] for job in spec.get("replicatedJobs", ())]
        for template in [spec["template"]] if "template" in spec else templates:
            yield Pod(manifest, template["metadata"]["labels"], template["spec"])


def pod(manifests: Iterable[Manifest], component: str) -> Pod:
    """The only one of a component."""
    (found,) = (p for p in pods(manifests) if p.component == component)
    return found


def flag_file(manifests: Iterable[Manifest]) -> list[str]:
    """The flags that every program reads."""
    (config,) = of_kind(manifests, "ConfigMap")
    return config["data"]["run.flags"].splitlines()
