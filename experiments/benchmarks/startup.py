"""From the command to the first training step, in fresh processes.

Once with an empty compilation cache, once with the one that the first run filled.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from experiments.benchmarks.figure import Figure, single

_PHASES = "import", "data", "compile", "step"


def run(short: bool) -> list[Figure]:
    """Import, data, compilation and the step itself, in seconds."""
    size = ["4", "0.125"] if short else ["128", "1.0"]
    figures = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            seconds = _first_step(size, cache)
            named = [(phase, seconds[phase]) for phase in (*_PHASES, "all")]
            figures += [single(f"{state} cache: {p}", s, "s") for p, s in named]
    return figures


def _first_step(size: list[str], cache: str) -> dict[str, float]:
    command = [sys.executable, "-m", "experiments.benchmarks.first_step", *size]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    environment |= {"STARTED": str(time.time())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"first_step failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
