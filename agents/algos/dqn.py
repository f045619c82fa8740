"""Deep Q-learning (Mnih et al. 2015), with double Q-learning and n-step returns by hyper-parameter."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.algo import Algo, Loss, TargetUpdate
from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from agents.algos.registry import ALGOS
from agents.losses.returns import at_row, first, n_step
from agents.losses.values import PRIORITY_FLOOR, q_learning_error
from agents.lr_schedules.registry import LR_SCHEDULES
from agents.models.registry import MODELS
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Batch, Data, Nest, Params


@ALGOS.register("dqn")
class DQN(Algo):
    """Minimises loss(r + gamma^n * target(s_n)[best] - q(s)[a]) over windows of n + 1 rows.

    `best` is the target network's best action, or with `double` the online network's (van Hasselt et al. 2016).
    Differences from the 2015 paper: Adam, and a Huber loss in place of the clipped error, whose gradient is the same.
    """

    action_kinds = ("discrete",)
    metrics = ("loss", "q", "td_error", "weight")

    def __init__(
        self,
        model: str = "basic",
        act_select: str = "epsilon",
        grad_comp: str = "huber",
        memory: str = "uniform",
        replay_size: int = 100_000,
        min_replay_size: int = 1_000,
        batch_size: int = 64,
        gamma: float = 0.99,
        n_step: int = 1,
        double: bool = False,
        learning_rate: float = 1e-3,
        lr_schedule: str = "constant",
        adam_epsilon: float = 1e-7,
        max_gradient_norm: float | None = None,
        target_update_period: int = 100,
        target_update_rate: float = 1.0,
    ):
        """`replay_size` and `batch_size` are in windows, `min_replay_size` in environment steps, the period in updates.

        `target_update_rate` below 1 makes the target an average of the online parameters.
        """
        check_positive(
            "DQN",
            replay_size=replay_size,
            min_replay_size=min_replay_size,
            batch_size=batch_size,
            n_step=n_step,
            learning_rate=learning_rate,
            target_update_period=target_update_period,
            target_update_rate=target_update_rate,
        )
        check_fraction("DQN", gamma=gamma, target_update_rate=target_update_rate)
        self._model_names = {"model": model}
        self._model = MODELS.get(model)
        self._act_select = ACTION_SELECTORS.get(act_select, takes="values")()
        self._grad_comp = GRADIENT_FUNCTIONS.get(grad_comp, takes="errors")()
        self._data = Data(memory, n_step + 1, batch_size, replay_size, min_replay_size)
        self._gamma = gamma
        self._double = double
        self._learning_rate = learning_rate
        self._lr_schedule = LR_SCHEDULES.get(lr_schedule)()
        self._adam_epsilon = adam_epsilon
        self._max_gradient_norm = max_gradient_norm
        self._target_update = TargetUpdate(target_update_period, target_update_rate)

    def data(self) -> Data:
        return self._data

    def model_names(self) -> dict[str, str]:
        return self._model_names

    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        return {"q": self._model(action_spec.num_values)}

    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        adam = tf.keras.optimizers.Adam(
            self._learning_rate,
            epsilon=self._adam_epsilon,
            global_clipnorm=self._max_gradient_norm,
            jit_compile=False,
        )
        return {"q": adam}

    def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"q": self._learning_rate * self._lr_schedule(progress)}

    def targets(self) -> dict[str, TargetUpdate]:
        return {"q": self._target_update}

    def initial_core(self, params: Params, places: np.ndarray) -> Nest:
        return self._act_select.initial_core(places, 1)

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, dict[str, Nest], Nest]:
        if not training:
            return tf.argmax(params.online["q"](observation), axis=-1, output_type=tf.int32), {}, core
        noise_seed, action_seed = tf.unstack(tf.random.split(seed))
        q = params.online["q"](observation, noise_seed, each_row=True)
        action, core = self._act_select(q, core, action_seed, params.env_steps)
        return action, {}, core

    def acting_metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._act_select.metrics(env_steps)

    def distributions(self, params: Params, observation: Nest) -> dict[str, tf.Tensor]:
        return {"q": params.online["q"](observation)}

    def loss(self, params: Params, batch: Batch) -> Loss:
        steps = batch.steps  # [B, n + 1, ...]
        fold = n_step(steps.reward, steps.discount, steps.last, self._gamma)
        # A noisy network draws noise of its own for each of the three (Fortunato et al. 2018, section 3.1).
        seeds = tf.unstack(tf.random.split(batch.seed, 3))
        q_tm1 = params.online["q"](first(steps.observation), seeds[0])
        bootstrap = at_row(steps.observation, fold.row)
        q_t = params.target["q"](bootstrap, seeds[1])
        error = q_learning_error(
            q_tm1,
            steps.action[:, 0],
            fold.reward,
            fold.factor,
            q_t_value=q_t,
            q_t_selector=params.online["q"](bootstrap, seeds[2]) if self._double else q_t,
        )
        # A window that begins with a LAST row holds no transition.
        weight = batch.weight * tf.cast(~steps.last[:, 0], tf.float32)
        loss = weight * self._grad_comp(error)
        size = tf.abs(error)
        return Loss(
            losses={"q": loss},
            priorities=size + PRIORITY_FLOOR,
            metrics={
                "loss": tf.reduce_mean(loss),
                "q": tf.reduce_mean(q_tm1),
                "td_error": tf.reduce_mean(size),
                "weight": tf.reduce_mean(weight),
            },
        )
