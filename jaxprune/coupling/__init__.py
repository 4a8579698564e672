"""Which slots of which leaves live and die together, read from the jaxpr.

`trace_coupling` traces functions (`graph`), gives every index of every axis of every
array a slot, lets each operation add equalities between slots (`relation`, `registry`,
`rules`), and takes connected components (`solve`). `register` adds a rule.
"""

from jaxprune.coupling import rules as rules
from jaxprune.coupling.causes import Frozen as Frozen
from jaxprune.coupling.coupling import Coupling as Coupling
from jaxprune.coupling.coupling import Leaf as Leaf
from jaxprune.coupling.graph import Graph as Graph
from jaxprune.coupling.graph import Node as Node
from jaxprune.coupling.graph import Value as Value
from jaxprune.coupling.registry import register as register
from jaxprune.coupling.relation import Relation as Relation
from jaxprune.coupling.trace import trace_coupling as trace_coupling
