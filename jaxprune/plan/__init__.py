"""What to remove: a value, applied to anything shaped like the variables."""

from jaxprune.plan.value import Plan as Plan
