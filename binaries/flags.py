"""The command-line flags of every program, and the one place where they become settings. Imports no TensorFlow."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
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
flags.DEFINE_bool("trust_folder", False, "go on from a checkpoint that another user owns: what is pickled in it is run")
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
        "trust_folder",
        "quiet",
    ),
    "Where": ("sys", "tpu", "output_dir", "port", "private_network"),
}
"""the flags as --help shows them"""
HELP = ("help", "h", "?", "helpshort", "helpfull")
"""words that ask for the flags, absl's too"""
YES, NO = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
TRUTH = {word: word in YES for word in (*YES, *NO)}
"""what may be written for True and False"""
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
    take(argv, _names())
    for module in FLAGS["import"].value or ():
        configs.add(index.add(module).parent)
    if FLAGS.list:
        print("\n".join(_choices()))
        sys.exit(0)
    if not FLAGS.hparams:
        raise UserError("No hyper-parameters were chosen: add --hparams=NAME, for example --hparams=dqn_cartpole.")
    # Other processes of the run, and later commands, may work in another folder.
    FLAGS["hparams"].value = configs.absolute(FLAGS.hparams)
    values = {f"Experiment.{field}={name}": FLAGS[name].value for name, field in SETTINGS.items()}
    merged = settings.read(
        FLAGS.hparams,
        [text for line in FLAGS.hparam_override for text in settings.split(line)],
        {key: value for key, value in values.items() if value is not None},
    )
    experiment = Experiment(**{b.parameter: b.value for b in merged.values() if b.owner == "Experiment"})
    # They decide what spaces the environment has.
    settings.apply(merged, "pipeline.envs")
    _check_experiment(experiment)
    return Command(merged, experiment, {name: FLAGS[name].value for name in _names()})


def take(argv: list[str], shared: Sequence[str] = (), words_too: bool = False) -> list[str]:
    """Reads the flags that the running program defines, and the `shared` ones of this file; returns the other words.

    For --help, or one of absl's words for it, prints these flags and ends the program. Raises UserError, with the near
    names, for a flag that is none of them, and for words, unless it takes `words_too`.
    """
    own = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.argv[0]) if flag.name not in shared]
    # What follows -- is for another program.
    words = argv[: argv.index("--")] if "--" in argv else argv
    if any(word.startswith("-") and word.lstrip("-") in HELP for word in words):
        print("\n".join(_help(own, shared)))
        sys.exit(0)
    try:
        rest = FLAGS([*_joined(words), *argv[len(words) :]])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown(error.flagname, [*own, *shared]) from error
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0].rstrip('.')}.") from error
    # Modules that the program imports may have brought others.
    for module, defined in FLAGS.flags_by_module_dict().items():
        for flag in defined if module.startswith(("binaries.", "benchmarks.")) else ():
            if not flag.using_default_value and flag.name not in (*own, *shared):
                raise _unknown(flag.name, [*own, *shared])
    if rest and not words_too:
        raise UserError(f"'{rest[0]}' is no flag: flags are written --name=value.")
    return rest


def _unknown(name: str, known: Sequence[str]) -> UserError:
    return UserError(f"There is no flag --{name}; {index.near(name, known)}")


def _help(own: Sequence[str], shared: Sequence[str]) -> list[str]:
    """What the running program is for, and its flags."""
    said = (sys.modules["__main__"].__doc__ or "").partition("\n")[0]
    lines = [said, ""] if said else []
    for title, names in {**GROUPS, "This program": own}.items():
        # absl adds a line to the help of flags that may be repeated.
        about = [(n, (FLAGS[n].help or "").partition(";\n")[0]) for n in names if n in shared or n in own]
        lines += [f"{title}:", *(f"  --{name:<16} {text}" for name, text in about), ""] if about else []
    return lines[:-1]


def _joined(words: Sequence[str]) -> list[str]:
    """The command line as absl reads it.

    --flag=False for the seed's --flag False, which absl would take for two things; 'no' and 'off' for False, 'yes' and
    'on' for True; 100000 for 1e5.
    """
    joined: list[str] = []
    for word in words:
        before = joined[-1].lstrip("-") if joined and joined[-1].startswith("-") else ""
        name, equals, value = word.lstrip("-").partition("=")
        if before in FLAGS and FLAGS[before].boolean and word.lower() in TRUTH:
            joined[-1] += f"={TRUTH[word.lower()]}"
        elif before in FLAGS and FLAGS[before].flag_type() == "int":
            joined.append(_whole(word))
        elif word.startswith("-") and equals and name in FLAGS and FLAGS[name].boolean:
            joined.append(f"--{name}={TRUTH.get(value.lower(), value)}")
        elif word.startswith("-") and equals and name in FLAGS and FLAGS[name].flag_type() == "int":
            joined.append(f"--{name}={_whole(value)}")
        else:
            joined.append(word)
    return joined


def _whole(text: str) -> str:
    """'100000' for '1e5'; what is no whole number as it is."""
    with contextlib.suppress(ValueError, OverflowError):
        if not text.strip("+-").isdecimal() and float(text).is_integer():
            return str(int(float(text)))
    return text


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
    # PPO and VPG take it, and no class of its own stands for it: their policy gives the values.
    kinds["models"].append("shared (as value_model: one network with the policy)")
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
