"""How files, overrides and flags become one set of settings, which of them are refused, and who reads the rest."""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gin
import pytest

from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.registry import ALGOS
from agents.models.registry import MODELS
from binaries import flags, settings
from binaries.experiment import Experiment
from binaries.settings import Binding
from configs import registry as configs
from pipeline import index
from pipeline.envs.make import make as make_environment
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.wrappers.registry import WRAPPERS
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
    ["DQN.gamma", "DQN.gamma=", "DQN.gamma==1", "=1", "DQN.gamma=[1", "DQN.gamma=1 2", "'''", "?"],
)
def test_text_that_is_no_setting_is_quoted_with_how_settings_are_written(write: Write, text: str) -> None:
    sentence = refusal(write, text)
    assert sentence.startswith(f"--hparam_override: '{text}' is no setting (")
    assert sentence.endswith("); write Class.name=value.")
    assert "\n" not in sentence
    assert "object at 0x" not in sentence


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("DQN.memory=uniform", "write text in quotes that the shell leaves: \"DQN.memory='uniform'\""),
        ("DQN.memory = uniform  # why", "write text in quotes that the shell leaves: \"DQN.memory='uniform'\""),
        ("Experiment.environment=atari:pong", "the shell leaves: \"Experiment.environment='atari:pong'\""),
        ("Experiment.environment=CartPole-v1", "the shell leaves: \"Experiment.environment='CartPole-v1'\""),
        ("Nothing.known=text", "the shell leaves: \"Nothing.known='text'\""),
        ("DQN.double=true", "write DQN.double=True"),
        ("DQN.double=FALSE", "write DQN.double=False"),
        ("DQN.double=yes", "write DQN.double=True or DQN.double=False"),
        ("DQN.max_gradient_norm=null", "write DQN.max_gradient_norm=None"),
        ("DQN.max_gradient_norm=none", "write DQN.max_gradient_norm=None"),
        ("DQN.gamma=nan", "it must be of type float"),
        ("DQN.batch_size=many", "it must be of type int"),
    ],
)
def test_a_bare_word_is_answered_with_what_to_write(write: Write, text: str, mended: str) -> None:
    sentence = refusal(write, text)
    assert sentence.startswith("--hparam_override: '")
    assert sentence.endswith(f"{mended}.")


@pytest.mark.parametrize(
    "text",
    [
        "DQN.learning_rate=1e999",
        "DQN.gamma=-1e999",
        "DQN.max_gradient_norm=1e400",
        "Piecewise.factors=(1.0, 1e999, 0.1)",
        "GymEnvironment.options={'a': [1e999]}",
        "DQN.batch_size=1e999",
    ],
)
def test_a_number_that_is_not_finite_is_refused(write: Write, text: str) -> None:
    assert refusal(write, text).endswith(": a number must be finite.")


@pytest.mark.parametrize(
    ("text", "value"),
    [("Experiment.train_steps=1e5", 100_000), ("DQN.batch_size=64.0", 64), ("DQN.gamma=1e0", 1.0)],
)
def test_a_whole_number_may_have_an_exponent(write: Write, text: str, value: float) -> None:
    write(empty="")
    [binding] = read("empty", text).values()
    assert (binding.value, type(binding.value)) == (value, type(value))


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("A.b=1;C.d=2", ["A.b=1", "C.d=2"]),
        ("A.b='x;y';C.d=2;", ["A.b='x;y'", "C.d=2"]),
        ('A.b="x;\'y";C.d=2', ['A.b="x;\'y"', "C.d=2"]),
        (r"A.b='x\';y';C.d=2", [r"A.b='x\';y'", "C.d=2"]),
        ("A.b=('x;', 'y');C.d='z", ["A.b=('x;', 'y')", "C.d='z"]),
        ("", []),
    ],
)
def test_overrides_are_joined_by_semicolons_outside_quotes(line: str, texts: list[str]) -> None:
    assert settings.split(line) == texts


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


# What classes take from the classes that they inherit from.

NUMBERS = itertools.count()
VARIANTS = """
import typing
from collections.abc import Sequence
from typing import Optional
from agents.algos.act_select.basic import Epsilon
from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.dqn import DQN
from agents.algos.registry import ALGOS
from agents.models.basic import MLP
from agents.models.registry import MODELS
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.scripted import Scripted
from pipeline.envs.wrappers.basic import TimeLimit
from pipeline.envs.wrappers.registry import WRAPPERS
from servers.memory.prioritized import Prioritized
from servers.memory.registry import MEMORIES

MyType = object

@ALGOS.register("plain")
class Plain(DQN): ...

class Between(Plain):
    def __init__(self, step: int = 1, **kwargs):
        super().__init__(n_step=step, **kwargs)

@ALGOS.register("far")
class Far(Between):
    def __init__(self, extra: float = 1.0, **kwargs):
        super().__init__(**kwargs)

@ALGOS.register("some")
class Some(DQN):
    def __init__(self, gamma: float = 0.5):
        super().__init__(gamma=gamma)

@ALGOS.register("typed")
class Typed(DQN):
    action_kinds = DQN.action_kinds

    def __init__(
        self, rate: Optional[float] = None, sizes: Sequence[int] = (), one: "typing.Literal['a']" = "a",
        own: MyType = None, **kwargs
    ):
        super().__init__(**kwargs)

@MODELS.register("plain_model")
class PlainModel(MLP): ...

@ACTION_SELECTORS.register("plain_epsilon")
class PlainEpsilon(Epsilon): ...

@MEMORIES.register("plain_memory")
class PlainMemory(Prioritized): ...

@ENVIRONMENTS.register("plain_world")
class PlainWorld(Scripted): ...

@WRAPPERS.register("plain_limit")
class PlainLimit(TimeLimit): ...
"""


@pytest.fixture
def variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a person's own, added as --import does, not imported yet."""
    module = f"variants{next(NUMBERS)}"
    (tmp_path / f"{module}.py").write_text(VARIANTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(index, "_added", {})
    for registry in (ALGOS, MODELS, ACTION_SELECTORS, MEMORIES, ENVIRONMENTS, WRAPPERS):
        monkeypatch.setattr(registry, "_imported", dict(registry._imported))
    index.add(module)
    yield module
    gin.clear_config()


def reading(merged: dict[str, Binding], make: Callable[[], object]) -> settings.Reading:
    """What became of the settings where the run is what `make` makes."""
    settings.apply(merged)
    make()
    return settings.check_all_read(merged)


def shown(merged: dict[str, Binding], make: Callable[[], object]) -> dict[str, tuple[Any, str]]:
    """Values and origins, which are in the operative configuration too."""
    held = reading(merged, make).held
    operative = {b.name: b.value for b in settings.read_bindings(settings.operative(), "gin")}
    assert {name: operative[name] for name in held} == {name: b.value for name, b in held.items()}
    return {name: (b.value, b.origin) for name, b in held.items()}


@pytest.mark.usefixtures("variants")
def test_a_class_takes_its_bases_settings_unless_it_has_its_own(write: Write) -> None:
    write(one="DQN.gamma = 0.9\nDQN.n_step = 4\nPlain.gamma = 0.8\n")
    made: list[Any] = []
    held = shown(read("one"), lambda: made.append(ALGOS.get("plain")()))
    assert held == {"Plain.gamma": (0.8, "one.gin:3"), "Plain.n_step": (4, "one.gin:2 (DQN)")}
    assert reading(read("one"), lambda: ALGOS.get("plain")()).unread == []
    assert made[0].data().window == 5
    assert made[0]._gamma == 0.8


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("settings_first", [True, False])
def test_it_does_not_matter_whether_the_class_is_chosen_before_or_after(write: Write, settings_first: bool) -> None:
    lines = ["DQN.n_step = 4", "Experiment.algo = 'plain'"]
    write(one="\n".join(lines if settings_first else reversed(lines)))
    held = shown(read("one"), lambda: ALGOS.get(gin.get_configurable(Experiment)().algo)())
    assert held["Plain.n_step"][0] == 4


@pytest.mark.usefixtures("variants")
def test_settings_reach_over_several_classes_the_nearest_first(write: Write) -> None:
    write(one="DQN.gamma = 0.9\nDQN.batch_size = 4\nPlain.batch_size = 8\nFar.step = 3\n")
    made: list[Any] = []
    held = shown(read("one"), lambda: made.append(ALGOS.get("far")()))
    assert held == {
        "Far.gamma": (0.9, "one.gin:1 (DQN)"),
        "Far.batch_size": (8, "one.gin:3 (Plain)"),
        "Far.step": (3, "one.gin:4"),
    }
    assert made[0].data().window == 4
    assert made[0].data().batch_size == 8
    # What its constructor hides is shown with its default.
    assert "Far.double = False" in settings.operative().splitlines()


@pytest.mark.usefixtures("variants")
def test_a_setting_that_a_class_does_not_take_from_its_base_is_told_apart_from_those_that_hold(write: Write) -> None:
    write(one="DQN.gamma = 0.9\nDQN.n_step = 4\nExperiment.algo = 'some'\n")
    make = lambda: ALGOS.get(gin.get_configurable(Experiment)().algo)()  # noqa: E731
    became = reading(read("one"), make)
    assert set(became.held) == {"Some.gamma", "Experiment.algo"}
    assert [b.name for b in became.unread] == ["DQN.n_step"]
    with pytest.raises(
        UserError, match=r"^--hparam_override: nothing reads DQN\.n_step, because DQN is no part of this"
    ):
        reading(read("one", "DQN.n_step=5"), make)
    with pytest.raises(UserError, match=r"^--hparam_override: Some has no parameter 'n_step'; did you mean|there are"):
        read("one", "Some.n_step=5")


@pytest.mark.usefixtures("variants")
def test_a_base_setting_after_the_classes_own_is_an_error_that_names_the_own_one(write: Write) -> None:
    write(one="Plain.n_step = 3\n")
    with pytest.raises(UserError, match=r"nothing reads DQN\.n_step, .*did you mean Plain\.n_step"):
        reading(read("one", "DQN.n_step=4"), lambda: ALGOS.get("plain")())


@pytest.mark.usefixtures("variants")
def test_a_base_that_runs_beside_its_variant_keeps_its_settings(write: Write) -> None:
    write(one="MLP.hidden_sizes = (3,)\nPlainModel.activation = 'tanh'\n")

    def make() -> None:
        MODELS.get("basic")(2)
        MODELS.get("plain_model")(2)

    assert shown(read("one"), make) == {
        "MLP.hidden_sizes": ((3,), "one.gin:1"),
        "PlainModel.hidden_sizes": ((3,), "one.gin:1 (MLP)"),
        "PlainModel.activation": ("tanh", "one.gin:2"),
    }


@pytest.mark.usefixtures("variants")
def test_models_memories_action_functions_environments_and_wrappers_inherit_too(write: Write) -> None:
    write(
        one="Epsilon.final = 0.2\nPrioritized.exponent = 0.3\nScripted.lengths = (2,)\nScripted.truncated = (False,)\n"
        "TimeLimit.steps = 7\n"
    )

    def make() -> None:
        ACTION_SELECTORS.get("plain_epsilon")()
        MEMORIES.get("plain_memory")()
        make_environment("plain_world", wrappers=("plain_limit",))

    held = shown(read("one"), make)
    assert {name: value for name, (value, _) in held.items()} == {
        "PlainEpsilon.final": 0.2,
        "PlainMemory.exponent": 0.3,
        "PlainWorld.lengths": (2,),
        "PlainWorld.truncated": (False,),
        "PlainLimit.steps": 7,
    }


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("text", ["Plain.lr_schedule='linear'", "Far.double=True", "Far.extra=2.0"])
def test_inherited_parameters_can_be_set(write: Write, text: str) -> None:
    write(empty="")
    assert list(read("empty", text)) == [text.partition("=")[0]]


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("text", ["Typed.rate=None", "Typed.rate=0.5", "Typed.sizes=(1, 2)", "Typed.own=3"])
def test_annotations_of_typing_and_of_a_persons_own_are_taken(write: Write, text: str) -> None:
    write(empty="")
    assert list(read("empty", text)) == [text.partition("=")[0]]


@pytest.mark.usefixtures("variants")
@pytest.mark.parametrize("text", ["Typed.rate='a'", "Typed.sizes=('a',)", "Typed.one='b'"])
def test_annotations_of_typing_are_checked(write: Write, text: str) -> None:
    assert "it must be of type" in refusal(write, text)


@pytest.mark.usefixtures("variants")
def test_action_kinds_that_are_no_literal_are_one_sentence(write: Write) -> None:
    write(one="Experiment.environment = 'CartPole-v1'\nExperiment.algo = 'typed'\n")
    flags.FLAGS.unparse_flags()
    with pytest.raises(UserError, match="Typed does not say which actions it serves: give it a line such as"):
        flags.parse(["train", "--hparams=one"])


@pytest.mark.usefixtures("variants")
def test_a_variants_action_kinds_are_known_before_it_is_imported(write: Write, variants: str) -> None:
    write(one="Experiment.environment = 'Pendulum-v1'\nExperiment.algo = 'plain'\n")
    flags.FLAGS.unparse_flags()
    with pytest.raises(UserError, match="Algorithm 'plain' serves discrete actions, and those of Pendulum-v1 are"):
        flags.parse(["train", "--hparams=one"])
    assert variants not in sys.modules
