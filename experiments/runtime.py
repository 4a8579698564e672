"""Settings of the JAX runtime that experiments share: call `configure()` first.

XLA and glibc read their settings once, when they start, so they are set before JAX
makes its first array, and glibc's by starting the program anew. What is set already is
left alone.
"""

import os
import platform
import sys

from experiments import programs

# Matrix products by Eigen, not YNNPACK: at odd widths 1.3 to 1.5 times as fast.
_XLA_FLAGS = {
    "--xla_cpu_prefer_vector_width": "512",
    "--xla_cpu_experimental_ynn_fusion_type": "-individual_dot,-dot",
}

# glibc returns large freed blocks to the kernel, and every step pays for fresh pages.
# This keeps them, and asks for huge ones.
_MALLOC = ":".join(
    [
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",
        "glibc.malloc.trim_threshold=100000000000",
        "glibc.malloc.top_pad=1000000000",
    ]
)


def configure() -> None:
    """Sets XLA flags and the compilation cache, and tunes malloc where it may.

    Under `python -m experiments…` on Linux with glibc the process is replaced by itself
    once, with malloc tuned; never in a notebook, under pytest, or in a user's program.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = {flag.split("=")[0] for flag in flags}
    flags += [f"{k}={v}" for k, v in _XLA_FLAGS.items() if k not in given]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    programs.keep()
    if _may_restart():
        os.environ["GLIBC_TUNABLES"] = _MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    programs.tell_jax()


def _may_restart() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return (
        spec is not None
        and spec.name.startswith("experiments.")
        and platform.libc_ver()[0] == "glibc"
        and "GLIBC_TUNABLES" not in os.environ
    )
