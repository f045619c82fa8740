"""What a replay of Atari frames costs: resident bytes of a Reverb server per 10,000 frames of Pong, and of a million.

./run frames_memory
./run frames_memory --game=breakout --frames=40000
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import psutil
from absl import flags

from binaries import flags as program_flags

LANES = 8
EVERY = 10_000
"""frames between two readings"""
MILLION = 1_000_000


def main(argv: list[str]) -> int:
    """Writes frames of random play as DQN's windows, and prints a line each 10,000."""
    program_flags.take(argv)
    import reverb

    from pipeline.envs.lanes import Lanes
    from pipeline.envs.make import make_block
    from pipeline.rows import Rows
    from pipeline.types import Data, Step
    from pipeline.writer import Writer
    from servers import tables
    from servers.memory.uniform import Uniform

    lanes = Lanes(make_block(f"atari:{flags.FLAGS.game}", LANES))
    rows, memory = Rows(lanes.observation_spec, lanes.action_spec, {}), Uniform()
    data = Data("uniform", 4, 32, MILLION, 1)
    table = memory.table(tables.TABLE, data, LANES, tables.signature(rows, data.window, LANES))
    server = tables.serve([table], Path(tempfile.mkdtemp()))
    client = reverb.Client(f"localhost:{server.port}")
    writer = Writer([client], tables.TABLE, rows, LANES, data.window, 1, memory.blocks)
    generator, process = np.random.default_rng(0), psutil.Process()
    state, first, last = lanes.reset(0), np.ones(LANES, bool), np.zeros(LANES, bool)
    readings: list[tuple[int, int]] = []
    print(f"frame: {rows.row_bytes():,} bytes a row, {rows.history + 1} frames a state, each stored once")
    for step in range(flags.FLAGS.frames // LANES + 1):
        if step * LANES % EVERY < LANES:
            writer.flush()
            gc.collect()
            readings.append((step * LANES, process.memory_info().rss))
            frames, resident = readings[-1]
            if len(readings) > 1:
                each = (resident - readings[-2][1]) / (frames - readings[-2][0])
                print(f"{frames:>7,} frames: {resident / 2**20:,.0f} MiB, {each:,.0f} bytes a frame", flush=True)
        action = generator.integers(0, lanes.action_spec.num_values, LANES, np.int32)
        before = state
        state, reward, done = lanes.step(action)
        writer.append(Step(before, action, reward, np.ones(LANES, np.float32), first, last, {}))
        first, last = last & (done == 0), done != 0
    # The first readings hold what the process takes once.
    (begin, low), (end, high) = readings[1], readings[-1]
    print(f"1,000,000 frames: {(high - low) / (end - begin) * MILLION / 1e9:.2f} GB, extrapolated")
    writer.close()
    lanes.close()
    server.stop()
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("game", "pong", "the ROM")
    flags.DEFINE_integer("frames", 40_000, "to be written", lower_bound=2 * EVERY)
    program_flags.main(main)
