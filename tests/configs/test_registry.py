"""Hyper-parameters are named, or are files of a person's own, and both are joined by '-'."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from binaries import flags, settings
from configs import registry
from pipeline.types import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of a person's own; the registry has others."""
    known, own = tmp_path / "known", tmp_path / "my-own"
    for folder in (known, own / "below"):
        folder.mkdir(parents=True)
    for name in ("dqn", "my", "my-exp", "a", "b"):
        (known / f"{name}.gin").write_text("DQN.gamma = 0.5\n" if name == "dqn" else "")
    (own / "mine.gin").write_text("include 'base.gin'\ninclude 'dqn.gin'\ninclude 'below/deep.gin'\nDQN.n_step = 2\n")
    (own / "base.gin").write_text("DQN.batch_size = 4\n")
    (own / "below" / "deep.gin").write_text("include '../base.gin'\nMLP.activation = 'tanh'\n")
    (own / "dqn.gin").write_text("include 'dqn.gin'\nDQN.double = True\n")
    (own / "two-words.gin").write_text("DQN.n_step = 3\n")
    monkeypatch.setattr(registry, "_folders", [known])
    monkeypatch.chdir(own)
    return own


@pytest.mark.parametrize(
    ("hparams", "files"),
    [
        ("dqn", ["known/dqn.gin"]),
        ("my-exp", ["known/my-exp.gin"]),
        ("a-my-exp-b", ["known/a.gin", "known/my-exp.gin", "known/b.gin"]),
        ("my-a", ["known/my.gin", "known/a.gin"]),
        ("my-exp-my", ["known/my-exp.gin", "known/my.gin"]),
        ("./mine.gin", ["my-own/mine.gin"]),
        ("mine.gin", ["my-own/mine.gin"]),
        ("./mine", ["my-own/mine.gin"]),
        ("../my-own/mine.gin", ["my-own/mine.gin"]),
        ("{here}/mine.gin", ["my-own/mine.gin"]),
        ("{here}/mine.gin-a-{here}/two-words.gin", ["my-own/mine.gin", "known/a.gin", "my-own/two-words.gin"]),
        ("my-exp-./two-words.gin-dqn", ["known/my-exp.gin", "my-own/two-words.gin", "known/dqn.gin"]),
        ("a.gin", ["known/a.gin"]),
        ("./dqn.gin", ["my-own/dqn.gin"]),
    ],
)
def test_names_and_paths_are_joined(
    hparams: str, files: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams = hparams.format(here=here)
    expected = [here.parent / file for file in files]
    assert registry.paths(hparams) == expected
    absolute = registry.absolute(hparams)
    # Another process of the run works in another folder.
    monkeypatch.chdir("/")
    assert registry.paths(absolute) == expected


def test_a_whole_path_without_a_dash_is_a_file() -> None:
    # pytest's own folders have dashes.
    with tempfile.TemporaryDirectory(prefix="whole", dir=Path("/tmp")) as folder:
        file = Path(folder).resolve() / "mine.gin"
        file.write_text("")
        assert "-" not in str(file)
        assert registry.paths(str(file)) == [file]
        assert registry.absolute(str(file)) == str(file)


def test_a_path_from_home_is_a_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert registry.paths("a-~/mine.gin") == [here.parent / "known/a.gin", here / "mine.gin"]


@pytest.mark.parametrize(
    ("hparams", "sentence"),
    [
        ("my-exq", "There are no hparams 'exq'; "),
        ("mx-exp", "There are no hparams 'mx'; did you mean my"),
        ("./no.gin", "There is no file './no.gin' for --hparams."),
        ("a-./no.gin-dqn", "There is no file './no.gin' for --hparams."),
        ("no/such/folder", "There is no file 'no/such/folder.gin' for --hparams."),
        ("no.gin", "There is no file 'no.gin' for --hparams."),
        ("./mine.gin-nothing", "There are no hparams 'nothing'; "),
        ("", "There are no hparams ''; "),
    ],
)
def test_what_does_not_exist_is_one_sentence(hparams: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        registry.paths(hparams)
    assert str(error.value).startswith(sentence)


def test_a_file_includes_what_lies_beside_it_and_else_what_has_the_name() -> None:
    read = settings.read("./mine.gin", [], {})
    assert {name: (b.value, b.origin) for name, b in read.items()} == {
        "DQN.batch_size": (4, "base.gin:1"),
        "DQN.gamma": (0.5, "dqn.gin:1"),
        "DQN.double": (True, "dqn.gin:2"),
        "MLP.activation": ("tanh", "deep.gin:2"),
        "DQN.n_step": (2, "mine.gin:4"),
    }


def test_a_command_records_the_whole_path(here: Path) -> None:
    (here / "run.gin").write_text("Experiment.environment = 'scripted'\nExperiment.algo = 'dqn'\n")
    flags.FLAGS.unparse_flags()
    command = flags.parse(["train", "--hparams=a-run.gin"])
    assert command.flags["hparams"] == f"a-{here / 'run.gin'}"


def test_a_file_that_cannot_be_read_is_one_sentence(here: Path) -> None:
    (here / "bytes.gin").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bytes\.gin cannot be read \("):
        settings.read("./bytes.gin", [], {})
