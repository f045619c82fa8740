"""The report says what the runs' folders say, in one page that needs nothing else."""

from __future__ import annotations

import base64
import html.parser
import json
import math
import re
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf

from binaries import report
from binaries.report import (
    choose_videos,
    curve,
    differences,
    figure,
    find,
    group,
    iqm,
    place_rows,
    read,
    score_rows,
    speed_rows,
    summary,
    write,
)
from pipeline.types import UserError
from tests.binaries.programs import run as run_program

HARDWARE = {"processor": "Epyc", "cores": 2, "memory_gib": 7.8, "gpus": ["H100", "H100"]}


def make_run(folder: Path, seed: int, score: float | None, **settings: Any) -> Path:
    """A run's folder as `train` leaves it, with evaluations that rise to `score`; None: it has only begun."""
    folder.mkdir(parents=True)
    values = {"Experiment.environment": "'CartPole-v1'", "Experiment.seed": str(seed), **settings}
    record: dict[str, Any] = {
        "settings": values,
        "flags": {"hparams": "dqn_cartpole"},
        "versions": {"numpy": "1.26.4"},
        "git_commit": "a1",
    }
    record["sessions"] = [{"started": f"2026-11-2{day}T14:13:33+00:00", "hardware": HARDWARE} for day in (7, 8)]
    (folder / "progress.json").write_text('{"wall_seconds": 3700.4}')
    (folder / "run.json").write_text(json.dumps(record))
    lines = [f"# Parameters:\n{name} = {value}" for name, value in values.items()]
    (folder / "operative_config.gin").write_text("\n".join([*lines, "MLP.hidden_sizes = \\\n    (256,\n     256)", ""]))
    if score is None:
        return folder
    results = [line("eval", 100 * k, score * k / 10) for k in range(1, 11)]
    results += [line("test", 1_000, -5.0), line("test", 1_000, score)]
    (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    with tf.summary.create_file_writer(str(folder / "train")).as_default():
        for step in range(100, 1_100, 100):
            tf.summary.scalar("episode_return", score * step / 1_000, step)
            tf.summary.scalar("speed/env_steps_per_second", 900.0 + step, step)
            tf.summary.scalar("learner/loss", 1e9, step)
    return folder


def line(kind: str, steps: int, mean: float) -> dict[str, Any]:
    numbers = {"env_steps": steps, "updates": steps // 2, "mean_return": mean, "std_return": 1.5, "episodes": 100}
    return {"kind": kind, **numbers, "policy": "greedy", "seed": 2_000_000}


def add_video(folder: Path, name: str, size: int) -> None:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / name).write_bytes(b"\0" * size)


def groups_of(*folders: Path) -> list[report.Group]:
    return group([read(folder) for folder in find(folders)])


def test_processes_that_died_are_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 10.0)
    faults = [("learner", "killed by SIGKILL"), ("actor_0", "ended with status 1: x"), ("learner", "killed by SIGKILL")]
    lines = [json.dumps({"time": 1.0, "process": process, "fault": fault}) for process, fault in faults]
    (folder / "faults.jsonl").write_text("".join(f"{line}\n" for line in lines))
    text = report.write([folder], tmp_path / "to")
    assert "| 0 | learner | killed by SIGKILL | 2 |" in text
    assert "| 0 | actor_0 | ended with status 1: x | 1 |" in text
    page = (tmp_path / "to" / "report.html").read_text()
    assert "Faults" in page
    quiet = make_run(tmp_path / "quiet", 0, 10.0)
    assert "Faults" not in report.write([quiet], tmp_path / "to")


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    values = np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert iqm(values).mean == np.mean([2.0, 3.0, 4.0, 5.0])
    assert iqm(values[::-1, None] * [1.0, 2.0]).mean.tolist() == [3.5, 7.0]


def test_the_interval_is_a_percentile_bootstrap_over_runs() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, 12)
    found = iqm(values)
    generator = np.random.default_rng(7)
    means = []
    for _ in range(4_000):
        drawn = np.sort(generator.choice(values, 12))
        means.append(drawn[3:9].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.15)
    assert found.high == pytest.approx(high, abs=0.15)
    assert found.low < found.mean < found.high


def test_one_run_gives_no_interval() -> None:
    found = iqm(np.array([3.0]))
    assert found.mean == 3.0
    assert math.isnan(found.low)
    assert iqm(np.full(4, 3.0)) == (3.0, 3.0, 3.0)


def test_few_runs_have_their_range_for_a_band() -> None:
    assert iqm(np.array([1.0, 2.0, 6.0])) == (3.0, 1.0, 6.0)
    five = iqm(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert five.low > 1.0
    assert five.high < 100.0


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([7.0], "7.0 of one run, which tells nothing of other seeds"),
        ([7.0, 8.0, 12.0], "mean 9.0 of 3 runs (7.0, 8.0, 12.0), too few for an interval"),
        (
            [1.0, 2.0, 3.0, 4.0, 5.0],
            r"IQM 3.0, 95% interval \[1.\d, 4.\d\] \(bootstrap over 5 runs\); mean 3.0 \+- 1.6 \(standard deviation"
            r" over runs\)",
        ),
    ],
)
def test_a_score_claims_what_so_many_runs_can_tell(scores: list[float], sentence: str, tmp_path: Path) -> None:
    for seed, score in enumerate(scores):
        make_run(tmp_path / f"run_{seed}", seed, score)
    (one,) = groups_of(tmp_path)
    assert summary(one) == sentence or re.fullmatch(sentence, summary(one))


def test_a_test_of_one_episode_has_no_spread(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 7.0)
    (folder / "results.jsonl").write_text(json.dumps({**line("test", 1_000, 7.0), "episodes": 1}) + "\n")
    ((_, _, _, returned, episodes, _),) = score_rows(groups_of(folder)[0])
    assert (returned, episodes) == ("7.0", "1")


@pytest.mark.parametrize("steps", [(4_992, 5_000, 5_008), (8_545, 8_000, 8_100), (1_000, 1_000, 1_000)])
def test_single_evaluations_at_slightly_different_steps_are_aggregated(steps: tuple[int, ...]) -> None:
    found = curve([[(step, 1.0 + place)] for place, step in enumerate(steps)])
    assert found is not None
    assert min(steps) <= found[0] <= max(steps)
    assert (found[1].mean, found[1].low, found[1].high) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("steps", [[500], [490, 510], [100, 900], []])
def test_every_group_is_in_the_legend(steps: list[int], tmp_path: Path) -> None:
    make_run(tmp_path / "run", 0, 7.0)
    for seed, step in enumerate(steps or [0]):
        folder = make_run(tmp_path / f"few_{seed}", seed, 7.0 if steps else None, **{"DQN.n_step": "3"})
        if steps:
            (folder / "results.jsonl").write_text(json.dumps(line("eval", step, 7.0)) + "\n")
    axes = figure(groups_of(tmp_path)).axes[0]
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(named) == ["dqn_cartpole", "dqn_cartpole (DQN.n_step=3)"]
    assert len(axes.containers) == (steps not in ([100, 900], [])), "A group's single point is drawn with its bounds."


def test_curves_are_put_on_common_steps() -> None:
    found = curve([[(0, 0.0), (10, 10.0)], [(2, 4.0), (12, 24.0)], []])
    assert found is not None
    steps, band = found
    assert (steps[0], steps[-1]) == (2, 10)
    np.testing.assert_allclose(band.mean, 1.5 * steps)
    assert curve([[], []]) is None
    assert curve([[(0, 1.0)], [(5, 1.0)]]) is None


def test_runs_that_differ_in_their_seed_only_are_one_group(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        make_run(tmp_path / f"run_{seed}", seed, 100.0 * seed)
    make_run(tmp_path / "other", 0, 7.0, **{"DQN.batch_size": "32"})
    small, together = groups_of(tmp_path)
    assert (together.name, small.name) == ("dqn_cartpole", "dqn_cartpole (DQN.batch_size=32)")
    assert [run.seed for run in together.runs] == ["1", "2", "10"]
    # The last test counts.
    assert together.scores == [100.0, 200.0, 1000.0]
    assert differences([small, together]) == [["DQN.batch_size", "32", "-"]]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("DQN.learning_rate", ["0.0001", "0.001", "0.01", "1.0"]),
        ("Experiment.lanes", ["8", "16", "128"]),
        ("MLP.hidden_sizes", ["(64,)", "(64, 64)", "(128, 128)", "(1024,)"]),
        ("DQN.memory", ["'prioritized'", "'uniform'"]),
        ("DQN.learning_rate", ["-1e-05", "9e-05", "0.0001", "@Linear()"]),
    ],
)
def test_groups_are_sorted_by_settings_as_numbers(setting: str, values: list[str], tmp_path: Path) -> None:
    for place, value in enumerate(sorted(values)[::-1]):
        make_run(tmp_path / f"{place}", 0, 1.0, **{setting: value})
    assert [one.runs[0].settings[setting] for one in groups_of(tmp_path)] == values
    assert [row[0] for row in place_rows(groups_of(tmp_path))] == [
        f"dqn_cartpole ({setting}={value})" for value in values
    ]


def test_a_default_has_its_place_among_the_settings(tmp_path: Path) -> None:
    for lanes in ("4", "128"):
        make_run(tmp_path / lanes, 0, 1.0, **{"Experiment.lanes": lanes})
    default = make_run(tmp_path / "default", 0, 1.0)
    with (default / "operative_config.gin").open("a") as config:
        config.write("Experiment.lanes = 8\n")
    assert [one.runs[0].folder.name for one in groups_of(tmp_path)] == ["4", "default", "128"]


def test_a_run_says_when_and_on_what_it_ran(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    hardware = "Epyc, 2 cores, 7.8 GiB, 2 x H100"
    row = ["dqn_cartpole", "0", "2026-11-27 14:13 UTC", "1:01:40", hardware]
    assert place_rows(groups_of(folder)) == [row]
    assert f"| {' | '.join(row)} |" in write([folder], folder)
    assert hardware in Texts((folder / "report.html").read_text()).text
    # Of one that an older version left, nothing is claimed.
    record = json.loads((folder / "run.json").read_text())
    del record["sessions"]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "progress.json").write_text("{}")
    assert place_rows(groups_of(folder)) == [["dqn_cartpole", "0", "-", "-", "-"]]


def test_a_phone_shows_charts_and_rows_that_can_be_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    write([folder], folder)
    page = (folder / "report.html").read_text()
    room = 360 - 2 * 16
    charts = re.findall(r"(?s)<svg.*?</svg>", page)
    assert len(charts) == 2
    for chart in charts:
        (width,) = re.findall(r'viewBox="0 0 ([\d.]+)', chart)
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", chart)]
        assert min(sizes) * room / float(width) > 9.0
    # A row is a block there, and each of its cells says what it is.
    assert "@media (max-width: 40rem)" in page
    for table in re.findall(r'(?s)<table class="rows">.*?</table>', page):
        assert table.count("<td") == table.count("<td data-name=") > 0


def test_a_run_is_read_as_it_stands_there(tmp_path: Path) -> None:
    run = read(make_run(tmp_path / "run", 3, 400.0))
    assert run.evaluations[-1] == (1_000, 400.0)
    np.testing.assert_allclose(run.train["episode_return"], [(100 * k, 40.0 * k) for k in range(1, 11)])
    assert set(run.train) == {"episode_return", "speed/env_steps_per_second"}
    assert run.operative["MLP.hidden_sizes"] == "(256, 256)"


def test_the_speed_of_acting_and_learning_in_turn_is_that_of_both(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, None)
    with tf.summary.create_file_writer(str(folder / "train")).as_default():
        # Nine of ten log points are of acting, at 1,000 steps a second; 100 steps of learning take 10 s.
        for step in range(100, 1_100, 100):
            tf.summary.scalar("speed/env_steps_per_second", 10.0 if step == 500 else 1_000.0, step)
    ((_, steps, _),) = speed_rows(groups_of(folder))
    assert steps == "92"  # 1,000 steps in 0.9 + 10 s


class Texts(html.parser.HTMLParser):
    """What a person reads on a page, and its tags."""

    def __init__(self, page: str):
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)


def test_the_report_of_several_runs(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / "runs" / f"run_{seed}", seed, 100.0 + seed)
    text = write([tmp_path / "runs"], tmp_path / "to")
    assert (tmp_path / "to/report.md").read_text() == text
    assert "| 1 | 1,000 | 500 | 101.0 +- 1.5 | 100 | greedy, seed 2000000 |" in text
    assert "Mean 101.0 of 3 runs (100.0, 101.0, 102.0), too few for an interval." in text
    assert "| dqn_cartpole | 1,391 | 696 |" in text
    assert (tmp_path / "to/curve.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "to/report.html").read_text()
    shown = Texts(page)
    for expected in (
        "100.0 ± 1.5",
        "102.0 ± 1.5",
        "mean 101.0 of 3 runs",
        "± over episodes",
        "MLP.hidden_sizes",
        "numpy 1.26.4",
    ):
        assert expected in shown.text
    assert shown.tags.count("svg") == 2
    assert "What differs" not in shown.text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    add_video(folder, "test-step-1-episode-0-return-1.0.mp4", 10)
    write([folder], folder)
    page = (folder / "report.html").read_text()
    # Names of XML dialects are no addresses.
    assert re.findall(r'(?<!xmlns=")(?<!xmlns:xlink=")https?://[^"]*', page) == []
    assert set(re.findall(r'\b(?:src|href)="([^"#]{5})', page)) == {"data:"}


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    write([folder], tmp_path / "a")
    write([folder], tmp_path / "b")
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_what_a_person_wrote_is_text_on_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0, **{"Noise.name": "'<script>alert(1)</script>'"})
    write([folder], folder)
    assert "<script" not in (folder / "report.html").read_text()


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, None)
    assert "| 0 | 0 | - | not tested yet | - | - |" in write([folder], folder)
    assert "no run has been tested yet" in Texts((folder / "report.html").read_text()).text


def test_the_best_and_worst_test_and_the_latest_training_are_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    for name in (
        "test-step-000001000-episode-0-return-9.0.mp4",
        "test-step-000001000-episode-1-return-100.0.mp4",
        "test-step-000001000-episode-2-return--3.0.mp4",
        "train-step-000000100-episode-0-return-20.0.mp4",
        "train-step-000000900-episode-9-return-2.0.mp4",
        "unfinished-train-0.mp4",
    ):
        add_video(folder, name, 100)
    (one,) = groups_of(folder)
    shown, left = choose_videos(one, 10_000)
    assert [video.name.partition("-episode-")[2] for video in shown] == [
        "1-return-100.0",
        "2-return--3.0",
        "9-return-2.0",
    ]
    assert len(left) == 2
    assert all(video.data.startswith("data:video/mp4;base64,AAAA") for video in shown)
    shown, left = choose_videos(one, 250)
    assert (len(shown), len(left)) == (2, 3)


def test_a_video_plays_from_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 1.0)
    (folder / "videos").mkdir()
    path = folder / "videos/test-step-000001000-episode-0-return-9.0.mp4"
    writer = imageio_ffmpeg.write_frames(str(path), (64, 64), fps=10)
    writer.send(None)
    for shade in range(5):
        writer.send(np.full([64, 64, 3], 40 * shade, np.uint8))
    writer.close()
    write([folder], folder)
    page = (folder / "report.html").read_text()
    assert Texts(page).tags.count("video") == 1
    (data,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert base64.b64decode(data) == path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "run.json").write_text("{"), r"run\.json cannot be read \(.*\): leave this run out"),
        (
            lambda folder: (folder / "results.jsonl").write_text('{"kind"\n'),
            r"results\.jsonl:1 cannot be read: mend or remove the line",
        ),
    ],
)
def test_damaged_runs_are_named(damage: Any, sentence: str, tmp_path: Path) -> None:
    damage(make_run(tmp_path / "run", 0, 1.0))
    with pytest.raises(UserError, match=sentence):
        write([tmp_path], tmp_path)


def test_the_program_writes_beside_the_runs_or_says_what_it_misses(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 0, 42.0)
    ended = run_program("binaries.report", str(folder))
    assert (ended.code, ended.stderr) == (0, "")
    assert "| 0 | 1,000 | 500 | 42.0 +- 1.5 | 100 | greedy, seed 2000000 |" in ended.stdout
    assert ended.stdout.endswith(f"Report: {folder / 'report.html'}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name the runs' folders: ./run report FOLDER"),
        (["{folder}/a", "{folder}/b"], "Several folders were named: say where the report goes with --to=FOLDER."),
        (["{folder}/a"], "{folder}/a is no folder: name the output folders of runs."),
        (["{folder}"], "There is no run in {folder} (no run.json at or below it)."),
    ],
)
def test_a_bad_command_line_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    ended = run_program("binaries.report", *(argument.format(folder=tmp_path) for argument in arguments))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"report: {sentence.format(folder=tmp_path)}")
    assert ended.stderr.count("\n") == 1
