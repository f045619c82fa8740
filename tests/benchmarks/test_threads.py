"""A benchmark computes with the threads that its settings say."""

from __future__ import annotations

from collections.abc import Callable

import gin
import pytest
import tensorflow as tf

from benchmarks import throughput, time_to_return
from binaries import settings
from binaries.experiment import Experiment

THREADS = settings.read("ddpg_pendulum", [], {})["Experiment.threads"].value


class AskedError(Exception):
    """Ends a benchmark where it says how many threads it wants."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """How many threads a benchmark asks for."""

    def ask(count: int) -> None:
        raise AskedError(count)

    def of(benchmark: Callable[[], object]) -> int:
        with pytest.raises(AskedError) as stopped:
            benchmark()
        gin.clear_config()
        return stopped.value.args[0]

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", ask)
    return of


@pytest.mark.parametrize("threads", [1, 3])
def test_throughput_takes_an_override_of_the_threads(asked: Callable[..., int], threads: int) -> None:
    work = throughput.Work("dqn_cartpole", (f"Experiment.threads = {threads}",), ())
    assert asked(lambda: throughput.measure(work)) == threads


def test_throughput_takes_the_threads_of_the_hyper_parameters(asked: Callable[..., int]) -> None:
    assert asked(lambda: throughput.measure(throughput.WORKS["ddpg_pendulum"])) == THREADS != Experiment().threads


def test_time_to_return_takes_the_threads_of_the_hyper_parameters(
    asked: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_to_return, "HPARAMS", "ddpg_pendulum")
    assert asked(lambda: time_to_return.measure(target=0.0, seed=0)) == THREADS != Experiment().threads
