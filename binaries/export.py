"""Writes the greedy policy of a run's newest checkpoint as a SavedModel that plain TensorFlow loads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags

from agents.tf_config import check_alone
from binaries import console, flags, settings
from binaries.experiment import Parts, Plan
from binaries.run_folder import RunFolder, recorded_command
from pipeline.types import UserError
from servers.checkpoint import Checkpoints

absl_flags.DEFINE_bool("best", False, "export the network of the best evaluation, in place of the newest")
absl_flags.DEFINE_string("to", None, "the SavedModel's folder, which must not exist yet")


def save(parts: Parts, folder: Path) -> None:
    """Writes the policy of `parts` to `folder`: signature 'serving_default', states [B, ...] -> {'action': [B, ...]}.

    A state of one array is the input 'observation'; one of several has an input for each, named by its place:
    'observation_camera'.
    """
    import tensorflow as tf
    import tree

    algo, params = parts.algo, parts.agent.learner.params
    spec = parts.environment.observation_spec
    names = ["_".join(["observation", *map(str, path)]) for path, _ in tree.flatten_with_path(spec)]
    inputs = [
        tf.TensorSpec([None, *leaf.shape], leaf.dtype, name)
        for name, leaf in zip(names, tree.flatten(spec), strict=True)
    ]

    def act(*leaves: tf.Tensor) -> dict[str, Any]:
        core = algo.initial_core(params, np.zeros(1, np.float32))
        observation = tree.unflatten_as(spec, leaves)
        action, _, after = algo.select_action(params, observation, core, tf.zeros([2], tf.int32), training=False)
        if any(one is not other for one, other in zip(tree.flatten(core), tree.flatten(after), strict=True)):
            raise UserError("This policy remembers what it saw before: it cannot be exported as a function of a state.")
        parts = tree.flatten_with_path(action)
        return {"_".join(["action", *map(str, path)]): leaf for path, leaf in parts}

    module: Any = tf.Module()
    module.held = [v for part in (*params.online.values(), *params.moments.values()) for v in part.variables]
    module.act = tf.function(act, input_signature=inputs, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.act})


def main(argv: list[str]) -> int:
    arguments = absl_flags.FLAGS
    try:
        arguments(argv)
    except absl_flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0]}.") from error
    if not arguments.output_dir or not arguments.to:
        raise UserError("Name the run's folder and the SavedModel's: --output_dir=RUN --to=FOLDER.")
    check_alone("export")
    target = Path(arguments.to).expanduser().absolute()
    if target.exists():
        raise UserError(f"--to={target} exists already: name a new folder.")
    command = flags.parse([argv[0], *recorded_command(Path(arguments.output_dir))])
    folder = RunFolder(arguments.output_dir, command.settings)
    place = folder.best if arguments.best else folder.checkpoints
    unit = Checkpoints(place, command.experiment.kept_checkpoints, warn=print).latest()
    if unit is None:
        raise UserError(f"There is no checkpoint in {place}: train first.")
    console.NativeLog()
    settings.apply(command.settings)
    with tempfile.TemporaryDirectory() as scratch:
        parts = Plan("local").build(Path(scratch))
        parts.checkpoint().read(str(unit.path / "learner")).expect_partial()
        save(parts, target)
        parts.close()
    print(f"The greedy policy after {unit.step:,} steps: {target}")
    return 0


if __name__ == "__main__":
    flags.main(main)
