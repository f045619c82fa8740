"""Recorded episodes are files that play, named after what they show; whatever goes wrong costs the video only."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pygame
import pytest
from PIL import Image

from pipeline.envs.block import InProcess
from pipeline.envs.environment import Done, Environment
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make
from pipeline.envs.recorder import Recorder, Videos, check_pictures
from pipeline.envs.scripted import Scripted
from pipeline.types import UserError
from tests.limits import LIMIT_S


class Drawn(Scripted):
    """Scripted episodes whose pictures have odd sides, and tell the step by their brightness."""

    frame_rate = 10.0

    def render(self) -> np.ndarray:
        return np.full([33, 65, 3], 20 * int(self._state()[1]), np.uint8)


class Undrawn(Drawn):
    """Fails to draw, now and then."""

    def render(self) -> np.ndarray:
        if self._state()[1] == 2:
            raise UserError("the screen is gone.\nAnd more")
        return super().render()


def videos(folder: Path) -> Videos:
    made = Videos(folder, "libx264")
    made.env_steps = lambda: 1234
    made.start()
    return made


def play(environment: Environment, episodes: int) -> list[float]:
    """The returns of so many episodes."""
    environment.reset(0)
    returns = []
    for _ in range(episodes):
        total, done = 0.0, Done.NO
        while not done:
            _, reward, done = environment.step(np.int32(0))
            total += reward
        returns.append(total)
        environment.step(np.int32(0))
    return returns


def frames(path: Path) -> np.ndarray:
    """[frames, height, width, 3] u8."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def test_every_so_many_episodes_are_recorded_and_named_by_step_and_return(tmp_path: Path) -> None:
    kept = videos(tmp_path)
    # Episodes of 3, 1 and 5 steps in turn.
    recorder = Recorder(Drawn, kept, "train", 0, 1, period=3)
    assert play(recorder, 4) == play(Drawn(), 4) == [6, 1, 15, 6]
    recorder.close()
    names = [f"train-step-000001234-episode-{k:06d}-return-6.0.mp4" for k in (0, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [video.path.name for video in kept.finished] == names


@pytest.mark.parametrize("library", ["gym", "gymnasium"])
def test_a_video_shows_the_whole_episode_in_h264(library: str, tmp_path: Path) -> None:
    recorder = Recorder(partial(make, f"{library}:CartPole-v1", "rgb_array"), videos(tmp_path), "test", 0, 1, 1)
    (steps,) = play(recorder, 1)
    recorder.close()
    (path,) = tmp_path.glob("*.mp4")
    meta = next(imageio_ffmpeg.read_frames(str(path)))
    assert (meta["codec"], meta["fps"], meta["size"]) == ("h264", 50.0, (600, 400))
    assert meta["pix_fmt"].startswith("yuv420p")
    shown = frames(path)
    assert len(shown) == steps + 1
    # The pole moves.
    assert (shown[0] != shown[-1]).mean() > 0.001


def test_the_pictures_are_those_of_the_steps(tmp_path: Path) -> None:
    recorder = Recorder(Drawn, videos(tmp_path), "test", 0, 1, 1)
    play(recorder, 1)
    recorder.close()
    shown = frames(next(tmp_path.glob("*-episode-000000-*")))
    assert shown.shape == (4, 34, 66, 3)  # even sides
    np.testing.assert_allclose(shown.mean((1, 2, 3)), [0, 20, 40, 60], atol=3)


def test_lanes_number_their_episodes_apart(tmp_path: Path) -> None:
    kept = videos(tmp_path)
    lanes = Lanes(InProcess([partial(Recorder, Drawn, kept, "test", lane, 2, 1) for lane in range(2)]), together=True)
    lanes.reset(0)
    for _ in range(6):
        lanes.step(np.zeros(2, np.int32))
    lanes.close()
    numbers = sorted(int(video.path.name.split("-")[4]) for video in kept.finished)
    assert numbers == [0, 1, 2, 3]


def test_what_goes_wrong_costs_the_video_only_and_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(Undrawn, videos(tmp_path), "train", 0, 1, 1)
    assert play(recorder, 4) == [6, 1, 15, 6]
    recorder.close()
    assert [path.name.split("-")[4] for path in tmp_path.iterdir()] == ["000001"]
    said = "WARNING: an episode was not recorded (the screen is gone.); the run goes on.\n"
    assert capsys.readouterr().out == said


def test_an_encoder_that_dies_costs_the_video_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(partial(make, "CartPole-v1", "rgb_array"), videos(tmp_path), "train", 0, 1, 1)
    recorder.reset(0)
    (encoder,) = (child for child in psutil.Process().children() if "ffmpeg" in child.name())
    encoder.send_signal(signal.SIGKILL)
    encoder.wait(LIMIT_S)
    while not recorder.step(np.int32(0))[2]:
        pass
    play(recorder, 1)
    recorder.close()
    assert "WARNING: an episode was not recorded" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_runs_unfinished_video_is_removed(tmp_path: Path) -> None:
    (tmp_path / "unfinished-train-0.mp4").touch()
    (tmp_path / "train-step-000000010-episode-0-return-1.0.mp4").touch()
    videos(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train-step-000000010-episode-0-return-1.0.mp4"]


def test_a_run_goes_on_with_or_without_a_recorder(tmp_path: Path) -> None:
    recorder = Recorder(partial(make, "CartPole-v1", "rgb_array"), videos(tmp_path), "train", 0, 1, 1)
    recorder.reset(3)
    recorder.step(np.int32(1))
    state, plain = recorder.state(), make("CartPole-v1")
    assert state is not None
    plain.restore(state)
    expected = [plain.step(np.int32(k % 2)) for k in range(60)]
    again = Recorder(partial(make, "CartPole-v1", "rgb_array"), videos(tmp_path), "train", 0, 1, 1)
    again.restore(state)
    for one in (recorder, again):
        for (s, r, d), (s2, r2, d2) in zip(expected, [one.step(np.int32(k % 2)) for k in range(60)], strict=True):
            np.testing.assert_array_equal(s, s2)
            assert (r, d) == (r2, d2)
        one.close()


def test_the_gif_moves(tmp_path: Path) -> None:
    kept = videos(tmp_path)
    recorder = Recorder(partial(make, "CartPole-v1", "rgb_array"), kept, "train", 0, 1, 1)
    play(recorder, 1)
    recorder.close()
    path = tmp_path / "x.gif"
    path.write_bytes(kept.gif(kept.finished[0]))
    with Image.open(path) as image:
        assert (image.format, image.width, image.n_frames > 1) == ("GIF", 240, True)  # pyright: ignore
    assert kept.gif(kept.finished[0]._replace(path=tmp_path / "absent.mp4")) == b""


def test_an_encoder_that_ffmpeg_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no encoder .libx999. \(Experiment.video_codec\)"):
        Videos(tmp_path, "libx999")


def test_an_ffmpeg_that_does_not_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(UserError, match="Videos need ffmpeg, which cannot be run"):
        Videos(tmp_path, "libx264")


def test_environments_without_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="Scripted has no pictures to record"):
        check_pictures(Scripted, shown=False)
    with pytest.raises(UserError, match="'scripted' has no window of its own: use --record_video"):
        make("scripted", "human")
    check_pictures(Drawn, shown=False)


@pytest.mark.parametrize("library", ["gym", "gymnasium"])
def test_a_shown_environment_draws_every_state_in_its_window(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    flips = []
    monkeypatch.setattr(pygame.display, "flip", lambda: flips.append(os.getpid()))
    environment = make(f"{library}:CartPole-v1", "human")
    environment.reset(0)
    for _ in range(5):
        environment.step(np.int32(1))
    environment.close()
    assert len(flips) == 6
