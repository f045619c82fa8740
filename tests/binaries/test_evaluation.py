"""What a person is told of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from binaries.evaluation import score


@pytest.mark.parametrize(
    ("returns", "kind", "policy", "said"),
    [
        ([1.0, 3.0], "eval", "", "2.0 +- 1.0 over 2 episodes"),
        ([1.0, 3.0], "test/training_levels", "greedy", "2.0 +- 1.0 over 2 greedy episodes of the levels trained on"),
        ([7.0], "test", "sampled", "7.0 over 1 sampled episode"),
        ([7.0], "eval", "", "7.0 over 1 episode"),
    ],
)
def test_a_spread_says_over_what_and_one_episode_has_none(
    returns: list[float], kind: str, policy: str, said: str
) -> None:
    assert score(np.array(returns), kind, policy) == said
