"""Make neural networks smaller, in JAX."""

from jaxprune import paths as paths
from jaxprune.plan import Plan as Plan
from jaxprune.version import __version__ as __version__
