"""Shared by all tests: no network, both ways to run a function."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from experiments import programs

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def programs_of_this_run(tmp_path_factory, worker_id):
    """Tests share the programs they compile, and leave those at home alone."""
    folder = tmp_path_factory.getbasetemp()
    home = folder if worker_id == "master" else folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "home"))
        programs.keep()
    programs.tell_jax()


@pytest.fixture(params=["jit", "eager"])
def compiled(request):
    """`compiled(f)` is `jax.jit(f)` or `f` itself: laws hold for both."""
    return {"jit": jax.jit, "eager": lambda f: f}[request.param]
