"""A run's units of state: whole or passed over, whenever a save is cut off and whatever happens to the files."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from pipeline.types import UserError
from servers import checkpoint
from servers.checkpoint import MANIFEST, Checkpoints, Unit


class Folder:
    """Checkpoints whose files say their step, and the warnings that they gave."""

    def __init__(self, path: Path, kept: int | None = 3):
        self.path = path
        self.warnings: list[str] = []
        self.checkpoints = Checkpoints(path, kept, self.warnings.append)

    def save(self, step: int, text: str = "") -> Unit:
        return self.checkpoints.save(step, lambda folder: write(folder, text or str(step)), {"updates": step})

    def steps(self) -> list[int]:
        """The steps of the whole units on the disk; fails where anything else is there."""
        units = [checkpoint._read(path)[0] for path in sorted(self.path.iterdir())]
        assert None not in units
        return [unit.step for unit in units if unit]

    def latest_step(self) -> int | None:
        unit = self.checkpoints.latest()
        return unit and unit.step


def write(folder: Path, text: str) -> None:
    (folder / "replay").mkdir()
    (folder / "replay" / "items").write_text(text * 1000)
    (folder / "learner").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "checkpoints")


def test_an_empty_folder_has_no_unit(folder: Folder) -> None:
    assert folder.checkpoints.latest() is None
    assert folder.warnings == []


def test_the_latest_unit_is_what_was_saved(folder: Folder) -> None:
    folder.save(9)
    saved = folder.checkpoints.save(10, lambda path: write(path, "x"), {"lists": [1, 2], "float": 0.1})
    unit = Folder(folder.path).checkpoints.latest()
    assert unit == saved
    assert unit is not None
    assert (unit.step, unit.state) == (10, {"lists": [1, 2], "float": 0.1})
    assert (unit.path / "replay" / "items").read_text() == "x" * 1000


def test_a_run_whose_units_are_all_damaged_does_not_begin_anew_unasked(folder: Folder) -> None:
    assert folder.checkpoints.to_resume(begin_anew=False) is None
    for step in (1, 2):
        (folder.save(step).path / "learner").write_text("damaged")
    files = sorted(folder.path.rglob("*"))
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged.* with --restart_damaged"):
        folder.checkpoints.to_resume(begin_anew=False)
    assert sorted(folder.path.rglob("*")) == files
    assert folder.checkpoints.to_resume(begin_anew=True) is None
    assert folder.steps() == []
    folder.save(3)
    (folder.save(4).path / MANIFEST).write_text("")
    unit = folder.checkpoints.to_resume(begin_anew=True)
    assert unit is not None
    assert unit.step == 3


@pytest.mark.parametrize(
    ("first", "last", "kept"),
    [(0, 9, [2, 4, 6, 8]), (2, 9, [2, 4, 6, 8]), (5, 9, [4, 6, 8]), (5, 7, [4, 6]), (9, 9, [8]), (0, 0, [])],
)
def test_units_are_kept_between_two_steps_and_the_newest_before_them(
    tmp_path: Path, first: int, last: int, kept: list[int]
) -> None:
    folder = Folder(tmp_path, kept=None)
    for step in (2, 4, 6, 8):
        folder.save(step)
    folder.checkpoints.keep_between(first, last)
    assert folder.checkpoints.steps() == folder.steps() == kept


@pytest.mark.parametrize(("kept", "count", "steps"), [(3, 6, [4, 5, 6]), (1, 3, [3]), (3, 2, [1, 2])])
def test_the_newest_few_are_kept(tmp_path: Path, kept: int, count: int, steps: list[int]) -> None:
    folder = Folder(tmp_path, kept)
    assert folder.checkpoints.newest() is None
    for step in range(1, count + 1):
        unit = folder.save(step)
        assert folder.checkpoints.newest() == unit.path
    assert folder.steps() == steps
    assert folder.latest_step() == count


def test_steps_are_ordered_as_numbers(folder: Folder) -> None:
    for step in (9, 10, 99, 100, 1_000_000):
        folder.save(step)
    assert folder.steps() == [99, 100, 1_000_000]


def test_saving_a_step_again_gives_the_newer_contents(tmp_path: Path) -> None:
    folder = Folder(tmp_path, kept=1)
    folder.save(1)
    for text in ("first", "again", "and again", "and again and again"):
        folder.save(2, text)
        unit = folder.checkpoints.latest()
        assert unit is not None
        assert (unit.step, (unit.path / "learner").read_text()) == (2, text)
    folder.save(3)
    assert folder.steps() == [3]
    kept = Folder(tmp_path / "kept", kept=3)
    for text in map(str, range(12)):
        kept.save(2, text)
        unit = kept.checkpoints.latest()
        assert unit is not None
        assert (unit.path / "learner").read_text() == text
    assert kept.steps() == [2, 2, 2]


INTERRUPTIONS = [
    OSError(errno.ENOSPC, "No space left on device"),
    tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    RuntimeError("the replay server is gone"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("interruption", INTERRUPTIONS, ids=[type(error).__name__ for error in INTERRUPTIONS])
@pytest.mark.parametrize("step", [2, 3])
def test_an_interrupted_save_leaves_nothing_behind_and_the_earlier_units(
    folder: Folder, interruption: BaseException, step: int
) -> None:
    folder.save(1)
    folder.save(2)

    def interrupted(path: Path) -> None:
        write(path, "half")
        raise interruption

    with pytest.raises(type(interruption)):
        folder.checkpoints.save(step, interrupted, {})
    assert folder.steps() == [1, 2]
    unit = folder.checkpoints.latest()
    assert unit is not None
    assert (unit.path / "learner").read_text() == "2"
    assert folder.warnings == []


def test_the_manifest_comes_into_place_whole_after_everything_else_is_on_the_disk(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: seen.append((path / MANIFEST).exists()))
    path = folder.path / "step-000000000001"
    assert folder.save(1).path == path
    assert seen == [False, False, False, True]  # two files, the manifest under another name, the folder


@pytest.mark.parametrize("call", range(4))  # two files, the manifest, the folder
def test_a_disk_that_is_full_when_the_files_are_synced_leaves_the_earlier_units(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    folder.save(1)
    calls = iter(range(call + 1))

    def fsync(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        folder.save(2)
    assert folder.steps() == [1]


def test_a_folder_without_a_manifest_is_no_unit_and_goes_with_the_next_save(folder: Folder) -> None:
    folder.save(1)
    half = folder.path / "step-000000000002"
    half.mkdir()
    (half / f"{MANIFEST}.new").write_text("{")
    assert folder.latest_step() == 1
    assert folder.warnings == []
    folder.save(3)
    assert folder.steps() == [1, 3]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path, at: int = 0, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def fallback(folder: Folder, damaged: Path) -> None:
    """Asserts that `latest` passes over `damaged`, with one warning."""
    folder.warnings.clear()
    assert folder.latest_step() == 2
    [warning] = folder.warnings
    assert str(damaged) in warning
    assert "falling back to the one before" in warning


@pytest.mark.parametrize("damage", [cut, empty, grow, flip, Path.unlink])
@pytest.mark.parametrize("file", ["learner", "replay/items"])
def test_a_damaged_file_is_noticed(folder: Folder, file: str, damage: Callable[[Path], None]) -> None:
    units = [folder.save(step) for step in (1, 2, 3)]
    damage(units[-1].path / file)
    fallback(folder, units[-1].path)
    assert Path(file).name in folder.warnings[0]


@pytest.mark.parametrize("damage", [cut, empty, grow])
def test_a_damaged_manifest_is_noticed(folder: Folder, damage: Callable[[Path], None]) -> None:
    units = [folder.save(step) for step in (1, 2, 3)]
    damage(units[-1].path / MANIFEST)
    fallback(folder, units[-1].path)


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed(folder: Folder) -> None:
    units = [folder.save(step) for step in (1, 2, 3)]
    manifest = units[-1].path / MANIFEST
    whole = manifest.read_bytes()
    for at in range(len(whole)):
        flip(manifest, at, bit=at % 8)
        fallback(folder, units[-1].path)
        manifest.write_bytes(whole)
    assert folder.latest_step() == 3


@pytest.mark.parametrize("value", [[], 3, None, "text", {}, {"checksum": 0}, {"step": 3}])
def test_a_manifest_of_another_kind_is_noticed(folder: Folder, value: Any) -> None:
    units = [folder.save(step) for step in (1, 2, 3)]
    (units[-1].path / MANIFEST).write_text(json.dumps(value))
    fallback(folder, units[-1].path)


def test_several_damaged_units_give_a_warning_each(folder: Folder) -> None:
    units = [folder.save(step) for step in (1, 2, 3)]
    for unit in units[1:]:
        flip(unit.path / "learner")
    assert folder.latest_step() == 1
    assert len(folder.warnings) == 2
    flip(units[0].path / "learner")
    assert folder.latest_step() is None


def test_where_one_is_kept_it_is_the_one_that_was_saved_last(tmp_path: Path) -> None:
    # The best network of a run that was killed, and found a better one before it was as far again.
    folder = Folder(tmp_path, kept=1)
    for step in (5_000, 3_000):
        folder.save(step)
    assert folder.steps() == [3_000]


@pytest.mark.parametrize("kept", [1, 3])
def test_a_run_that_fell_back_keeps_what_it_saves_before_the_damaged_step(tmp_path: Path, kept: int) -> None:
    folder = Folder(tmp_path, kept)
    folder.save(10)
    flip(folder.save(30).path / "learner")
    folder.save(20)
    assert folder.latest_step() == 20


PROGRAM = """
import sys
from pathlib import Path
from servers.checkpoint import Checkpoints

def write(step):
    def parts(folder):
        for part in range(4):
            (folder / f"part{part}").write_text(f"{step} " * 5000)
    return parts

checkpoints = Checkpoints(Path(sys.argv[1]), kept=2, warn=print)
"""


def run(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def step_of_whole_unit(folder: Folder) -> int:
    """The latest unit's step, 0 where there is none; its files must be those of this step."""
    unit = folder.checkpoints.latest()
    if unit is None:
        return 0
    assert [(unit.path / f"part{part}").read_text() for part in range(4)] == [f"{unit.step} " * 5000] * 4
    return unit.step


SAVE_FOR_EVER = """
unit = checkpoints.latest()
step = 0 if unit is None else unit.step
while True:
    step += 1
    checkpoints.save(step, write(step), {})
    print(step, flush=True)
"""


def test_a_process_killed_while_it_saves_leaves_whole_units_and_never_goes_back(tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = Folder(tmp_path)
    reached = 0
    for _ in range(10):
        with run(SAVE_FOR_EVER, tmp_path) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(rng.randint(1, 3))]
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.02))
            process.kill()
            lines += process.stdout.read().split("\n")
        saved = max(int(line) for line in lines if line.strip())
        assert saved > reached  # it went on from where the one before was killed
        reached = step_of_whole_unit(folder)
        assert saved <= reached <= saved + 1
    assert folder.warnings == []


KILLED_AT_EVERY_CALL = """
import itertools, os, shutil, signal

step = int(sys.argv[2])
for number in (1, 2, 3):
    checkpoints.save(number, write(number), {})
for kill_at in itertools.count(1):
    folder = Path(f"{sys.argv[1]}-{kill_at}")
    shutil.copytree(sys.argv[1], folder)
    child = os.fork()
    if child == 0:
        calls = itertools.count(1)

        def hook(event, arguments):
            if event.startswith(("open", "os.", "shutil.")) and next(calls) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        Checkpoints(folder, kept=1, warn=print).save(step, write(step), {})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(folder, flush=True)
    if status == 0:
        break
"""


@pytest.mark.parametrize("step", [3, 4], ids=["the same step again", "the next step"])
def test_killed_at_every_single_call_to_the_file_system_it_leaves_a_whole_unit(tmp_path: Path, step: int) -> None:
    with run(KILLED_AT_EVERY_CALL, tmp_path / "run", step) as process:
        assert process.stdout is not None
        paths = process.stdout.read().split()
    assert process.returncode == 0
    folders = [Folder(Path(path)) for path in paths]
    assert len(folders) > 15
    steps = [step_of_whole_unit(folder) for folder in folders]
    assert steps == sorted(steps)
    assert {3} <= set(steps) <= {3, step}
    assert steps[-1] == step
    assert not any(folder.warnings for folder in folders)
    for folder in folders:  # and the next save finds its way
        folder.checkpoints.save(5, lambda path: write(path, "5"), {})
        assert folder.latest_step() == 5
