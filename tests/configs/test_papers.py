"""Hyper-parameters that claim a paper's pictures and network have them."""

from __future__ import annotations

import numpy as np
import pytest

from binaries import settings
from binaries.experiment import Plan

PARAMETERS = {
    # Convolutions of 32, 64 and 64 filters, 512 units, a value for each action: weights and biases.
    4: (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64 + (7 * 7 * 64 + 1) * 512 + 513 * 4,
    6: (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64 + (7 * 7 * 64 + 1) * 512 + 513 * 6,
}
"""of the network of Mnih et al. 2015 (methods, model architecture), by the number of actions"""


@pytest.mark.parametrize(("game", "actions"), [("breakout", 4), ("pong", 6)])
def test_dqn_breakout_has_the_pictures_and_the_network_of_mnih_et_al_2015(game: str, actions: int) -> None:
    settings.apply(settings.read("dqn_breakout", ["DQN.replay_size=1000"], {"Experiment.environment": f"atari:{game}"}))
    plan = Plan("local")
    observation_spec, action_spec = plan.environment.observation_spec, plan.environment.action_spec
    assert observation_spec.shape == (4, 84, 84, 1)
    assert action_spec.num_values == actions
    model = plan.algo.models(observation_spec, action_spec)["q"]
    assert model(np.zeros((1, *observation_spec.shape), np.uint8)).shape == (1, actions)
    assert model.count_params() == PARAMETERS[actions]
    plan.environment.close()
