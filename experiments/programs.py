"""Compiled programs, kept at home between runs that may run at the same time.

JAX writes a program straight into its cache, where another process would read half of
it, and what a killed process left stays broken. Only where the size is limited does it
take a lock, and note the time of use after a program is written whole.
"""

import logging
import os
from pathlib import Path

import filelock

_log = logging.getLogger(__name__)
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_BYTES = "JAX_COMPILATION_CACHE_MAX_SIZE"
_LIMIT = 4 << 30


def keep() -> None:
    """Tells JAX where to keep programs, unless the environment says so already."""
    if _FOLDER not in os.environ:
        folder = _home()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(folder)
        except (OSError, filelock.Timeout) as error:
            _log.warning("programs are compiled anew in each run: %s", error)
            return
        os.environ[_FOLDER] = str(folder)
        os.environ.setdefault(_BYTES, str(_LIMIT))


def tell_jax() -> None:
    """The same for a JAX that read its environment before."""
    import jax

    if folder := os.environ.get(_FOLDER):
        jax.config.update("jax_compilation_cache_dir", folder)
    if limit := os.environ.get(_BYTES):
        jax.config.update("jax_compilation_cache_max_size", int(limit))


def _home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "jaxprune" / "xla"


def _remove_unfinished(folder: Path) -> None:
    with filelock.FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("cache") + "atime")
            if not used.exists():
                program.unlink()
