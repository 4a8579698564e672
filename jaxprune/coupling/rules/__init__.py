"""The rules that come with the library, one file per theme, registered on import."""

from jaxprune.coupling.rules import contraction as contraction
from jaxprune.coupling.rules import control as control
from jaxprune.coupling.rules import custom as custom
from jaxprune.coupling.rules import elementwise as elementwise
from jaxprune.coupling.rules import indexing as indexing
from jaxprune.coupling.rules import reductions as reductions
from jaxprune.coupling.rules import shape as shape
from jaxprune.coupling.rules import sources as sources
