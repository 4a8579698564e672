"""What to remove: a value, applied to anything shaped like the variables."""

from jaxprune.plan.fold import Fold as Fold
from jaxprune.plan.value import Plan as Plan
