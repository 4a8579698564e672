"""Compiled programs outlive the process, whatever ended it."""

import os
import subprocess
import sys

import pytest

from experiments import programs

COMPILE = """
import warnings
warnings.simplefilter("error")
from experiments import runtime
runtime.configure()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for size in range(1, 30):
    jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.ones((size, size)))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxprune" / "xla"


def stored(home):
    return sorted(path.name for path in home.glob("*-cache"))


def test_processes_share_programs_without_reading_half_of_one(home):
    command = [sys.executable, "-c", COMPILE]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [run.communicate()[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    before = stored(home)
    assert len(before) >= 29
    programs.keep()
    assert stored(home) == before


def test_what_a_killed_process_left_is_compiled_anew(home):
    home.mkdir(parents=True)
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (home / name).write_bytes(b"12345678")
    programs.keep()
    assert stored(home) == ["whole-cache"]


def test_the_users_own_folder_is_left_alone(home, tmp_path, monkeypatch):
    (tmp_path / "own-cache").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    programs.keep()
    assert (tmp_path / "own-cache").exists()
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ


def test_without_a_place_to_write_programs_are_not_kept(home, caplog):
    home.parent.parent.mkdir(exist_ok=True)
    home.parent.touch()
    programs.keep()
    assert "compiled anew in each run" in caplog.text
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
