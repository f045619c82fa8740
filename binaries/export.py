"""Writes the greedy policy of a run's newest checkpoint as a SavedModel that plain TensorFlow loads."""

from __future__ import annotations

import importlib.abc
import re
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gin
import numpy as np
import tree
from absl import flags as absl_flags

from agents.tf_config import check_alone
from binaries import console, flags, settings
from binaries.experiment import Experiment
from binaries.run_folder import RunFolder, recorded_command
from pipeline.envs.closing import close
from pipeline.envs.environment import Environment
from pipeline.envs.make import make
from pipeline.envs.own import Own
from pipeline.types import ArraySpec, Nest, Params, UserError
from servers.checkpoint import Checkpoints, readable

if TYPE_CHECKING:
    import tensorflow as tf

    from agents.algos.algo import Algo

NOT_FINITE = "Encore: what the policy chooses actions from is not finite (nan or inf): are the states?"
absl_flags.DEFINE_bool("best", False, "export the network of the best evaluation, in place of the newest")
absl_flags.DEFINE_string("to", None, "the SavedModel's folder, which must not exist yet")


class Port(NamedTuple):
    """One input or output of the SavedModel."""

    name: str
    path: tuple[Any, ...]
    """where its array lies in a state or an action"""
    spec: ArraySpec
    own: Own

    def __str__(self) -> str:
        shape = ", ".join(["B", *map(str, self.spec.shape)])
        place = "".join(f"[{part!r}]" for part in self.path)
        return f"{self.name}: {self.own.dtype} [{shape}]{place and f', at {place}'}"


def ports(kind: str, spec: Nest, own: Nest) -> list[Port]:
    """The inputs (`kind` 'observation') or outputs ('action') of an environment's states or actions.

    One array has the name of its kind; of several each has its path besides: 'observation_camera'.
    """
    paths = [path for path, _ in tree.flatten_with_path(spec)]
    names = unique_names(["_".join([kind, *map(str, path)]) for path in paths])
    return [Port(*port) for port in zip(names, paths, tree.flatten(spec), tree.flatten(own), strict=True)]


def unique_names(texts: Sequence[str]) -> list[str]:
    """A name for each of `texts` that TensorFlow takes; those that are such names already stay as they are."""
    names: dict[int, str] = {}
    # TensorFlow takes names that differ in case only for the same.
    taken: set[str] = set()
    clean = [re.sub("[^A-Za-z0-9_]", "_", text) for text in texts]
    for place in sorted(range(len(texts)), key=lambda place: clean[place] != texts[place]):
        name, count = clean[place], 1
        while name.lower() in taken:
            count += 1
            name = f"{clean[place]}_{count}"
        names[place] = name
        taken.add(name.lower())
    return [names[place] for place in range(len(texts))]


def save(algo: Algo, params: Params, environment: Environment, folder: Path) -> tuple[list[Port], list[Port]]:
    """Writes the greedy policy of `params` to `folder`, with the signature 'serving_default'; returns its ports.

    It takes states [B, ...] as the world behind `environment` gives them, and gives the actions [B, ...] that it takes;
    where what it chooses one from is not finite, it raises InvalidArgumentError.
    """
    import tensorflow as tf

    from agents.finite import witness

    inputs = ports("observation", environment.observation_spec, environment.own_observation())
    outputs = ports("action", environment.action_spec, environment.own_action())

    def act(*leaves: tf.Tensor) -> dict[str, Any]:
        core = algo.initial_core(params, np.zeros(1, np.float32))
        seen = [_to_ours(leaf, port) for leaf, port in zip(leaves, inputs, strict=True)]
        observation = tree.unflatten_as(environment.observation_spec, seen)
        action, _, after = algo.select_action(params, observation, core, tf.zeros([2], tf.int32), training=False)
        if any(one is not other for one, other in zip(tree.flatten(core), tree.flatten(after), strict=True)):
            raise UserError("This policy remembers what it saw before: it cannot be exported as a function of a state.")
        sound = tf.debugging.Assert(tf.math.is_finite(witness(action)), [NOT_FINITE])
        with tf.control_dependencies([sound]):
            action = tree.map_structure(tf.identity, action)
        return {port.name: _to_own(leaf, port.own) for port, leaf in zip(outputs, tree.flatten(action), strict=True)}

    module: Any = tf.Module()
    module.held = [v for part in (*params.online.values(), *params.moments.values()) for v in part.variables]
    signature = [tf.TensorSpec([None, *port.spec.shape], port.own.dtype, port.name) for port in inputs]
    module.act = tf.function(act, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.act})
    return inputs, outputs


def _to_ours(leaf: tf.Tensor, port: Port) -> tf.Tensor:
    """What `Own.to_ours` does, in TensorFlow."""
    import tensorflow as tf

    if np.any(port.own.offset):
        # Not every type of integer has a kernel of its own for it.
        leaf = tf.cast(leaf, tf.int64) - np.asarray(port.own.offset).astype(np.int64)
    return tf.cast(leaf, port.spec.dtype)


def _to_own(leaf: tf.Tensor, own: Own) -> tf.Tensor:
    """What `Own.to_own` does, in TensorFlow."""
    import tensorflow as tf

    if np.any(own.offset):
        leaf = tf.cast(leaf, tf.int64) + np.asarray(own.offset).astype(np.int64)
    leaf = tf.cast(leaf, own.dtype)
    if own.low is None:
        return leaf
    return tf.minimum(tf.maximum(leaf, tf.constant(own.low, own.dtype)), tf.constant(own.high, own.dtype))


class NotFrom(importlib.abc.MetaPathFinder):
    """Refuses to import what lies in a folder that somebody else may have made."""

    def __init__(self, folder: Path):
        self._folder = folder.resolve()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """As Python asks before it imports; leaves to others to find it. Raises ImportError."""
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin and Path(spec.origin).resolve().is_relative_to(self._folder):
            raise ImportError(f"'{fullname}' lies in the run's own folder, and a run's folder is read only")


def main(argv: list[str]) -> int:
    flags.take(argv, ("output_dir",))
    arguments = absl_flags.FLAGS
    if not arguments.output_dir or not arguments.to:
        raise UserError("Name the run's folder and the SavedModel's: --output_dir=RUN --to=FOLDER.")
    check_alone("export")
    target = Path(arguments.to).expanduser().absolute()
    if set(str(target)) & set("*?[\\"):
        raise UserError(
            f"--to={target}: TensorFlow takes *, ?, [ and \\ for patterns where it reads a SavedModel: name a folder"
            " without them."
        )
    if target.exists():
        raise UserError(f"--to={target} exists already: name a new folder.")
    # The settings that are read there name modules.
    sys.meta_path.insert(0, NotFrom(Path(arguments.output_dir).expanduser()))
    command = flags.parse([argv[0], *recorded_command(Path(arguments.output_dir))])
    folder = RunFolder(arguments.output_dir, command.settings, writes=False)
    place = folder.best if arguments.best else folder.checkpoints
    unit = Checkpoints(place, command.experiment.kept_checkpoints, warn=print).latest()
    if unit is None:
        raise UserError(f"There is no checkpoint in {place}: train first.")
    console.NativeLog()
    settings.apply(command.settings)
    import tensorflow as tf

    from agents.algos.algo import acting_variables, networks
    from agents.algos.registry import ALGOS
    from agents.finite import are_finite

    experiment = gin.get_configurable(Experiment)()
    algo = ALGOS.get(experiment.algo)()
    environment = make(experiment.environment, training=False, wrappers=experiment.wrappers)
    try:
        params = networks(algo, environment.observation_spec, environment.action_spec)
        held = tf.train.Checkpoint(online=dict(params.online), moments=dict(params.moments))
        try:
            with readable(unit.path / "learner") as path:
                held.read(path).assert_existing_objects_matched().expect_partial()
        except (AssertionError, ValueError) as error:
            raise UserError(f"{unit.path} holds another network than this run's settings make.") from error
        if not are_finite(acting_variables(params)):
            other = "the newest" if arguments.best else "the best, with --best"
            raise UserError(
                f"The network in {unit.path} holds numbers that are not finite (nan or inf): export {other}."
            )
        inputs, outputs = save(algo, params, environment, target)
    finally:
        close(environment)
    print(f"The greedy policy after {unit.step:,} steps: {target}")
    for kind, found in (("input", inputs), ("output", outputs)):
        print("\n".join(f"  {kind} {port}" for port in found))
    return 0


if __name__ == "__main__":
    flags.main(main)
