"""Videos of episodes: .mp4 files that a browser plays, one for each recorded episode."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import numpy as np

from pipeline.envs.closing import close
from pipeline.envs.crashes import Hang
from pipeline.envs.environment import Done, Environment
from pipeline.envs.guard import guarded
from pipeline.envs.pictures import rgb
from pipeline.types import Nest, UserError

GIF_WIDTH = 240
GIF_RATE = 10
GIF_SECONDS = 20


class Video(NamedTuple):
    """A finished video."""

    path: Path
    part: str
    """'train' or 'test'"""
    env_steps: int
    """of the run, when the episode ended"""


class Videos:
    """Where a run's videos go, and which of them are new."""

    def __init__(self, folder: Path, codec: str):
        """`codec`: ffmpeg's name of an encoder; raises UserError where there is no ffmpeg, or it does not have it."""
        self._folder = folder
        self._codec = codec
        self.env_steps: Callable[[], int] = lambda: 0
        """how far the run is"""
        self.finished: list[Video] = []
        """those that were finished since someone emptied this list"""
        self._warned = False
        try:
            self._ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
            ask = [self._ffmpeg, "-hide_banner", "-encoders"]
            encoders = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise UserError(f"Videos need ffmpeg, which cannot be run ({error}): leave out --record_video.") from error
        if codec not in encoders.split():
            raise UserError(
                f"ffmpeg has no encoder '{codec}' (Experiment.video_codec): choose one that '{self._ffmpeg} -encoders'"
                " lists, or unset IMAGEIO_FFMPEG_EXE for Encore's own ffmpeg."
            )

    def start(self) -> None:
        """Makes the folder, and removes what a killed run had not finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob("unfinished-*"):
            left.unlink()

    def unfinished(self, part: str, lane: int) -> Path:
        """The file of the episode under way in `lane`."""
        return self._folder / f"unfinished-{part}-{lane}.mp4"

    def encoder(self, path: Path, frame: np.ndarray, rate: float) -> Generator[None, Any, None]:
        """Takes frames like `frame` by `send`, after a first None; ends the file when it is closed."""
        height, width, _ = frame.shape
        # yuv420p is what browsers play; it needs even sides, which macro_block_size sees to.
        return imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=rate,  # pyright: ignore[reportArgumentType] it takes fractions
            codec=self._codec,
            macro_block_size=2,
            ffmpeg_log_level="error",
            ffmpeg_timeout=60.0,
            output_params=["-movflags", "+faststart"],
        )

    def keep(self, path: Path, part: str, episode: int, episode_return: float) -> None:
        """Gives a finished file its name."""
        steps = self.env_steps()
        name = f"{part}-step-{steps:09d}-episode-{episode:06d}-return-{episode_return:.1f}.mp4"
        self.finished.append(Video(path.replace(self._folder / name), part, steps))

    def warn(self, reason: object) -> None:
        """Says once that a video could not be written."""
        if not self._warned:
            self._warned = True
            print(f"WARNING: an episode was not recorded ({reason}); the run goes on.", flush=True)

    def gif(self, video: Video) -> bytes:
        """The video as a small animated GIF, which TensorBoard shows as an image; b'' where that fails."""
        filters = f"fps={GIF_RATE},scale={GIF_WIDTH}:-1,split[a][b];[a]palettegen[c];[b][c]paletteuse"
        command = [self._ffmpeg, "-v", "error", "-i", str(video.path), "-t", str(GIF_SECONDS)]
        try:
            done = subprocess.run([*command, "-vf", filters, "-f", "gif", "-"], capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return b""
        return done.stdout


def check_pictures(make: Callable[[], Environment], shown: bool) -> None:
    """Raises UserError where an environment cannot be drawn on this machine, or not be `shown` in a window."""
    environment = make()
    try:
        environment.reset(0)
        if not shown:
            with guarded():
                rgb(environment.render(), type(environment).__name__)
    except UserError:
        raise
    except Exception as error:  # whatever a library raises that misses a screen or a driver
        raise UserError(f"The environment cannot be drawn on this machine: {error}") from error
    finally:
        close(environment)


class Recorder(Environment):
    """An environment, and videos of its episodes: the first, and every `period`-th after it.

    What goes wrong with a video is said once and costs the video only.
    """

    def __init__(self, make: Callable[[], Environment], videos: Videos, part: str, lane: int, lanes: int, period: int):
        """`make`: of an environment that can `render`. Its episode k has number `lane` + k * `lanes`."""
        self._environment = make()
        self.observation_spec = self._environment.observation_spec
        self.action_spec = self._environment.action_spec
        self.frame_rate = self._environment.frame_rate
        self._videos = videos
        self._part = part
        self._lane = lane
        self._lanes = lanes
        self._period = period
        self._episodes = 0
        """begun here"""
        self._encoder: Generator[None, Any, None] | None = None
        self._shape: tuple[int, ...] = ()
        """of the pictures of the video under way"""
        self._return = 0.0

    def _begin(self, seed: int | None) -> Nest:
        self._drop()
        state = self._environment.reset(seed)
        self._return = 0.0
        if self._episodes % self._period == 0:
            self._picture()
        self._episodes += 1
        return state

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = self._environment.step(action)
        self._return += reward
        if self._encoder is not None:
            self._picture(last=bool(done))
        return state, reward, done

    def _read(self, state: Nest, /) -> Nest:
        return state  # read already

    def render(self) -> np.ndarray:
        return self._environment.render()

    def state(self) -> bytes | None:
        # As without a recorder, so that a run may go on with or without one.
        return self._environment.state()

    def restore(self, state: bytes) -> None:
        self._environment.restore(state)
        self._ended = self._environment._ended

    def close(self) -> None:
        self._drop()
        self._environment.close()

    def _picture(self, last: bool = False) -> None:
        """Adds the present state to the video, which begins with it where there is none yet."""
        path = self._videos.unfinished(self._part, self._lane)
        try:
            with guarded():
                drawn = self._environment.render()
            # Of an environment of one's own, it may be anything.
            frame = np.ascontiguousarray(rgb(drawn, type(self._environment).__name__))
            if self._encoder is None:
                self._encoder = self._videos.encoder(path, frame, self.frame_rate)
                self._encoder.send(None)
                self._shape = frame.shape
            if frame.shape != self._shape:
                raise UserError(f"its pictures change from {self._shape} to {frame.shape}")
            self._encoder.send(frame)
            if last:
                self._encoder.close()
                self._videos.keep(path, self._part, self._lane + (self._episodes - 1) * self._lanes, self._return)
                self._encoder = None
        except Hang:
            raise
        except Exception as error:  # whatever an environment raises that is drawn, or an encoder
            self._videos.warn(str(error).strip().partition("\n")[0])
            self._drop()

    def _drop(self) -> None:
        """Ends the video under way, if there is one, without keeping it."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
            self._videos.unfinished(self._part, self._lane).unlink(missing_ok=True)
