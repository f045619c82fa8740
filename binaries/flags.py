"""The command-line flags of every program, and the one place where they become settings. Imports no TensorFlow."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from absl import flags

from binaries import console, settings
from binaries.experiment import Experiment
from configs import registry as configs
from pipeline import index
from pipeline.envs.closing import close, end_process
from pipeline.envs.environment import action_kind
from pipeline.envs.make import check_begins, make
from pipeline.types import RunError, UserError

FLAGS = flags.FLAGS
SYS = "where to learn: this machine's CPU or GPUs; a TPU; a Google Cloud machine's TPU, if it has one"
flags.DEFINE_enum("sys", "local", ["local", "tpu", "gcp"], SYS)
flags.DEFINE_string("tpu", "", "the TPU's name, with --sys=tpu")
flags.DEFINE_string("hparams", None, "the hyper-parameters: names in configs/, joined by - (later ones win)")
flags.DEFINE_multi_string("hparam_override", [], "settings, e.g. DQN.learning_rate=1e-3; repeated, or joined by ;")
flags.DEFINE_multi_string(
    "import", [], "a module with classes to register, e.g. my_package.my_algo; .gin files lie beside it"
)
flags.DEFINE_string("output_dir", None, "the run's folder: TensorBoard, checkpoints, configuration, logs")
flags.DEFINE_string("env", None, "the environment, e.g. CartPole-v1, gymnasium:Acrobot-v1 or module:Id-v0")
flags.DEFINE_integer("train_steps", None, "environment steps of training", lower_bound=1)
flags.DEFINE_integer("eval_episodes", None, "episodes of each evaluation during training", lower_bound=1)
flags.DEFINE_integer("test_episodes", None, "episodes of the evaluation at the end", lower_bound=1)
flags.DEFINE_integer("seed", None, "of parameters, actions and environments", lower_bound=0)
flags.DEFINE_bool("training", True, "whether to train; False: the newest checkpoint is restored and tested")
flags.DEFINE_integer(
    "copies", None, "independent runs, in OUTPUT_DIR/run_0 and so on, with seeds of their own", lower_bound=1
)
flags.DEFINE_integer(
    "num_workers",
    1,
    "actors, each a process, with a learner, an evaluator and replay servers beside them; 1: all in one process",
    lower_bound=1,
)
flags.DEFINE_integer("shards", 1, "replay servers that share the replay, where they are processes", lower_bound=1)
flags.DEFINE_bool(
    "restart_damaged", False, "where all checkpoints are damaged, begin at step 0 again, without the results so far"
)
flags.DEFINE_bool(
    "render", False, "show episodes of training and of the test in a window; without a display, record them"
)
flags.DEFINE_bool("record_video", False, "write episodes of training and of the test as .mp4 to OUTPUT_DIR/videos")
flags.DEFINE_string(
    "profile", None, "START:STOP: profile between these environment steps, for TensorBoard's profile page"
)
flags.DEFINE_bool("quiet", False, "print no progress: warnings and the results only")
flags.DEFINE_bool("list", False, "print what there is to choose from, and end")
flags.DEFINE_integer("port", 0, "the replay server's port; 0: any free one", lower_bound=0, upper_bound=65535)
flags.DEFINE_bool(
    "private_network",
    True,
    "keep a run without --port on this machine out of others' reach: its processes share a network that has loopback"
    " only; False: for environments that need the machine's network",
)

GROUPS = {
    "What to run": ("hparams", "hparam_override", "env", "import", "seed", "list"),
    "For how long": ("train_steps", "eval_episodes", "test_episodes"),
    "What to do": (
        "training",
        "copies",
        "num_workers",
        "shards",
        "render",
        "record_video",
        "profile",
        "restart_damaged",
        "quiet",
    ),
    "Where": ("sys", "tpu", "output_dir", "port", "private_network"),
}
"""the flags as --help shows them"""
SETTINGS = {
    "env": "environment",
    "train_steps": "train_steps",
    "eval_episodes": "eval_episodes",
    "test_episodes": "test_episodes",
    "seed": "seed",
}
"""flags that are settings of the Experiment"""


class Command(NamedTuple):
    """What a command line asks for."""

    settings: dict[str, settings.Binding]
    experiment: Experiment
    flags: dict[str, Any]


def parse(argv: list[str]) -> Command:
    """Reads the command line and everything it names; raises UserError before TensorFlow is imported."""
    if {"--help", "-h"} & set(argv):
        print("\n".join(_help()))
        sys.exit(0)
    try:
        rest = FLAGS(_joined(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        known = FLAGS.flags_by_module_dict()[__name__] + FLAGS.flags_by_module_dict().get("__main__", [])
        raise UserError(
            f"There is no flag --{error.flagname}; {index.near(error.flagname, [f.name for f in known])}"
        ) from error
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0].rstrip('.')}.") from error
    if rest:
        raise UserError(f"'{rest[0]}' is no flag: flags are written --name=value.")
    for module in FLAGS["import"].value or ():
        configs.add(index.add(module).parent)
    if FLAGS.list:
        print("\n".join(_choices()))
        sys.exit(0)
    if not FLAGS.hparams:
        raise UserError("No hyper-parameters were chosen: add --hparams=NAME, for example --hparams=dqn_cartpole.")
    values = {f"Experiment.{field}={name}": FLAGS[name].value for name, field in SETTINGS.items()}
    merged = settings.read(
        FLAGS.hparams,
        [text for line in FLAGS.hparam_override for text in line.split(";")],
        {key: value for key, value in values.items() if value is not None},
    )
    experiment = Experiment(**{b.parameter: b.value for b in merged.values() if b.owner == "Experiment"})
    # They decide what spaces the environment has.
    settings.apply(merged, "pipeline.envs")
    _check_experiment(experiment)
    return Command(merged, experiment, {name: FLAGS[name].value for name in _names()})


def _help() -> list[str]:
    own = tuple(flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0]))
    lines: list[str] = []
    for title, names in {**GROUPS, "This program": own}.items():
        # absl adds a line to the help of flags that may be repeated.
        said = [(name, (FLAGS[name].help or "").partition(";\n")[0]) for name in names]
        lines += [f"{title}:", *(f"  --{name:<16} {text}" for name, text in said), ""] if said else []
    return lines[:-1]


def _joined(argv: list[str]) -> list[str]:
    """The command line with --flag=False for the seed's --flag False, which absl would take for two things."""
    joined: list[str] = []
    for word in argv:
        name = joined[-1].lstrip("-") if joined and joined[-1].startswith("--") else ""
        if word.lower() in ("true", "false") and name in FLAGS and FLAGS[name].boolean:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _choices() -> list[str]:
    """A line for each kind of thing that hyper-parameters name."""
    kinds = {
        "hparams": sorted(configs.names()),
        "environments": [
            *sorted(e.name for e in index.scan("pipeline.envs") if e.name != "gym"),
            "any id of gym or gymnasium",
        ],
    }
    places = {
        "wrappers": "pipeline.envs.wrappers",
        "algorithms": "agents.algos",
        "models": "agents.models",
        "memories": "servers.memory",
        "action functions": "agents.algos.act_select",
        "gradient functions": "agents.algos.grad_comp",
        "advantages": "agents.advantages",
        "learning rates": "agents.lr_schedules",
        "reward augmentations": "agents.reward_augmentation",
    }
    kinds |= {
        kind: sorted(entry.name for entry in index.scan(package) if entry.name) for kind, package in places.items()
    }
    return [f"{kind:<21} {', '.join(names)}" for kind, names in kinds.items()]


def _names() -> list[str]:
    return [flag.name for flag in FLAGS.flags_by_module_dict()[__name__]]


def _check_experiment(experiment: Experiment) -> None:
    """That algorithm and environment exist and fit each other."""
    if not experiment.environment:
        raise UserError("No environment was chosen: add --env=ID, or hyper-parameters that name one.")
    algos = {entry.name: entry for entry in index.scan("agents.algos")}
    if experiment.algo not in algos:
        raise UserError(f"There is no algorithm '{experiment.algo}'; {index.near(experiment.algo, algos)}")
    served: Any = algos[experiment.algo].constants.get("action_kinds")
    if served is None:
        raise UserError(
            f"{algos[experiment.algo].class_name} does not say which actions it serves: give it a line such as"
            " action_kinds = ('discrete',), a literal that is read before the class is imported."
        )
    environment = make(experiment.environment, wrappers=experiment.wrappers)
    kind = action_kind(environment.action_spec)
    try:
        check_begins(environment)
    finally:
        close(environment)
    if kind not in served:
        raise UserError(
            f"Algorithm '{experiment.algo}' serves {' and '.join(served)} actions, and those of"
            f" {experiment.environment} are {kind}: choose another algorithm or environment."
        )


def main(program: Callable[[list[str]], int]) -> NoReturn:
    """Runs `program` as `answer` does and ends the process with its code."""
    try:
        code = answer(program)
    except Exception:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    # Threads of TensorFlow and Reverb still run. Leaving in the usual way takes C++'s global objects away from under
    # them, which now and then ends a process that has done all its work with SIGABRT.
    end_process(code)


def answer(program: Callable[[list[str]], int]) -> int:
    """Runs `program(argv)` and returns its exit code, with a sentence for 2 (UserError), 1 (RunError), 130 (Ctrl-C)."""
    # gym needs pygame 2.1, which imports what setuptools warns about.
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    program_name = Path(sys.argv[0]).stem
    sys.stdout = console.Output(sys.stdout)
    try:
        return program(sys.argv)
    except UserError as error:
        print(f"{program_name}: {settings.without_gin(str(error))}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{program_name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Before the program listens to signals, or where it never does.
        print(f"{program_name}: stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
