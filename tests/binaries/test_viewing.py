"""What a run shows: videos where there is no display, TensorBoard's pages, a report."""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.backend_context import Context

from binaries import settings
from binaries.evaluation import SEEN_EPISODES, seen_episodes
from binaries.experiment import Plan
from binaries.summaries import Summaries
from binaries.train import Profile
from pipeline.envs.recorder import Videos
from pipeline.types import UserError
from pipeline.waiting import Stopped
from tests.binaries.conftest import Once
from tests.binaries.programs import Ended, environment, run
from tests.binaries.units import results


def flags(folder: Path, *more: str) -> list[str]:
    settings = (
        "Experiment.log_period=500",
        "Experiment.distribution_period=500",
        "Experiment.record_period=2",
        "Experiment.eval_policy='sampled'",
        "Experiment.lanes=4",
        "DQN.min_replay_size=200",
    )
    return [
        # Words apart, as in the seed's tutorial.
        *("--sys", "local", "--hparams", "dqn_cartpole_uniform", "--output_dir", str(folder)),
        "--train_steps=1490",
        "--eval_episodes=2",
        "--test_episodes=4",
        f"--hparam_override={';'.join(settings)}",
        *more,
    ]


@pytest.fixture(scope="session")
def seen(once: Once) -> tuple[Path, Ended]:
    """A run in the seed's words, `--render True`, on a machine without a display, and what it said."""

    def fill(root: Path) -> None:
        ended = run("binaries.train", *flags(root / "run", "--render", "True", "--profile=600:700"))
        (root / "ended.json").write_text(json.dumps(ended))

    assert "DISPLAY" not in environment()
    root = once("seen", fill)
    return root / "run", Ended(*json.loads((root / "ended.json").read_text()))


def events(folder: Path) -> EventAccumulator:
    loaded = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    loaded.Reload()
    return loaded


def test_without_a_display_episodes_are_recorded_and_the_run_says_so(seen: tuple[Path, Ended]) -> None:
    folder, ended = seen
    assert ended.code == 0, ended.stderr
    said = f"There is no display (DISPLAY is not set): episodes are recorded, in {folder / 'videos'}.\n"
    assert ended.stdout.startswith(said)


def test_every_tested_episode_and_every_second_one_of_the_first_lane_is_a_video(seen: tuple[Path, Ended]) -> None:
    folder, _ = seen
    names = [path.stem.split("-") for path in sorted((folder / "videos").iterdir())]
    tests = [words for words in names if words[0] == "test"]
    assert sorted(int(words[4]) for words in tests) == [0, 1, 2, 3]
    last = results(folder)[-1]
    assert {int(words[2]) for words in tests} == {last["env_steps"]}
    assert np.mean([float(words[6]) for words in tests]) == pytest.approx(last["mean_return"], abs=0.1)
    trained = sorted(int(words[4]) for words in names if words[0] == "train")
    assert len(trained) > 1
    assert trained == list(range(0, 2 * len(trained), 2))


def test_tensorboard_plays_videos_among_the_images(seen: tuple[Path, Ended]) -> None:
    folder, _ = seen
    for writer, tag in (("train", "video/train"), ("eval", "video/test")):
        width, height, gif = tf.make_ndarray(events(folder / writer).Tensors(tag)[-1].tensor_proto)
        with Image.open(io.BytesIO(gif)) as image:
            assert (image.format, str(image.width), str(image.height)) == ("GIF", width.decode(), height.decode())


def test_tensorboard_opens_on_returns(seen: tuple[Path, Ended]) -> None:
    shown = EventMultiplexer().AddRunsFromDirectory(str(seen[0])).Reload().AllSummaryMetadata()
    pages = {"scalars", "images", "histograms"}
    groups = {
        tag.partition("/")[0]
        for tags in shown.values()
        for tag, metadata in tags.items()
        if metadata.plugin_data.plugin_name in pages
    }
    # It opens the first two groups by the alphabet.
    assert sorted(groups)[:2] == ["episode_return", "episode_return_std"]


@pytest.mark.parametrize("tag", ["q", "action", "adam_running_mean/q"])
def test_tensorboard_shows_distributions(seen: tuple[Path, Ended], tag: str) -> None:
    found = events(seen[0] / "train").Tensors(f"histograms/{tag}")
    assert [event.step // 500 for event in found] == [1, 2]
    buckets = tf.make_ndarray(found[-1].tensor_proto)  # [low, high, count] each
    counts = {"q": 4 * 2, "action": 4 * 32, "adam_running_mean/q": 4 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2}
    assert buckets[:, 2].sum() == counts[tag]
    assert buckets[0, 0] < buckets[-1, 1]


def test_tensorboards_hparams_page_knows_the_run_and_its_scores(seen: tuple[Path, Ended]) -> None:
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(seen[0])).Reload()
    metadata = multiplexer.AllSummaryMetadata()["eval"]
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    data: Any = plugin_data_pb2.HParamsPluginData()
    data.ParseFromString(content)
    hparams = data.session_start_info.hparams
    assert hparams["DQN.min_replay_size"].number_value == 200
    assert hparams["DQN.memory"].string_value == "uniform"
    assert hparams["other/Experiment.lanes"].number_value == 4
    assert "test/episode_return" in metadata


def test_tensorboards_hparams_page_begins_with_what_differs_and_the_algorithms_settings(tmp_path: Path) -> None:
    class DQN:
        pass

    class Mine(DQN):
        pass

    for seed in (0, 1):
        settings = {"Experiment.lanes": 8, "Experiment.seed": seed, "DQN.n_step": 3, "Adam.x": 1, "Mine.a": "'b'"}
        summaries = Summaries(tmp_path / f"run_{seed}", 0, ["eval"])
        summaries.hparams(settings, Mine)
        summaries.flush()
    flags = argparse.Namespace(generic_data="true", purge_orphaned_data=True, reload_interval=0, max_reload_threads=1)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = Context(base_plugin.TBContext(data_provider=provider, flags=flags))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    experiment: Any = context.experiment_from_metadata(request, "", False, metadata, [])
    names = [info.name for info in experiment.hparam_infos]
    assert names == ["other/Experiment.seed", "DQN.n_step", "Mine.a", "other/Adam.x", "other/Experiment.lanes"]


def test_the_profile_is_there_for_tensorboard(seen: tuple[Path, Ended]) -> None:
    (trace,) = (seen[0] / "train/plugins/profile").glob("*/*.xplane.pb")
    assert trace.stat().st_size > 10_000


def test_results_say_how_they_were_obtained(seen: tuple[Path, Ended]) -> None:
    folder, _ = seen
    evaluation, test = results(folder)
    assert (evaluation["policy"], evaluation["seed"]) == ("sampled", 1_000_000)
    assert (test["policy"], test["seed"]) == ("sampled", 2_000_000)


def test_a_run_ends_with_a_report_that_has_the_videos_in_it(seen: tuple[Path, Ended]) -> None:
    folder, ended = seen
    assert f"Report: {folder / 'report.html'}\n" in ended.stdout
    page = (folder / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3
    assert f"{results(folder)[-1]['mean_return']:.1f}" in page


def viewed(seen: tuple[Path, Ended], to: Path, *more: str) -> list[str]:
    """The words that show the policy of a copy of the run."""
    shutil.copytree(seen[0], to)
    shutil.rmtree(to / "videos")
    words = [word for word in flags(to, "--training", "False", "--render", "True") if "test_episodes" not in word]
    return [*words, *more]


def test_few_episodes_are_shown_each_return_is_told_and_none_is_a_result(
    seen: tuple[Path, Ended], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    before = (seen[0] / "results.jsonl").read_text()
    ended = run("binaries.train", *viewed(seen, folder))
    assert (ended.code, ended.stderr) == (0, "")
    assert "5 episodes are recorded; --test_episodes=N records N.\n" in ended.stdout
    told = re.findall(r"(?m)^episode (\d): return (\S+)$", ended.stdout)
    assert [number for number, _ in told] == ["1", "2", "3", "4", "5"]
    names = sorted(path.stem.split("-", 4)[4] for path in (folder / "videos").iterdir())
    assert names == [f"{int(number) - 1:06d}-return-{score}" for number, score in told]
    mean = np.mean([float(score) for _, score in told])
    said = re.search(r"steps: (\S+) \+- \S+ over 5 sampled episodes", ended.stdout)
    assert said is not None
    assert float(said[1]) == pytest.approx(mean, abs=0.1)
    assert (folder / "results.jsonl").read_text() == before


def test_a_stop_among_recorded_episodes_leaves_whole_videos_only(tmp_path: Path) -> None:
    settings.apply(settings.read("dqn_cartpole_uniform", ["Experiment.test_episodes=1000"], {}))
    videos = Videos(tmp_path, "libx264")
    videos.start()
    heard: dict[int, float] = {}
    plan = Plan("local", videos=videos, stop=lambda: len(heard) > 1)
    try:
        tester = plan.evaluators(plan.learner().params, "test")["test"]
        with pytest.raises(Stopped):
            tester.run(0, heard.__setitem__)
    finally:
        plan.close()
    assert 1 < len(heard) < 10
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(video.path.name for video in videos.finished)
    assert len(names) == len(heard)


def test_a_training_is_tested_in_as_many_episodes_as_ever_of_which_the_first_are_seen(tmp_path: Path) -> None:
    overrides = ["Experiment.test_episodes=7", "Experiment.eval_policy='greedy'"]
    merged = settings.read("dqn_cartpole_uniform", overrides, {})
    settings.apply(merged)
    assert seen_episodes(merged) is None, "Whoever says how many sees them all."
    assert seen_episodes(settings.read("ppo_pong", [], {})) == SEEN_EPISODES, "A file's number is the test's."
    videos = Videos(tmp_path, "libx264")
    videos.start()
    heard: dict[int, float] = {}
    plan = Plan("local", videos=videos, seen_episodes=3)
    try:
        params = plan.learner().params
        returns = plan.evaluators(params, "test")["test"].run(0, heard.__setitem__)
        alone = Plan("local").evaluators(params, "test")["test"].run(0)
    finally:
        plan.close()
    assert returns.tolist() == alone.tolist()
    assert heard == dict(enumerate(returns[:3]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"test-step-000000000-episode-{number:06d}-return-{score:.1f}.mp4" for number, score in sorted(heard.items())
    ]


@pytest.mark.parametrize("text", ["5", "5:", ":5", "9:5", "5:5", "a:b", "-1:4"])
def test_a_profile_needs_two_steps(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give two environment steps as START:STOP"):
        Profile(text, tmp_path)
