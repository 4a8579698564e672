"""Multiply-accumulates of a graph, as a function of what is kept.

A matrix product costs the product of the lengths of its axes, a convolution

    batch · output positions · output channels · window · input channels per group,

so each is a constant times the numbers of kept slots on some axes. A scan costs its
body times its length, a branch the dearest of its bodies; one pass of a `while` counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from jaxprune.coupling.graph import Graph, Node
from jaxprune.coupling.rules.contraction import free_axes

Count = Callable[[np.ndarray], int]


@dataclass(frozen=True, eq=False)
class Cost:
    """Σ over `products` of their axes' lengths, plus the bodies'.

    Attributes:
      products: slots of the axes whose lengths multiply.
      branches: (times, bodies), of which the dearest counts.
    """

    products: tuple[tuple[np.ndarray, ...], ...]
    branches: tuple[tuple[int, tuple["Cost", ...]], ...]

    def __call__(self, count: Count) -> int:
        """The cost, where `count` tells how many of an axis's slots are kept."""
        own = sum(prod(map(count, axes)) for axes in self.products)
        return own + sum(
            times * max(body(count) for body in bodies)
            for times, bodies in self.branches
        )


def cost(graph: Graph) -> Cost:
    """The cost of `graph`, whose values have slots."""
    products, branches = [], []
    for node in graph.nodes:
        if node.name == "dot_general":
            products.append(_dot(node))
        elif node.name == "conv_general_dilated":
            products.append(_convolution(node))
        elif node.name == "cond":
            branches.append((1, tuple(map(cost, node.bodies))))
        elif node.name == "while":
            branches += [(1, (cost(body),)) for body in node.bodies]
        elif node.bodies:
            times = node.params["length"] if node.name == "scan" else 1
            branches.append((times, (cost(node.bodies[0]),)))
    return Cost(tuple(products), tuple(branches))


def _dot(node: Node) -> tuple[np.ndarray, ...]:
    left, right = node.inputs
    free = free_axes(node)[1]
    return (*left.slots, *(right.slots[a] for a in free))


def _convolution(node: Node) -> tuple[np.ndarray, ...]:
    (_, kernel), (y,) = node.inputs, node.outputs
    out_k = node.params["dimension_numbers"].rhs_spec[0]
    inside = [slots for axis, slots in enumerate(kernel.slots) if axis != out_k]
    return (*y.slots, *inside)
