"""Shared by all tests: no network, both ways to run a function."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


@pytest.fixture(params=["jit", "eager"])
def compiled(request):
    """`compiled(f)` is `jax.jit(f)` or `f` itself: laws hold for both."""
    return {"jit": jax.jit, "eager": lambda f: f}[request.param]
