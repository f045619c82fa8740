"""One HTML page and a Markdown table of any set of runs: curves over seeds, scores, settings, throughput, videos."""

from __future__ import annotations

import ast
import base64
import collections
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from absl import flags as absl_flags

from binaries import console, flags
from binaries.evaluation import NOT_FINITE
from binaries.run_folder import FAULTS, OPERATIVE, RESULTS, RUN, WALL, read_progress
from pipeline.types import UserError

PAGE = "report.html"
TABLE = "report.md"
SEED = "Experiment.seed"
CONFIDENCE = 0.95
RESAMPLES = 2_000
FEW = 5
"""points of a curve that are shown one by one"""
ENOUGH = 5
"""runs whose bootstrap says more than their minimum and maximum do"""
SLIGHTLY = 0.2
"""difference of two runs' steps, as a part of them, that evaluations are compared across"""
NAMED = 3
"""settings that a group's name holds at most"""
GRID = 200
"""points of a curve over several runs"""
EMBEDDED_BYTES = 20 * 2**20
"""of videos in the page; further ones are named"""
RETURN, STEPS_RATE = "episode_return", "speed/env_steps_per_second"
INK = "#010203"
"""stands in figures for the page's own text colour"""
COLOURS = ("#3b7dd8", "#d9822b", "#2f9e6e", "#c2477f", "#8a63d2", "#7a8b00", "#00939c", "#b5533c")

Points = list[tuple[int, float]]


class Run(NamedTuple):
    """What a run's folder says."""

    folder: Path
    settings: dict[str, str]
    flags: dict[str, Any]
    versions: dict[str, str]
    operative: dict[str, str]
    results: list[dict[str, Any]]
    train: dict[str, Points]
    """TensorBoard's points by tag"""
    videos: list[Path]
    faults: list[dict[str, Any]]
    """processes that died or held the others up, and how"""
    sessions: list[dict[str, Any]]
    """of training, the first one and each resumption: when and on what; empty where an older version ran"""
    wall_seconds: float | None
    """that all of them took"""

    @property
    def seed(self) -> str:
        """Of the training."""
        return self.operative.get(SEED, self.settings.get(SEED, "0"))

    @property
    def evaluations(self) -> Points:
        """(environment steps, mean return) of each evaluation of a policy that was finite."""
        lines = [line for line in self.results if line["kind"] == "eval" and not line.get("not_finite_steps")]
        return [(line["env_steps"], line["mean_return"]) for line in lines]

    @property
    def test(self) -> dict[str, Any] | None:
        """The latest evaluation at the end."""
        return next((line for line in reversed(self.results) if line["kind"] == "test"), None)


class Interval(NamedTuple):
    """What several runs have in the middle, and bounds: see `iqm`."""

    mean: Any
    low: Any
    high: Any


class Group(NamedTuple):
    """Runs that differ in their seeds only."""

    name: str
    environment: str
    runs: list[Run]
    colour: str

    @property
    def scores(self) -> list[float]:
        """The mean returns of the evaluations at the end, of policies that were finite."""
        tests = [run.test for run in self.runs if run.test is not None]
        return [test["mean_return"] for test in tests if not test.get("not_finite_steps")]

    @property
    def score(self) -> Interval | None:
        """Of the scores; None where there are none."""
        return iqm(np.array(self.scores)) if self.scores else None


def iqm(values: np.ndarray) -> Interval:
    """The mean of the middle half of `values` [runs, ...] (Agarwal et al. 2021), and its bootstrap over runs.

    Of fewer than ENOUGH runs a bootstrap's interval would be their minimum and maximum: there it is their mean, and
    the bounds are just that range. One run has NaN for bounds.
    """
    from scipy import stats

    def statistic(sample: np.ndarray, axis: int = 0) -> np.ndarray:
        return stats.trim_mean(sample, 0.25, axis=axis)

    if len(values) < 2:
        return Interval(values[0], np.full_like(values[0], np.nan), np.full_like(values[0], np.nan))
    if len(values) < ENOUGH:
        return Interval(values.mean(0), values.min(0), values.max(0))
    mean = statistic(values)
    rows = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    # Whole runs are drawn: the points of a curve stay together.
    low, high = np.quantile(statistic(values[rows], 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Interval(mean, low, high)


def find(folders: Sequence[Path]) -> list[Path]:
    """The folders of runs, at or below `folders`; raises UserError where there is none."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name the output folders of runs.")
        below = sorted({path.parent for path in folder.rglob(RUN)}, key=_natural)
        if not below:
            raise UserError(f"There is no run in {folder} (no {RUN} at or below it).")
        found += [path for path in below if path not in found]
    return found


def _natural(path: Path | str) -> list[Any]:
    """So that run_10 comes after run_9."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def read(folder: Path) -> Run:
    """Reads a run's folder; raises UserError where one of its files is damaged."""
    try:
        record = json.loads((folder / RUN).read_text())
        settings, given, versions = record["settings"], record["flags"], record["versions"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / RUN} cannot be read ({error}): leave this run out.") from error
    operative = (folder / OPERATIVE).read_text() if (folder / OPERATIVE).exists() else ""
    bindings = dict(re.findall(r"(?m)^([\w.]+) = ((?:.|\n(?=[ \t]))+)", operative))
    return Run(
        folder,
        settings,
        given,
        {**versions, "commit": record.get("git_commit", "")},
        {name: " ".join(value.replace("\\\n", " ").split()) for name, value in bindings.items()},
        _lines(folder / RESULTS),
        _points(folder / "train"),
        sorted((folder / "videos").glob("t*.mp4")),
        _lines(folder / FAULTS),
        record.get("sessions", []),
        (read_progress(folder) or {}).get(WALL),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """What the lines of the file at `path` say; nothing where there is none."""
    said = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            said.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}:{number} cannot be read: mend or remove the line.") from error
    return said


def _points(folder: Path) -> dict[str, Points]:
    """The scalars that the page shows, from TensorBoard's files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    points: dict[str, dict[int, float]] = {tag: {} for tag in (RETURN, STEPS_RATE)}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in cast(Any, EventFileLoader(str(path)).Load()):
            for value in event.summary.value:
                if value.tag in points:
                    points[value.tag][event.step] = float(tensor_util.make_ndarray(value.tensor))
    return {tag: sorted(steps.items()) for tag, steps in points.items()}


def group(runs: Sequence[Run]) -> list[Group]:
    """The runs by what they have in common: in the order of their folders, and of the settings that tell them apart."""
    together: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        key = tuple(sorted((name, value) for name, value in run.settings.items() if name != SEED))
        together.setdefault(key, []).append(run)
    alike: dict[str, list[set[tuple[str, str]]]] = {}
    for key, members in together.items():
        alike.setdefault(_hparams(members[0]), []).append(set(key))
    first = {name: place for place, name in enumerate(alike)}
    differing = {
        key: sorted(set(key) - set.intersection(*alike[_hparams(members[0])])) for key, members in together.items()
    }
    told_apart = sorted({name for settings in differing.values() for name, _ in settings})

    def place(key: tuple[tuple[str, str], ...]) -> list[Any]:
        run = together[key][0]
        values = {**run.operative, **dict(key)}
        return [first[_hparams(run)], *(_in_order(values.get(name)) for name in told_apart)]

    groups = []
    for number, key in enumerate(sorted(together, key=place)):
        members = sorted(together[key], key=lambda run: _in_order(run.seed))
        name, own = _hparams(members[0]), differing[key]
        if own:
            said = ", ".join(f"{name}={value}" for name, value in own)
            name += f" ({said if len(own) <= NAMED else f'variant {number + 1}'})"
        environment = dict(key).get("Experiment.environment", "?").strip("'")
        groups.append(Group(name, environment, members, COLOURS[number % len(COLOURS)]))
    return groups


def _hparams(run: Run) -> str:
    return run.flags.get("hparams") or "runs"


def _in_order(value: str | None) -> tuple[int, list[Any]]:
    """A sort key for settings as they are written: numbers by size, tuples of them, texts, then none."""
    if value is None:
        return 3, []
    try:
        literal = ast.literal_eval(value)
        numbers = [float(number) for number in (literal if isinstance(literal, tuple | list) else [literal])]
    except (ValueError, TypeError, SyntaxError):
        return 2, _natural(value)
    return int(isinstance(literal, tuple | list)), numbers


def curve(curves: Sequence[Points]) -> tuple[np.ndarray, Interval] | None:
    """Steps [G] and the interval [G] over several runs' curves, where all of them have points; None where none has.

    Runs that were evaluated at slightly different steps only are taken for evaluated at once, in their middle.
    """
    curves = [points for points in curves if points]
    if not curves:
        return None
    begin, end = max(points[0][0] for points in curves), min(points[-1][0] for points in curves)
    if begin - end > SLIGHTLY * begin:
        return None
    if begin > end:
        begin = end = round((begin + end) / 2)
    steps = np.linspace(begin, end, GRID if begin < end else 1)
    return steps, iqm(np.stack([np.interp(steps, *np.array(points).T) for points in curves]))


def environments(groups: Sequence[Group]) -> list[str]:
    """Of the groups, each once."""
    return list(dict.fromkeys(one.environment for one in groups))


def figure(groups: Sequence[Group]) -> Any:
    """A row of two panels for each environment: evaluations, and the episodes of training."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = environments(groups)
    drawn = Figure(figsize=(10, 3.9 * len(names)), layout="constrained")
    for row, environment in enumerate(names):
        for column in range(2):
            axes = drawn.add_subplot(len(names), 2, 2 * row + column + 1)
            _panel(axes, groups, environment, bool(column))
            if column == 0:
                here = [one for one in groups if one.environment == environment]
                lines = [Line2D([], [], color=one.colour, linewidth=2.0, label=one.name) for one in here]
                axes.legend(handles=lines, frameon=False, fontsize=8, labelcolor=INK, loc="best")
    return drawn


def panels(groups: Sequence[Group]) -> list[str]:
    """The same panels as SVGs of their own, for a page that has room beside each other for one or for two."""
    from matplotlib.figure import Figure

    svgs = []
    for environment in environments(groups):
        for training in (False, True):
            # So small that text can be read on a phone, whose width it fills.
            drawn = Figure(figsize=(4.4, 3.2), layout="constrained")
            _panel(drawn.add_subplot(), groups, environment, training)
            svgs.append(_svg(drawn))
    return svgs


def _panel(axes: Any, groups: Sequence[Group], environment: str, training: bool) -> None:
    """Draws the curves of one environment: those of `training`, or of its evaluations."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for one in (one for one in groups if one.environment == environment):
        curves = [run.train[RETURN] if training else run.evaluations for run in one.runs]
        for points in filter(None, curves):
            dots = "o" if len(points) < FEW else ""
            axes.plot(*zip(*points, strict=True), dots + "-", ms=3, color=one.colour, lw=0.7, alpha=0.35)
        whole = curve(curves)
        if whole is None:
            continue
        steps, band = whole
        if len(steps) > 1:
            axes.plot(steps, band.mean, color=one.colour, linewidth=2.0)
            axes.fill_between(steps, band.low, band.high, color=one.colour, alpha=0.18, linewidth=0)
        else:
            bounds = np.nan_to_num(np.abs([band.mean - band.low, band.high - band.mean]))
            axes.errorbar(steps, band.mean, bounds, fmt="o", ms=6, color=one.colour, capsize=4)
    title = f"{environment}: {'episodes of training' if training else 'evaluations'}"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("environment steps", fontsize=9, color=INK)
    axes.set_ylabel("return", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: _short(steps)))
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def _short(steps: float) -> str:
    """50000 -> '50k'"""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


def _svg(drawn: Any) -> str:
    """The figure as SVG for the page, in the page's own colours."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "encore", "font.family": "sans-serif"}):
        drawn.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _number(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


SCORES = ["seed", "environment steps", "updates", "return (+- over episodes)", "episodes", "policy"]
SPEEDS = ["runs", "environment steps/s", "updates/s"]
PLACES = ["runs", "seed", "begun", "wall time", "hardware"]
FAULT = ["runs", "seed", "process", "how", "times"]
"""heads of tables"""


def score_rows(one: Group) -> list[list[str]]:
    """Of each run: seed, environment steps, updates, return, episodes and how they were played."""
    rows = []
    for run in one.runs:
        test = run.test
        if test is None:
            steps = run.results[-1]["env_steps"] if run.results else 0
            rows.append([run.seed, f"{steps:,}", "-", "not tested yet", "-", "-"])
            continue
        played = test.get("policy", "greedy") + (f", seed {test['seed']}" if "seed" in test else "")
        returned = f"{test['mean_return']:,.1f}"
        if test["episodes"] > 1:
            returned += f" +- {test['std_return']:,.1f}"
        if test.get("not_finite_steps"):
            returned += f" (no result: {NOT_FINITE})"
        rows.append(
            [run.seed, f"{test['env_steps']:,}", f"{test['updates']:,}", returned, str(test["episodes"]), played]
        )
    return rows


def summary(one: Group) -> str:
    """A group's score in a sentence, which claims no more than so many runs can tell."""
    scores = one.scores
    if one.score is None:
        return "no run has been tested yet" if not any(run.test for run in one.runs) else "no run has a result"
    if len(scores) == 1:
        return f"{scores[0]:,.1f} of one run, which tells nothing of other seeds"
    if len(scores) < ENOUGH:
        each = ", ".join(f"{score:,.1f}" for score in scores)
        return f"mean {one.score.mean:,.1f} of {len(scores)} runs ({each}), too few for an interval"
    return (
        f"IQM {one.score.mean:,.1f}, {CONFIDENCE:.0%} interval [{one.score.low:,.1f}, {one.score.high:,.1f}] (bootstrap"
        f" over {len(scores)} runs); mean {np.mean(scores):,.1f} +- {np.std(scores, ddof=1):,.1f} (standard deviation"
        " over runs)"
    )


def place_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Of each run: the group, its seed, when it began, how long it took and on what."""
    rows = []
    for one in groups:
        for run in one.runs:
            started = run.sessions[0].get("started") if run.sessions else None
            date = "-" if started is None else f"{started[:16].replace('T', ' ')} UTC"
            used = list(dict.fromkeys(_hardware(session["hardware"]) for session in run.sessions if session))
            rows.append([one.name, run.seed, date, console.duration(run.wall_seconds), "; then ".join(used) or "-"])
    return rows


def _hardware(found: dict[str, Any]) -> str:
    gpus = collections.Counter(found["gpus"])
    named = [f"{count} x {name}" if count > 1 else name for name, count in gpus.items()]
    cores = console.count(found["cores"], "core")
    return ", ".join([found["processor"], cores, f"{found['memory_gib']:g} GiB", *(named or ["no GPU"])])


def speed_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Of each group, environment steps and updates a second: the median over runs of each one's mean over time."""
    rows = []
    for one in groups:
        rates = []
        for run in one.runs:
            steps = _mean_rate(run.train[STEPS_RATE])
            last = run.results[-1] if run.results else {"updates": math.nan, "env_steps": 1}
            rates.append((steps, steps * last["updates"] / max(last["env_steps"], 1)))
        rows.append([one.name, *(_number(float(rate), 0) for rate in np.median(rates, axis=0))])
    return rows


def _mean_rate(points: Points) -> float:
    """Steps a second over all the time that log points (step, steps a second since the one before) cover.

    An algorithm that acts and learns in turn has log points of either, and the time is in those of learning.
    """
    steps, seconds, before = 0, 0.0, 0
    for step, rate in points:
        if rate > 0:
            steps += step - before
            seconds += (step - before) / rate
        before = step
    return steps / seconds if seconds else math.nan


def fault_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Of every process that died or held others up: the runs, the seed, the process, how, and how often."""
    rows = []
    for one in groups:
        for run in one.runs:
            counted = collections.Counter((fault["process"], fault["fault"]) for fault in run.faults)
            rows += [[one.name, run.seed, *what, str(count)] for what, count in sorted(counted.items())]
    return rows


def differences(groups: Sequence[Group]) -> list[list[str]]:
    """Every parameter and version that is not the same in all groups: its name, and its value in each."""
    described = [{**one.runs[0].operative, **one.runs[0].versions} for one in groups]
    names = sorted({name for values in described for name in values} - {SEED})
    rows = [[name, *(values.get(name, "-") for values in described)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def mixed(one: Group) -> list[str]:
    """Versions that the runs of one group do not share."""
    names = sorted({name for run in one.runs for name in run.versions})
    return [name for name in names if len({run.versions.get(name) for run in one.runs}) > 1]


class Shown(NamedTuple):
    """A video of the page."""

    name: str
    data: str
    """a data URI"""


def choose_videos(one: Group, room: int) -> tuple[list[Shown], list[str]]:
    """The best and worst tested episodes and the latest of training, in `room` bytes; and the names of the others."""
    every = [path for run in one.runs for path in run.videos]
    tests = sorted((path for path in every if path.name.startswith("test")), key=_episode_return)
    latest = [path for path in every if path.name.startswith("train")][-1:]
    wanted = list(dict.fromkeys([*tests[-1:], *tests[:1], *latest]))
    shown, left = [], [path for path in every if path not in wanted]
    for path in wanted:
        size = path.stat().st_size
        if size > room:
            left.append(path)
            continue
        room -= size
        shown.append(Shown(path.stem, "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()))
    return shown, [f"{path.parent.parent.name}/videos/{path.name}" for path in left]


def _episode_return(path: Path) -> float:
    found = re.search(r"return-(-?[\d.]+)\.mp4$", path.name)
    return float(found[1]) if found else 0.0


def markdown(groups: Sequence[Group]) -> str:
    """The tables alone."""
    lines: list[str] = []
    for one in groups:
        lines += [f"## {one.name} on {one.environment}", ""]
        lines += _table(SCORES, score_rows(one))
        lines += ["", f"{summary(one)[0].upper()}{summary(one)[1:]}.", ""]
    lines += ["## Throughput", ""]
    lines += _table(SPEEDS, speed_rows(groups))
    lines += ["", "## When and where", "", *_table(PLACES, place_rows(groups))]
    rows = fault_rows(groups)
    if rows:
        lines += ["", "## Faults", "", *_table(FAULT, rows)]
    rows = differences(groups)
    if rows:
        lines += ["", "## What differs", "", *_table(["parameter", *(one.name for one in groups)], rows)]
    versions = groups[0].runs[0].versions
    lines += ["", "## Versions", "", ", ".join(f"{name} {version}" for name, version in versions.items() if version)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def html(groups: Sequence[Group]) -> str:
    """The page, with everything in it."""
    import jinja2

    room, videos = EMBEDDED_BYTES, []
    for one in groups:
        shown, left = choose_videos(one, room)
        room -= sum(len(video.data) * 3 // 4 for video in shown)
        videos.append((one, shown, left))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.get_template("report.html.j2").render(
        groups=groups,
        scores=[(one, score_rows(one), summary(one)) for one in groups],
        panels=panels(groups),
        heads={"scores": SCORES, "speeds": SPEEDS, "places": PLACES, "faults": FAULT},
        speeds=speed_rows(groups),
        places=place_rows(groups),
        faults=fault_rows(groups),
        differences=differences(groups),
        mixed=[(one, names) for one in groups if (names := mixed(one))],
        videos=videos if any(shown or left for _, shown, left in videos) else [],
        versions=groups[0].runs[0].versions,
        confidence=f"{CONFIDENCE:.0%}",
        enough=ENOUGH,
    )


def write(folders: Sequence[Path], to: Path) -> str:
    """Writes report.html, report.md and curve.png of the runs at or below `folders` to `to`; returns the Markdown.

    Raises UserError where a run cannot be read, OSError where `to` cannot be written.
    """
    groups = group([read(folder) for folder in find(folders)])
    drawn = figure(groups)
    page, text = html(groups), markdown(groups)
    to.mkdir(parents=True, exist_ok=True)
    (to / PAGE).write_text(page)
    (to / TABLE).write_text(text)
    drawn.savefig(to / "curve.png", dpi=120, facecolor="white")
    return text


def main(argv: list[str]) -> int:
    # Here, because other programs import this module, and have flags of their own.
    absl_flags.DEFINE_string(
        "to", None, "the folder for report.html, report.md and curve.png; by default the runs' own"
    )
    folders = flags.take(argv, words_too=True)
    if not folders:
        raise UserError("Name the runs' folders: ./run report FOLDER [FOLDER ...] --to=FOLDER.")
    to = absl_flags.FLAGS.to
    if not to and len(folders) > 1:
        raise UserError("Several folders were named: say where the report goes with --to=FOLDER.")
    console.NativeLog()
    target = Path(to or folders[0]).expanduser().absolute()
    try:
        print(write([Path(folder).expanduser().absolute() for folder in folders], target))
    except OSError as error:
        raise UserError(f"The report cannot be written to {target} ({error.strerror}).") from error
    print(f"Report: {target / PAGE}")
    return 0


if __name__ == "__main__":
    flags.main(main)
