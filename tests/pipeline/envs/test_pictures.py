"""Pictures in every common layout are recorded as they look; what is none is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.envs.pictures import rgb
from pipeline.envs.recorder import Recorder, check_pictures
from pipeline.envs.scripted import Scripted
from pipeline.types import UserError
from tests.pipeline.envs.test_recorder import frames, videos

PICTURE = np.zeros((32, 48, 3), np.uint8)
PICTURE[:16, :, 0] = 200
PICTURE[:, :24, 1] = 255
GREY = PICTURE[..., :1]
OPACITY = np.full((32, 48, 1), 255, np.uint8)


@pytest.mark.parametrize(
    ("drawn", "seen"),
    [
        (PICTURE, PICTURE),
        (np.concatenate([PICTURE, OPACITY], -1), PICTURE),
        (np.moveaxis(PICTURE, -1, 0), PICTURE),
        (np.moveaxis(np.concatenate([PICTURE, OPACITY], -1), -1, 0), PICTURE),
        (GREY, np.repeat(GREY, 3, -1)),
        (GREY[..., 0], np.repeat(GREY, 3, -1)),
        (np.moveaxis(GREY, -1, 0), np.repeat(GREY, 3, -1)),
        (PICTURE / 255, PICTURE),
        (PICTURE.astype(np.float32), PICTURE),
        (np.concatenate([PICTURE, OPACITY], -1) / np.float32(255), PICTURE),
        (PICTURE.astype(np.int64), PICTURE),
        (PICTURE > 0, (PICTURE > 0) * np.uint8(255)),
        ([PICTURE * 0, PICTURE], PICTURE),
        (PICTURE.tolist(), PICTURE),
        (np.asfortranarray(PICTURE), PICTURE),
    ],
)
def test_every_layout_is_seen_as_it_looks(drawn: Any, seen: np.ndarray) -> None:
    picture = rgb(drawn, "mine")
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, seen)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (None, "mine has no pictures to record: it draws None"),
        ("a text", "it draws a str"),
        (np.zeros((0, 0, 3), np.uint8), r"it draws uint8 \(0, 0, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"it draws uint8 \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 2), np.uint8), r"mine draws uint8 \(8, 8, 2\), and a picture has 1, 3 or 4 channels"),
        (np.full((8, 8, 3), -0.5), "mine draws float64 from -0.5 to -0.5, and levels lie in"),
        (np.full((8, 8, 3), 300), "draws int64 from 300 to 300"),
        (np.full((8, 8, 3), np.nan), "draws float64 from nan to nan"),
    ],
)
def test_what_is_no_picture_is_refused(drawn: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rgb(drawn, "mine")


class Draws(Scripted):
    """An environment of one's own that draws `drawn`, and `later` from its second step on."""

    def __init__(self, drawn: Any, later: Any = None) -> None:
        super().__init__((3,), (False,))
        self.drawn, self.later = drawn, later

    def render(self) -> Any:
        return self.drawn if self.later is None or self._step < 2 else self.later


def record(environment: Any, folder: Path) -> None:
    recorder = Recorder(environment, videos(folder), "test", 0, 1, 1)
    recorder.reset(0)
    for _ in range(3):
        recorder.step(np.int32(0))
    recorder.close()


def test_a_video_of_an_environment_of_ones_own_shows_its_pictures(tmp_path: Path) -> None:
    make = partial(Draws, np.moveaxis(np.concatenate([PICTURE, OPACITY], -1), -1, 0))
    check_pictures(make, shown=False)
    record(make, tmp_path)
    shown = frames(next(tmp_path.glob("*.mp4")))
    assert shown.shape == (4, 32, 48, 3)
    assert np.abs(shown.astype(int) - PICTURE).mean() < 5


def test_pictures_that_change_their_size_cost_the_video_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(partial(Draws, PICTURE, PICTURE[:16]), tmp_path)
    said = capsys.readouterr().out
    assert "an episode was not recorded (its pictures change from (32, 48, 3) to (16, 48, 3))" in said
    assert not list(tmp_path.iterdir())
