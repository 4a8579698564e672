"""Shared by all tests: no network, both ways to run a function."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(params=["jit", "eager"])
def compiled(request):
    """`compiled(f)` is `jax.jit(f)` or `f` itself: laws hold for both."""
    return {"jit": jax.jit, "eager": lambda f: f}[request.param]
