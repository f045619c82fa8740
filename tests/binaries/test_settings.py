"""How files, overrides and flags become one set of settings, which of them are refused, and who reads the rest."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import pytest

from agents.algos.registry import ALGOS
from binaries import flags, settings
from binaries.experiment import Experiment
from binaries.settings import Binding
from configs import registry as configs
from pipeline.types import UserError
from servers.memory.registry import MEMORIES

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes hparams files by name, in place of those of configs/."""
    monkeypatch.setattr(configs, "_folders", [tmp_path])

    def files(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.gin").write_text(text)

    return files


def read(hparams: str = "empty", *overrides: str, **flag_values: Any) -> dict[str, Binding]:
    """The settings of `hparams` with `overrides`, and with flags given as Class__parameter=value."""
    given = {f"{name.replace('__', '.')}=flag": value for name, value in flag_values.items()}
    return settings.read(hparams, overrides, given)


def values(merged: dict[str, Binding]) -> dict[str, Any]:
    return {name: binding.value for name, binding in merged.items()}


def refusal(write: Write, text: str) -> str:
    """The sentence that answers the override `text`."""
    write(empty="")
    with pytest.raises(UserError) as error:
        read("empty", text)
    return str(error.value)


# What wins.


def test_a_file_wins_over_what_it_includes(write: Write) -> None:
    write(base="DQN.gamma = 0.9\nDQN.n_step = 2\n", top="include 'base.gin'\nDQN.gamma = 0.8\n")
    assert values(read("top")) == {"DQN.gamma": 0.8, "DQN.n_step": 2}


def test_later_hparams_win_over_earlier_ones(write: Write) -> None:
    write(one="DQN.gamma = 0.9\nDQN.n_step = 2\n", two="DQN.gamma = 0.8\n", three="DQN.gamma = 0.7\n")
    assert values(read("one-two-three")) == {"DQN.gamma": 0.7, "DQN.n_step": 2}
    assert values(read("three-two-one"))["DQN.gamma"] == 0.9


def test_a_base_that_two_files_include_does_not_undo_the_first_file(write: Write) -> None:
    write(
        base="DQN.gamma = 0.9\nDQN.n_step = 2\n",
        one="include 'base.gin'\nDQN.gamma = 0.8\n",
        two="include 'base.gin'\nDQN.batch_size = 16\n",
    )
    assert values(read("one-two")) == {"DQN.gamma": 0.8, "DQN.n_step": 2, "DQN.batch_size": 16}


def test_files_that_include_each_other_are_read_once(write: Write) -> None:
    write(one="include 'two.gin'\nDQN.gamma = 0.9\n", two="include 'one.gin'\nDQN.gamma = 0.8\nDQN.n_step = 2\n")
    assert values(read("one")) == {"DQN.gamma": 0.9, "DQN.n_step": 2}


def test_overrides_win_over_files_and_flags_over_both(write: Write) -> None:
    write(one="Experiment.seed = 1\nExperiment.lanes = 1\nExperiment.train_steps = 1\n")
    merged = read("one", "Experiment.seed = 2", "Experiment.lanes = 2", "Experiment.lanes = 3", Experiment__seed=4)
    assert values(merged) == {"Experiment.seed": 4, "Experiment.lanes": 3, "Experiment.train_steps": 1}


def test_each_setting_knows_the_file_and_line_or_the_flag_that_made_it(write: Write) -> None:
    write(
        base="# A comment.\n\nDQN.gamma = 0.9\nDQN.n_step = 2  # and another\n",
        one="include 'base.gin'\n\nDQN.batch_size = 16\nMLP:\n  activation = 'tanh'\n",
    )
    merged = read("one", "DQN.n_step = 3", Experiment__seed=1)
    assert {name: binding.origin for name, binding in merged.items()} == {
        "DQN.gamma": "base.gin:3",
        "DQN.n_step": "--hparam_override",
        "DQN.batch_size": "one.gin:3",
        "MLP.activation": "one.gin:5",
        "Experiment.seed": "--flag",
    }


def test_the_command_line_is_read_in_that_order(write: Write) -> None:
    write(one="Experiment.environment = 'scripted'\nExperiment.algo = 'dqn'\nExperiment.train_steps = 1\n")
    flags.FLAGS.unparse_flags()
    command = flags.parse(
        [
            "train",
            "--hparams=one",
            "--train_steps=30",
            "--hparam_override=Experiment.train_steps=20;Experiment.lanes=2",
            "--hparam_override=Experiment.lanes=3;",
            "--seed=5",
        ]
    )
    assert command.settings["Experiment.train_steps"].origin == "--train_steps"
    assert command.settings["Experiment.seed"].origin == "--seed"
    assert command.experiment == Experiment(environment="scripted", algo="dqn", lanes=3, train_steps=30, seed=5)
    assert command.flags["seed"] == 5
    assert command.flags["hparams"] == "one"


# What is refused.


def test_unknown_hparams_are_answered_with_the_near_names(write: Write) -> None:
    write(cartpole="", pendulum="")
    with pytest.raises(UserError) as error:
        read("cartpol")
    assert str(error.value) == "There are no hparams 'cartpol'; did you mean cartpole?"


def test_unknown_hparams_without_near_names_are_answered_with_all(write: Write) -> None:
    write(cartpole="", pendulum="")
    with pytest.raises(UserError) as error:
        read("cartpole-breakout")
    assert str(error.value) == "There are no hparams 'breakout'; there are: cartpole, pendulum."


def test_an_include_of_no_file_is_refused(write: Write) -> None:
    write(cartpole="include 'bsae.gin'\n", base="")
    with pytest.raises(UserError, match=r"^There are no hparams 'bsae'; did you mean base\?$"):
        read("cartpole")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("DNQ.gamma=0.9", "there is no class 'DNQ' to configure; did you mean DQN?"),
        ("DQN.gama=0.9", "DQN has no parameter 'gama'; did you mean gamma?"),
        ("DQN.batch=0.9", "DQN has no parameter 'batch'; did you mean batch_size?"),
        ("Prioritized.zzz=1", "Prioritized has no parameter 'zzz'; there are: beta, exponent, final_beta."),
        ("Uniform.zzz=1", "Uniform has no parameter 'zzz'; there are: none."),
        # Those are the code's to hand over, not gin's.
        (
            "MLP.outputs=3",
            "MLP has no parameter 'outputs'; there are: activation, head_gain, hidden_sizes, orthogonal.",
        ),
        ("DQN.batch_size=1.5", "DQN.batch_size is 1.5: it must be of type int."),
        ("DQN.batch_size=True", "DQN.batch_size is True: it must be of type int."),
        ("DQN.learning_rate=True", "DQN.learning_rate is True: it must be of type float."),
        ("DQN.learning_rate='1e-3'", "DQN.learning_rate is '1e-3': it must be of type float."),
        ("DQN.double=1", "DQN.double is 1: it must be of type bool."),
        ("DQN.gamma=None", "DQN.gamma is None: it must be of type float."),
        ("DQN.max_gradient_norm='a'", "DQN.max_gradient_norm is 'a': it must be of type float | None."),
        ("DQN.model=3", "DQN.model is 3: it must be of type str."),
        ("MLP.hidden_sizes=64", "MLP.hidden_sizes is 64: it must be of type tuple[int, ...]."),
        ("MLP.hidden_sizes=(64, True)", "MLP.hidden_sizes is (64, True): it must be of type tuple[int, ...]."),
        ("MLP.hidden_sizes=(64, 1.5)", "MLP.hidden_sizes is (64, 1.5): it must be of type tuple[int, ...]."),
        ("DQN.model=@MLP", "DQN.model is @MLP: settings are plain values."),
        ("DQN.model=@MLP()", "DQN.model is @MLP(): settings are plain values."),
        ("DQN.gamma=%half", "DQN.gamma is %half: settings are plain values."),
        ("import os", "imports do nothing here; write Class.name=value."),
    ],
)
def test_a_setting_that_does_not_exist_or_fit_is_refused(write: Write, text: str, sentence: str) -> None:
    assert refusal(write, text) == f"--hparam_override: {sentence}"


@pytest.mark.parametrize(
    "text",
    ["DQN.gamma", "DQN.gamma=", "DQN.gamma==1", "=1", "DQN.gamma=[1", "DQN.gamma=1 2", "DQN.gamma=nan", "'''", "?"],
)
def test_text_that_is_no_setting_is_quoted_with_how_settings_are_written(write: Write, text: str) -> None:
    sentence = refusal(write, text)
    assert sentence.startswith(f"--hparam_override: '{text}' is no setting (")
    assert sentence.endswith("); write Class.name=value.")
    assert "\n" not in sentence
    assert "object at 0x" not in sentence


def test_text_in_a_file_that_is_no_setting_is_quoted_with_its_line(write: Write) -> None:
    write(one="# A comment.\n\nDQN.gamma = 0.9\nDQN.n_step 3\nDQN.double = True\n")
    with pytest.raises(UserError, match=r"^one\.gin:4: 'DQN\.n_step 3' is no setting \("):
        read("one")


def test_a_wrong_setting_in_a_file_is_named_with_its_line(write: Write) -> None:
    write(one="# A comment.\nDQN.gama = 0.9\n")
    with pytest.raises(UserError, match=r"^one\.gin:2: DQN has no parameter 'gama'; did you mean gamma\?$"):
        read("one")


def test_a_wrong_setting_is_refused_even_where_a_later_one_wins(write: Write) -> None:
    write(one="DQN.gamma = 'a'\n")
    with pytest.raises(UserError, match=r"^one\.gin:1: DQN\.gamma is 'a'"):
        read("one", "DQN.gamma = 0.9")


# What is taken.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("DQN.learning_rate = 1", 1),
        ("DQN.learning_rate = 5e-4", 0.0005),
        ("DQN.max_gradient_norm = None", None),
        ("DQN.max_gradient_norm = 10", 10),
        ("DQN.double = True", True),
        ("DQN.replay_size = 1_000_000", 1_000_000),
        ("MLP.hidden_sizes = (32,)", (32,)),
        ("MLP.hidden_sizes = [32, 16]", [32, 16]),
        ("MLP.hidden_sizes = ()", ()),
        ("DQN.model = 'basic'  # with a comment", "basic"),
    ],
)
def test_values_of_the_parameters_type_are_taken(write: Write, text: str, value: object) -> None:
    write(empty="")
    (binding,) = read("empty", text).values()
    assert binding.value == value
    assert type(binding.value) is type(value)


def test_every_configurable_parameter_has_a_type_that_can_be_checked() -> None:
    samples = (1, 1.5, True, "a", (1,), ("a",), (True,), {"a": 1})
    for entry in settings.entries().values():
        for parameter, annotation in entry.parameters.items():
            assert annotation != "object", f"{entry.class_name}.{parameter} has no annotation"
            fits = [sample for sample in samples if settings._fits(sample, annotation)]
            assert fits, f"no value fits {entry.class_name}.{parameter}: {annotation}"
            assert len(fits) < len(samples), f"every value fits {entry.class_name}.{parameter}: {annotation}"


# Who reads them.


def test_constructors_see_the_settings_through_their_registry(write: Write) -> None:
    write(one="DQN.batch_size = 48\nDQN.n_step = 4\nEpsilon.final = 0.25\nExperiment.lanes = 3\n")
    settings.apply(read("one"))
    algo = ALGOS.get("dqn")()
    assert algo.data().batch_size == 48
    assert algo.data().window == 5
    assert float(algo.acting_metrics(10**6)["epsilon"]) == 0.25
    assert gin.get_configurable(Experiment)() == Experiment(lanes=3)


def test_settings_of_an_earlier_command_are_forgotten(write: Write) -> None:
    write(one="DQN.batch_size = 48\n", two="DQN.n_step = 4\n")
    settings.apply(read("one"))
    settings.apply(read("two"))
    data = ALGOS.get("dqn")().data()
    assert (data.batch_size, data.window) == (64, 5)


def test_settings_that_the_run_reads_pass(write: Write) -> None:
    write(one="DQN.memory = 'prioritized'\nPrioritized.exponent = 0.5\n")
    merged = read("one")
    settings.apply(merged)
    MEMORIES.get(ALGOS.get("dqn")().data().memory)()
    settings.check_all_read(merged)


def test_a_setting_whose_class_is_no_part_of_the_run_is_refused(write: Write) -> None:
    write(one="DQN.memory = 'uniform'\nPrioritized.exponent = 0.5\n")
    merged = read("one")
    settings.apply(merged)
    MEMORIES.get(ALGOS.get("dqn")().data().memory)()
    with pytest.raises(UserError) as error:
        settings.check_all_read(merged)
    assert str(error.value).startswith(
        "one.gin:2: nothing reads Prioritized.exponent, because Prioritized is no part of this run; "
    )


def test_a_setting_within_a_gin_scope_is_refused_because_nothing_reads_it(write: Write) -> None:
    write(one="other/DQN.gamma = 0.5\n")
    merged = read("one")
    settings.apply(merged)
    ALGOS.get("dqn")()
    with pytest.raises(UserError, match=r"^one\.gin:1: nothing reads other/DQN\.gamma,.*did you mean DQN\.gamma"):
        settings.check_all_read(merged)


def test_the_operative_configuration_holds_the_defaults_too(write: Write) -> None:
    write(one="DQN.n_step = 4\n")
    settings.apply(read("one"))
    ALGOS.get("dqn")()
    lines = dict(line.split(" = ") for line in settings.operative().splitlines() if line.startswith("DQN."))
    assert set(lines) == {f"DQN.{name}" for name in settings.entries()["DQN"].parameters}
    assert ast.literal_eval(lines["DQN.n_step"]) == 4
    assert ast.literal_eval(lines["DQN.target_update_period"]) == 100


def test_what_gin_adds_to_a_sentence_is_taken_off(write: Write) -> None:
    write(one="DQN.gamma = 1.5\n")
    settings.apply(read("one"))
    with pytest.raises(UserError) as error:
        ALGOS.get("dqn")()
    assert "In call to configurable" in str(error.value)
    assert settings.without_gin(str(error.value)) == "DQN.gamma is 1.5: it must lie in [0, 1]."
