"""Make neural networks smaller, in JAX."""

from jaxprune import coupling as coupling
from jaxprune import paths as paths
from jaxprune.cost import Latency as Latency
from jaxprune.cost import latency as latency
from jaxprune.cost import macs as macs
from jaxprune.cost import nonzeros as nonzeros
from jaxprune.cost import parameters as parameters
from jaxprune.coupling import Coupling as Coupling
from jaxprune.coupling import trace_coupling as trace_coupling
from jaxprune.plan import Plan as Plan
from jaxprune.shrink import shrink as shrink
from jaxprune.version import __version__ as __version__
