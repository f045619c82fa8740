"""./run and ./setup.sh: what they list, refuse and call; nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.limits import LIMIT_S

Checkout = Callable[..., subprocess.CompletedProcess[str]]

SITE = ".venv/lib/python3.11/site-packages"
PROGRAM = '"""{summary}"""\n\nif __name__ == "__main__":\n    pass\n'
TELL = '#!/usr/bin/env bash\nprintf \'%s\\n\' "{name}" "PYTHONPATH=${{PYTHONPATH-}}" "$PWD" "$@" >>"{log}"\n'
"""a stand-in that tells how it was called"""
INSTALL = f"""mkdir -p .venv/bin {SITE}
printf '#!/usr/bin/env bash\\nexec "{sys.executable}" "$@"\\n' >.venv/bin/python
chmod +x .venv/bin/python
for word; do [[ $word != --reinstall-package=* ]] || cp -r "{{wheels}}/${{{{word#*=}}}}/." {SITE}; done
"""
"""what a stand-in for uv does: an environment, and packages anew from folders of their names"""
WORLDS = ("atari", "box2d", "envpool", "habitat", "mujoco", "procgen", "vizdoom")
EXTRAS = ("atari", "box2d", "envpool", "gpu", "habitat", "mujoco", "procgen", "vizdoom")


def call(script: Path, *arguments: str, path: Path | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a script, with the programs in `path` before all others."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        variables["PATH"] = f"{path}{os.pathsep}{variables['PATH']}"
    return subprocess.run(
        [str(script), *arguments], capture_output=True, text=True, cwd=cwd, env=variables, timeout=LIMIT_S
    )


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


# ./run in this checkout.


def test_run_alone_lists_every_program_with_a_line_each() -> None:
    ended = call(ROOT / "run")
    assert (ended.returncode, ended.stderr) == (0, "")
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", ended.stdout, re.MULTILINE))
    programs = [p for p in (ROOT / "binaries").glob("*.py") if '\nif __name__ == "__main__":' in p.read_text()]
    assert ROOT / "binaries/train.py" in programs
    for program in programs:
        assert listed[program.stem] == program.read_text().splitlines()[0].strip('"')
    for name in ("test", "test_slow", "tensorboard"):
        assert name in listed
    assert "settings" not in listed
    assert call(ROOT / "run", "--help").stdout == ended.stdout


@pytest.mark.parametrize("name", ["trian", "settings", "__init__", "../binaries/train", ""])
def test_an_unknown_name_is_a_sentence_and_code_2(name: str) -> None:
    ended = call(ROOT / "run", name, "--hparams=dqn")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"run: there is no program '{name}'; ./run alone lists them.\n"


# ./run in a checkout of its own, whose setup.sh and python tell how they were called.


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """`run` with one program, and a lock file that was not set up yet."""
    root = tmp_path / "check out"
    for folder in ("binaries", "benchmarks"):
        (root / folder).mkdir(parents=True)
        (root / folder / f"{folder}_program.py").write_text(PROGRAM.format(summary=f"Of {folder}."))
    shutil.copy(ROOT / "run", root / "run")
    (root / "uv.lock").write_text("version = 2\n")
    log = tmp_path / "log"
    write_script(root / ".venv/bin/python", TELL.format(name="python", log=log))
    write_script(
        root / "setup.sh", TELL.format(name="setup.sh", log=log) + f'cp "{root}/uv.lock" "{root}/.venv/encore-lock"\n'
    )
    return root


def told(checkout: Path) -> list[str]:
    """What the stand-ins were called with since last asked."""
    log = checkout.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize("lock", [None, "version = 1\n", ""])
def test_the_first_run_sets_up_and_the_second_does_not(checkout: Path, lock: str | None) -> None:
    if lock is not None:
        (checkout / ".venv/encore-lock").write_text(lock)
    for called in (["setup.sh", "python"], ["python"]):
        ended = call(checkout / "run", "binaries_program")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert [line for line in told(checkout) if line in ("setup.sh", "python")] == called


def test_a_newer_lock_file_sets_up_again(checkout: Path) -> None:
    call(checkout / "run", "binaries_program")
    told(checkout)
    (checkout / "uv.lock").write_text("version = 3\n")
    call(checkout / "run", "binaries_program")
    assert told(checkout)[0] == "setup.sh"


def test_a_package_that_came_or_went_sets_up_again(checkout: Path) -> None:
    call(checkout / "run", "binaries_program")
    site = checkout / SITE
    site.mkdir(parents=True)
    set_up_at = (checkout / ".venv/encore-lock").stat().st_mtime
    for seconds, called in ((-1, ["python"]), (1, ["setup.sh", "python"])):
        os.utime(site, (set_up_at + seconds, set_up_at + seconds))
        told(checkout)
        call(checkout / "run", "binaries_program")
        assert [line for line in told(checkout) if line in ("setup.sh", "python")] == called


def test_a_failed_set_up_ends_the_run(checkout: Path) -> None:
    write_script(checkout / "setup.sh", "#!/usr/bin/env bash\nprintf 'setup.sh: no\\n' >&2\nexit 2\n")
    ended = call(checkout / "run", "binaries_program")
    assert (ended.returncode, ended.stderr) == (2, "setup.sh: no\n")
    assert told(checkout) == []


@pytest.mark.parametrize("name", ["binaries", "benchmarks"])
def test_a_program_gets_its_arguments_as_they_are_where_the_person_stands(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    (tmp_path / "here").mkdir()
    arguments = ["--hparam_override=DQN.memory='uniform'; DQN.n_step=3", "", "a  b", "$HOME"]
    call(checkout / "run", f"{name}_program", *arguments, cwd=tmp_path / "here")
    # The checkout comes before the person's folder, where --import may find modules.
    assert told(checkout) == [
        "python",
        f"PYTHONPATH={checkout}:{tmp_path / 'here'}",
        str(tmp_path / "here"),
        "-m",
        f"{name}.{name}_program",
        *arguments,
    ]


def test_a_link_to_run_runs_the_checkout_it_points_to(checkout: Path, tmp_path: Path) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    (tmp_path / "link").symlink_to(checkout / "run")
    (tmp_path / "to a link").symlink_to("link")
    ended = call(tmp_path / "to a link", "binaries_program", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert told(checkout)[1] == f"PYTHONPATH={checkout}:{tmp_path}"


def test_names_and_texts_are_utf_8_whatever_the_locale(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    write_script(checkout / ".venv/bin/python", f"#!/usr/bin/env bash\nprintf %s $PYTHONUTF8 >{tmp_path}/utf8\n")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("LC_ALL", "C")
    call(checkout / "run", "binaries_program")
    assert (tmp_path / "utf8").read_text() == "1"


def test_the_programs_code_is_that_of_run(checkout: Path) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    write_script(checkout / ".venv/bin/python", "#!/usr/bin/env bash\nexit 7\n")
    assert call(checkout / "run", "binaries_program").returncode == 7


def test_tests_by_path_run_those_alone(checkout: Path) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    (checkout / ".venv/encore-extras").write_text("\n".join(WORLDS))
    call(checkout / "run", "test", "tests/binaries", "-x")
    assert told(checkout)[2:] == [str(checkout), "-m", "pytest", "tests/binaries", "-x"]


def test_tests_install_the_worlds_that_they_miss(checkout: Path) -> None:
    shutil.copy(checkout / "uv.lock", checkout / ".venv/encore-lock")
    (checkout / ".venv/encore-extras").write_text("atari\nbox2d\n")
    call(checkout / "run", "test", "tests/binaries")
    lines = told(checkout)
    assert [lines[0], lines[3]] == ["setup.sh", f"--with={','.join(WORLDS)}"]
    assert lines[-2:] == ["pytest", "tests/binaries"]


# ./setup.sh in a folder of its own, whose uv tells how it was called.


@pytest.fixture
def setup(tmp_path: Path) -> Path:
    """A folder with setup.sh and what it reads, beside bin/ with a uv and a uname of our own."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "tools").mkdir()
    for name in ("setup.sh", "pyproject.toml", "uv.lock", "tools/installed.py"):
        shutil.copy(ROOT / name, root / name)
    write_script(tmp_path / "bin/uv", TELL.format(name="uv", log=tmp_path / "log") + INSTALL.format(wheels=tmp_path))
    write_uname(tmp_path, "Linux", "x86_64")
    return root


def write_uname(folder: Path, system: str, machine: str) -> None:
    write_script(folder / "bin/uname", f'#!/usr/bin/env bash\n[ "$1" = -s ] && echo {system} || echo {machine}\n')


def set_up(setup: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(setup / "setup.sh", *arguments, path=setup.parent / "bin")


def test_an_unknown_extra_is_answered_with_the_extras(setup: Path) -> None:
    ended = set_up(setup, "--with=nonsense")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"setup.sh: there is no extra 'nonsense'; the extras are: {' '.join(EXTRAS)}.\n"
    assert told(setup) == []


def test_an_unknown_extra_among_known_ones_is_refused(setup: Path) -> None:
    ended = set_up(setup, "--with=atari,nonsense")
    assert ended.returncode == 2
    assert "there is no extra 'nonsense'" in ended.stderr
    assert told(setup) == []


@pytest.mark.parametrize("argument", ["--wiht=atari", "--with", "--with=", "atari"])
def test_an_unknown_argument_is_answered_with_the_usage(setup: Path, argument: str) -> None:
    ended = set_up(setup, argument)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"setup.sh: unknown argument '{argument}'; usage: ./setup.sh [--with=EXTRA,...]\n"
    assert told(setup) == []


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Darwin", "x86_64")])
def test_another_platform_is_told_what_reverb_is_published_for(setup: Path, system: str, machine: str) -> None:
    write_uname(setup.parent, system, machine)
    ended = set_up(setup)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "setup.sh: Reverb is published for Linux on x86-64 only, and this is"
        f" {system} on {machine}: use such a machine or a container.\n"
    )
    assert told(setup) == []


def test_the_locked_dependencies_are_installed_and_the_lock_is_remembered(setup: Path) -> None:
    ended = set_up(setup)
    assert (ended.returncode, ended.stderr) == (0, "")
    called = told(setup)
    assert called[2:4] == [str(setup), "sync"]
    assert "--locked" in called
    assert not any(word.startswith("--extra") for word in called)
    assert (setup / ".venv/encore-lock").read_bytes() == (setup / "uv.lock").read_bytes()


def test_extras_are_installed_and_stay(setup: Path) -> None:
    for arguments, extras in (
        (["--with=atari,box2d"], {"atari", "box2d"}),
        ([], {"atari", "box2d"}),
        (["--with=mujoco,atari"], {"atari", "box2d", "mujoco"}),
    ):
        ended = set_up(setup, *arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        called = told(setup)
        # Each once, however often it was asked for.
        given = [word.removeprefix("--extra=") for word in called if word.startswith("--extra")]
        assert sorted(given) == sorted(extras)


def test_an_installation_that_fails_is_not_taken_for_one(setup: Path) -> None:
    write_script(
        setup.parent / "bin/uv", "#!/usr/bin/env bash\nmkdir -p .venv\nprintf 'uv: no network\\n' >&2\nexit 1\n"
    )
    ended = set_up(setup)
    assert ended.returncode == 2
    assert ended.stderr.startswith("uv: no network\nsetup.sh: uv could not install the locked dependencies")
    assert not (setup / ".venv/encore-lock").exists()


def package(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A package as an installer leaves it: its files and what it recorded of them."""
    info = f"{name}-{version}.dist-info"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / info).mkdir()
    rows = [f"{path},sha256=x,{len(text)}" for path, text in files.items()]
    (folder / info / "RECORD").write_text("\n".join([*rows, f"{info}/RECORD,,"]) + "\n")


PYGAME = {"pygame/__init__.py": "# pygame", "pygame/version.py": "2.1.3"}


@pytest.fixture
def installed(setup: Path) -> Path:
    """site-packages after a first ./setup.sh: pygame, two that share a file, and two that the lock does not name."""
    assert set_up(setup).returncode == 0
    site = setup / SITE
    package(setup.parent / "pygame", "pygame", "2.1.3", PYGAME)
    package(site, "pygame", "2.1.3", PYGAME)
    package(site, "dm_tree", "0.1.8", {"shared/__init__.py": "", "tree/old.pyc": "bytecode"})
    package(site, "dm_env", "1.6", {"shared/__init__.py": "# both have it"})
    package(site, "minigrid", "3.0.0", {"minigrid/__init__.py": ""})
    package(site, "highway_env", "1.10", {"highway_env/__init__.py": ""})
    (site / "tree/old.pyc").write_text("compiled anew")
    told(setup)
    return site


def test_what_somebody_installed_is_kept_and_said(setup: Path, installed: Path) -> None:
    ended = set_up(setup)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "kept, though the lock does not name it: highway-env==1.10 minigrid==3.0.0\n" in ended.stdout
    called = told(setup)
    # Without this uv removes all that the lock does not name.
    assert "--inexact" in called
    assert called.count("sync") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "rm -r pygame",
        "rm pygame/version.py",
        "echo 'another package has it too' >pygame/__init__.py",
        "rm pygame-2.1.3.dist-info/RECORD",
    ],
)
def test_packages_whose_files_are_missing_or_changed_are_installed_again(
    setup: Path, installed: Path, damage: str
) -> None:
    subprocess.run(damage, shell=True, check=True, cwd=installed)
    (installed / "minigrid/__init__.py").unlink()
    ended = set_up(setup)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "installing again, because files are missing or changed: pygame\n" in ended.stdout
    assert [word for word in told(setup) if "reinstall" in word] == ["--reinstall-package=pygame"]
    assert {path: (installed / path).read_text() for path in PYGAME} == PYGAME


def test_packages_that_stay_broken_are_named(setup: Path, installed: Path) -> None:
    (installed / "pygame/version.py").unlink()
    (setup.parent / "pygame/pygame/version.py").unlink()
    (setup / ".venv/encore-lock").unlink()
    ended = set_up(setup)
    assert ended.returncode == 2
    assert ended.stderr == (
        "setup.sh: files are still missing or changed of: pygame; remove .venv and run ./setup.sh again.\n"
    )
    assert not (setup / ".venv/encore-lock").exists()
