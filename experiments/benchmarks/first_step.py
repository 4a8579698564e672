"""One training step in a process of its own, for `startup.py`: prints its times.

Reads a batch size and a width from the command line, and when the command was given,
in seconds since the epoch, from the environment.
"""

import json
import os
import sys
import time

from experiments import runtime


def main(batch: int, width: float) -> dict[str, float]:
    """Seconds of each part, and of all from the command on."""
    started = float(os.environ["STARTED"])
    runtime.configure()
    import jax
    import optax

    import jaxprune as jp
    from experiments import data
    from experiments.benchmarks.steps import training_step
    from experiments.models.mobilenet import MobileNetV1

    times = [started, time.time()]
    data.load("digits")
    times.append(time.time())
    schedule = jp.schedules.logarithmic(final=0.82, curvature=10, steps=20)
    links = optax.sgd(0.01, momentum=0.9), jp.active_stepwise_pruning(schedule, 200)
    step = training_step(MobileNetV1(width=width), optax.chain(*links), batch)
    times.append(time.time())
    jax.block_until_ready(step())
    times.append(time.time())
    parts = zip(("import", "data", "compile", "step"), times, times[1:], strict=False)
    return {name: after - before for name, before, after in parts} | {
        "all": times[-1] - started
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), float(sys.argv[2]))))
