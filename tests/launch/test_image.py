"""launch/Dockerfile, as far as it can be checked without building it: no Docker daemon is needed or used."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path

from pipeline.index import ROOT
from tests.launch.manifests import LAUNCH, TOOLS, pods, rendered
from tests.limits import LIMIT_S

TEXT = re.sub(r"\\\n", "", (LAUNCH / "Dockerfile").read_text())
INSTRUCTIONS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def copied() -> list[str]:
    """What the image gets of the checkout."""
    return [source for rest in arguments("COPY") for source in shlex.split(rest)[:-1]]


def test_hadolint_has_nothing_to_say() -> None:
    ended = subprocess.run([TOOLS / "hadolint", LAUNCH / "Dockerfile"], capture_output=True, text=True, timeout=LIMIT_S)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUNN true\n")
    assert subprocess.run(
        [TOOLS / "hadolint", tmp_path / "Dockerfile"], capture_output=True, timeout=LIMIT_S
    ).returncode


def test_what_is_copied_is_there_and_not_left_out() -> None:
    assert {"setup.sh", "uv.lock", "run", "binaries"} <= set(copied())
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern) for pattern in ignored), source


def test_every_package_that_the_programs_import_is_copied() -> None:
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    used: set[str] = set()
    waiting = {"binaries"}
    while waiting:
        package = waiting.pop()
        used.add(package)
        for path in (ROOT / package).rglob("*.py"):
            waiting |= set(re.findall(r"(?m)^\s*(?:from|import) (\w+)", path.read_text())) & ours - used
    assert {"binaries", "agents", "servers", "pipeline", "configs"} <= used <= set(copied())


def test_what_setup_and_run_read_is_copied() -> None:
    copies = copied()
    read = ("setup.sh", "uv.lock", "pyproject.toml", *re.findall(r"\btools/\w+\.py\b", (ROOT / "setup.sh").read_text()))
    assert "tools/installed.py" in read
    assert max(map(copies.index, read)) < copies.index("run")
    (install,) = (rest for rest in arguments("RUN") if "setup.sh" in rest)
    # The lock is installed before the code is there, so that a change of the code does not install anew.
    assert TEXT.index(install) < TEXT.index("COPY run")
    for extra in re.findall(r"--build-arg WITH=([\w,]+)", TEXT)[0].split(","):
        assert re.search(rf"(?m)^{extra} = \[", (ROOT / "pyproject.toml").read_text())


def test_the_python_is_the_one_that_is_locked() -> None:
    (version,) = re.findall(r'(?m)^requires-python = "==(\d\.\d+)\.\*"', (ROOT / "pyproject.toml").read_text())
    assert arguments("FROM") == [f"python:{version}-slim-bookworm"]


def test_it_runs_as_the_one_that_the_manifests_name_and_not_as_root() -> None:
    (user,) = arguments("USER")
    assert [name for name, _ in INSTRUCTIONS].index("USER") > TEXT.count("COPY")
    for found in pods(rendered("tpu-slice")):
        security = found.spec["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
    assert "--uid 1000" in arguments("RUN")[0]


def test_it_runs_run() -> None:
    assert arguments("ENTRYPOINT") == ['["./run"]']
    assert arguments("WORKDIR") == ["/encore"]
