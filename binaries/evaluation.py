"""Where the results of evaluations go. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from binaries import console
from binaries.experiment import Experiment
from binaries.run_folder import RunFolder
from binaries.settings import Binding

if TYPE_CHECKING:
    from binaries.summaries import Summaries

NOT_FINITE = "the policy's weights, or what it said, were not finite (nan or inf)"
SEEN_EPISODES = 5
"""of a test, that are recorded or shown where nobody asked for more"""


def seen_episodes(settings: Mapping[str, Binding]) -> int | None:
    """Of the evaluation at the end, how many are recorded or shown; None: all, for the command line says how many."""
    binding = settings.get("Experiment.test_episodes")
    return None if binding is not None and binding.origin.startswith("--") else SEEN_EPISODES


def record(
    folder: RunFolder,
    summaries: Summaries,
    experiment: Experiment,
    kind: str,
    env_steps: int,
    updates: int,
    returns: np.ndarray,
    cut: int,
    not_finite: int,
    **more: Any,
) -> None:
    """Adds the `returns` [episodes] of one evaluation, of which `cut` were cut, to TensorBoard and to results.jsonl.

    `kind`: 'eval' or 'test', and '/training_levels' after it where a world holds levels out and these are the others.
    `not_finite`: see `Evaluator.not_finite`. `more`: fields of the line in results.jsonl.

    Raises OSError where the disk takes nothing; the next call then writes this one too.
    """
    name = "episode_return" if kind == "eval" else f"{kind}/episode_return"
    summaries.scalars("eval", env_steps, {name: returns.mean(), f"{name}_std": returns.std()})
    folder.append_result(
        kind=kind,
        env_steps=env_steps,
        updates=updates,
        mean_return=float(returns.mean()),
        std_return=float(returns.std()),
        episodes=len(returns),
        cut_episodes=cut,
        not_finite_steps=not_finite,
        policy=experiment.eval_policy,
        seed=experiment.eval_seed if kind.startswith("eval") else experiment.test_seed,
        **more,
    )


def score(returns: np.ndarray, kind: str, policy: str = "") -> str:
    """What a person is told of the `returns` [episodes] of one evaluation: '21.3 +- 4.0 over 20 greedy episodes'.

    `kind`: as `record` has it. One episode has no spread.
    """
    spread = f" +- {returns.std():.1f}" if len(returns) > 1 else ""
    over = console.count(len(returns), f"{policy} episode".strip())
    of = " of the levels trained on" if kind.endswith("/training_levels") else ""
    return f"{returns.mean():.1f}{spread} over {over}{of}"


def evaluation_line(
    experiment: Experiment, kind: str, env_steps: int, returns: np.ndarray, cut: int, not_finite: int
) -> str:
    """What a person is told of an evaluation during training; `cut` and `not_finite` as `record` has them."""
    return f"evaluation at {env_steps:,} steps: {score(returns, kind)}{_marks(experiment, cut, not_finite)}"


def result_line(
    experiment: Experiment, kind: str, env_steps: int, updates: int, returns: np.ndarray, cut: int, not_finite: int
) -> str:
    """What a person is told of the evaluation at the end."""
    learnt = "" if updates else " and no update"
    told = score(returns, kind, experiment.eval_policy)
    return f"{experiment.environment} after {env_steps:,} steps{learnt}: {told}{_marks(experiment, cut, not_finite)}"


def _marks(experiment: Experiment, cut: int, not_finite: int) -> str:
    """What else a person has to know of an evaluation's returns."""
    limit = f"; {cut} cut after {experiment.eval_episode_steps:,} steps (Experiment.eval_episode_steps)" if cut else ""
    sound = f"; NO RESULT: in {console.count(not_finite, 'step')} {NOT_FINITE}" if not_finite else ""
    return limit + sound
