"""Trains hyper-parameters over several seeds; writes the table of final scores and the curve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags

from binaries import flags
from pipeline.index import ROOT
from pipeline.types import RunError, UserError

absl_flags.DEFINE_integer("seeds", 5, "how many seeds, from 0", lower_bound=1)


def train(seed: int, folder: Path, command: flags.Command) -> list[dict[str, Any]]:
    """Runs one whole training and returns its results, one an evaluation."""
    chosen = [f"--hparams={command.flags['hparams']}", f"--sys={command.flags['sys']}"]
    chosen += [f"--hparam_override={text}" for text in command.flags["hparam_override"]]
    chosen += [f"--import={module}" for module in command.flags["import"]]
    names = ("env", "train_steps", "eval_episodes", "test_episodes")
    chosen += [f"--{name}={command.flags[name]}" for name in names if command.flags[name] is not None]
    program = [sys.executable, "-m", "binaries.train", f"--seed={seed}", f"--output_dir={folder}", *chosen]
    if subprocess.run(program, cwd=ROOT).returncode:
        raise RunError(f"The training of seed {seed} failed; its own message stands above.")
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def table(tests: list[dict[str, Any]]) -> str:
    """The final evaluations as Markdown."""
    lines = ["| seed | environment steps | updates | return | episodes |", "|---|---|---|---|---|"]
    for seed, test in enumerate(tests):
        lines.append(
            f"| {seed} | {test['env_steps']:,} | {test['updates']:,}"
            f" | {test['mean_return']:.1f} +- {test['std_return']:.1f} | {test['episodes']} |"
        )
    means = [test["mean_return"] for test in tests]
    lines.append(f"| mean over seeds | | | {np.mean(means):.1f} +- {np.std(means):.1f} | |")
    return "\n".join(lines) + "\n"


def draw(results: list[list[dict[str, Any]]], title: str, path: Path) -> None:
    """Each seed's evaluations against environment steps, the final one as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for seed, lines in enumerate(results):
        during = [(r["env_steps"], r["mean_return"]) for r in lines if r["kind"] == "eval"]
        (curve,) = axes.plot(*zip(*during, strict=True), label=f"seed {seed}", linewidth=1.5, alpha=0.8)
        axes.plot(lines[-1]["env_steps"], lines[-1]["mean_return"], "o", color=curve.get_color())
    axes.set(xlabel="environment steps", ylabel="mean greedy return", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    if not command.flags["output_dir"]:
        raise UserError("No folder was chosen for the runs: add --output_dir=FOLDER.")
    folder = Path(command.flags["output_dir"]).absolute()
    count: int = absl_flags.FLAGS.seeds
    results = [train(seed, folder / f"seed-{seed}", command) for seed in range(count)]
    text = table([lines[-1] for lines in results])
    (folder / "table.md").write_text(text)
    title = " ".join([command.flags["hparams"], *command.flags["hparam_override"]])
    draw(results, title, folder / "curve.png")
    print(f"{text}\n{folder / 'table.md'}\n{folder / 'curve.png'}")
    return 0


if __name__ == "__main__":
    flags.main(main)
