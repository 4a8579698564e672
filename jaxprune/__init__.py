"""Make neural networks smaller, in JAX."""

from jaxprune import artifact as artifact
from jaxprune import coupling as coupling
from jaxprune import distributions as distributions
from jaxprune import masks as masks
from jaxprune import paths as paths
from jaxprune import prox as prox
from jaxprune import schedules as schedules
from jaxprune import scores as scores
from jaxprune import thresholds as thresholds
from jaxprune.certify import Certificate as Certificate
from jaxprune.certify import certify as certify
from jaxprune.constants import Judgement as Judgement
from jaxprune.constants import Verdict as Verdict
from jaxprune.constants import dead_channels as dead_channels
from jaxprune.constants import fold_constants as fold_constants
from jaxprune.constants import judge as judge
from jaxprune.cost import Latency as Latency
from jaxprune.cost import latency as latency
from jaxprune.cost import macs as macs
from jaxprune.cost import nonzeros as nonzeros
from jaxprune.cost import parameters as parameters
from jaxprune.coupling import Coupling as Coupling
from jaxprune.coupling import trace_coupling as trace_coupling
from jaxprune.fista import FistaState as FistaState
from jaxprune.fista import fista as fista
from jaxprune.fista import primal_params as primal_params
from jaxprune.plan import Fold as Fold
from jaxprune.plan import Plan as Plan
from jaxprune.plan import importance as importance
from jaxprune.plan.choose import make_plan as make_plan
from jaxprune.plan.choose import measured_latency as measured_latency
from jaxprune.pruning_log import PruningLog as PruningLog
from jaxprune.pruning_log import StepwiseState as StepwiseState
from jaxprune.pruning_log import pruning_log as pruning_log
from jaxprune.pruning_log import sparsity as sparsity
from jaxprune.regrow import drop_and_regrow as drop_and_regrow
from jaxprune.shrink import shrink as shrink
from jaxprune.stepwise import (
    active_stepwise_pruning as active_stepwise_pruning,
)
from jaxprune.version import __version__ as __version__
