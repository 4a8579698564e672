"""Which channels can go without a change, and what makes up for constant ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxprune.constants.absorb import Bias, Flow
from jaxprune.constants.facts import UNKNOWN, known
from jaxprune.constants.propagate import Place, propagate
from jaxprune.constants.sites import (
    Entries,
    Verdict,
    correction,
    summed,
    verdicts,
)
from jaxprune.coupling.graph import Node
from jaxprune.plan import Fold, Plan
from jaxprune.plan.fold import LINEAR
from jaxprune.types import PyTree


@dataclass(frozen=True, eq=False)
class Site:
    """An operation that sums over slots of groups, and the verdicts on them.

    Attributes:
      node: the operation.
      number: its position among the `LINEAR` ones of `Graph.walk`, −1 for others.
      place: in a loop, in a function with its own derivatives.
      bias: the leaf that can take a constant, if any.
      leaves: paths of the leaves it takes directly.
      labels: groups, one for each slot of each axis that is summed.
      verdicts: one for each of these.
      given: what is known of its inputs.
    """

    node: Node
    number: int
    place: Place
    bias: Bias | None
    leaves: tuple[str, ...]
    labels: np.ndarray
    verdicts: np.ndarray
    given: list[Entries]

    def __str__(self) -> str:
        takes = f" of {', '.join(self.leaves)}" if self.leaves else ""
        return f"{self.node.name}{takes} at {self.node.source or 'an unknown line'}"


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the removal of each group does to the first function that was traced.

    Attributes:
      sites: the operations at which removal could change anything.
    """

    sites: tuple[Site, ...]
    _coupling: Any

    @cached_property
    def verdicts(self) -> np.ndarray:
        """The verdict on each group, of its worst site; shape (coupling.size + 1,)."""
        verdicts = np.full(self._coupling.size + 1, int(Verdict.EXACT))
        for site in self.sites:
            np.maximum.at(verdicts, site.labels, site.verdicts)
        verdicts[0] = int(Verdict.REFUSED)
        return verdicts

    def verdict(self, plan: Plan) -> Verdict:
        """The verdict on a plan: the worst of the groups that it removes.

        Args:
          plan: for the coupling that was judged.
        """
        gone = ~plan.to_keep(self._coupling)
        return Verdict(int(self.verdicts[gone].max(initial=0)))

    def explain(self, group: int) -> str:
        """The verdict on a group, and the sites that make it so.

        Args:
          group: its number, 1 … `coupling.size`.

        Example:
          >>> import jax.numpy as jnp, jaxprune as jp
          >>> mlp = lambda v, x: jnp.tanh(x * v["scale"]) @ v["w"]
          >>> v = {"scale": np.array([0.0, 1.0]), "w": np.ones((2, 2))}
          >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
          >>> jp.judge(coupling, v).explain(2).split(" at ")[0]
          'group 2: refused, by dot_general of w'
        """
        worst = Verdict(int(self.verdicts[group]))
        sites = [
            str(site)
            for site in self.sites
            if (site.verdicts[site.labels == group] == worst).any()
        ]
        return f"group {group}: {worst.name.lower()}, by {'; '.join(sites) or 'no sum'}"

    def fold(self, plan: Plan) -> Fold:
        """What makes up for the constants that go with `plan`.

        Args:
          plan: for the coupling that was judged.

        Raises:
          ValueError: a group goes that is not constant, or whose constants no bias can
            take in a function with derivatives of its own; names the operation.

        Example:
          >>> import jax.numpy as jnp, jaxprune as jp
          >>> mlp = lambda v, x: jnp.exp(x * v["scale"]) @ v["w"] + v["bias"]
          >>> v = {"scale": np.array([0.0, 1.0]), "w": np.ones((2, 3))}
          >>> v |= {"bias": np.zeros(3)}
          >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
          >>> plan = jp.make_plan(coupling, v, dead=jp.dead_channels(coupling, v))
          >>> jp.judge(coupling, v).fold(plan).leaves["bias"].tolist()
          [1.0, 1.0, 1.0]
        """
        keep = plan.to_keep(self._coupling)
        alive = np.flatnonzero(~keep & (self.verdicts == Verdict.REFUSED))
        if len(alive):
            raise ValueError(
                f"{len(alive)} groups that the plan removes are alive; "
                f"{self.explain(int(alive[0]))}. To remove them all the same, take "
                "plan.mask(variables) as the dense network"
            )
        constants = {
            site.number: correction(self._coupling, site.node, site.given, keep)
            for site in self.sites
            if (site.verdicts[~keep[site.labels]] > Verdict.EXACT).any()
        }
        leaves: dict[str, np.ndarray] = {}
        maps: dict[int, np.ndarray] = {}
        for sites in self._together():
            some = [s for s in sites if constants.get(s.number, _NONE).any()]
            changes = self._changes(some, constants)
            custom = [s for s in some if s.place.custom]
            if changes is None and custom:
                raise ValueError(
                    f"no bias can take the constants of {custom[0]}, which has "
                    "derivatives of its own; keep these channels"
                )
            if changes is None:
                maps |= {s.number: _compressed(constants[s.number]) for s in some}
            else:
                for path, change in changes.items():
                    leaves[path] = leaves.get(path, 0) + change
        return Fold(leaves, maps)

    def _together(self) -> list[list[Site]]:
        """The sites, each alone, or with all others of the same conditional."""
        branched: dict[Any, list[Site]] = {}
        for site in self.sites:
            branch = site.place.branch
            branched.setdefault(branch[0] if branch else site, []).append(site)
        return list(branched.values())

    def _changes(
        self, sites: list[Site], constants: Mapping[int, np.ndarray]
    ) -> dict[str, np.ndarray] | None:
        """Changes of leaves that make up for all `sites`, in whatever branch they are.

        None where there are none, or other ones for other branches.
        """
        branches: dict[int, dict[str, np.ndarray]] = {}
        if sites and sites[0].place.branch:
            node, _ = sites[0].place.branch
            branches = {number: {} for number in range(len(node.bodies))}
        for site in sites:
            change = self._change(site, constants[site.number])
            if change is None:
                return None
            _, number = site.place.branch or (None, 0)
            mine, path = branches.setdefault(number, {}), site.bias.path
            mine[path] = mine.get(path, 0) + change
        first, *others = branches.values() or [{}]
        return first if all(_close(first, other) for other in others) else None

    def _change(self, site: Site, constant: np.ndarray) -> np.ndarray | None:
        if site.bias is None:
            return None
        return site.bias.change(constant, self._coupling.leaves[site.bias.path].shape)


def judge(coupling: Any, variables: PyTree) -> Judgement:
    """What the removal of each group does, by propagating constants.

    With these variables and unknown inputs, what is constant in the program is found
    entry by entry. Removal changes a result only where slots are summed over, in matrix
    products, convolutions and sums: there, zeros on either side go without a trace, and
    other constants can be made up for (`Verdict`). Zero times anything counts as zero.

    Only the first function that was traced is judged, at the shapes it was traced with;
    a batch of one is enough, and fastest.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      variables: the values to judge by, structured as for tracing.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def mlp(v, x):
      ...     return jnp.maximum(x * v["scale"] + v["shift"], 0) @ v["w"] + v["bias"]
      >>> v = {"scale": np.array([0.0, 0.0, 1]), "shift": np.array([-1.0, 2, 0])}
      >>> v |= {"w": np.ones((3, 2)), "bias": np.zeros(2)}
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
      >>> [jp.Verdict(verdict).name for verdict in judge(coupling, v).verdicts[1:]]
      ['EXACT', 'FOLDABLE', 'REFUSED']
    """
    graph, leaves = coupling.graphs[0], jax.tree.leaves(variables)
    found: list[tuple[Node, Place]] = []

    @jax.jit
    def look(leaves):
        found.clear()
        facts = []

        def visit(node, given, place):
            if summed(coupling, node).any():
                found.append((node, place))
                told = given if node.name in LINEAR else ()
                facts.append([(fact.value, fact.unknown) for fact in told])

        inputs = [*map(known, leaves)]
        inputs += [UNKNOWN] * (len(graph.inputs) - len(leaves))
        propagate(graph, inputs, visit)
        return facts

    flow = Flow(graph, list(coupling.leaves))
    linear = (node for node in graph.walk() if node.name in LINEAR)
    numbers = {node: number for number, node in enumerate(linear)}
    sites = [
        _site(coupling, flow, node, numbers.get(node, -1), place, _entries(node, facts))
        for facts, (node, place) in zip(look(leaves), found, strict=True)
    ]
    return Judgement(tuple(sites), coupling)


def _entries(node: Node, facts: list[tuple]) -> list[Entries]:
    entries = []
    for array, (value, unknown) in zip(node.inputs, facts, strict=False):
        zeros = np.zeros(array.shape, array.dtype)
        unknown = np.broadcast_to(unknown, array.shape)
        value = zeros if value is None else np.where(unknown, zeros, value)
        entries.append(Entries(value, unknown))
    return entries


def _site(
    coupling: Any,
    flow: Flow,
    node: Node,
    number: int,
    place: Place,
    given: list[Entries],
) -> Site:
    labels = summed(coupling, node)
    bias = None if place.nested else flow.bias(node.outputs[0])
    found = np.broadcast_to(verdicts(node, given), labels.shape)
    if bias is None:
        found = np.where(found == Verdict.FOLDABLE, int(Verdict.MAP), found)
    if place.custom:
        found = np.where(found == Verdict.MAP, int(Verdict.REFUSED), found)
    leaves = tuple(flow.leaves(node))
    return Site(node, number, place, bias, leaves, labels, found, given)


def dead_channels(
    coupling: Any, variables: PyTree, *, worst: Verdict = Verdict.FOLDABLE
) -> np.ndarray:
    """Groups of channels that can go without a change of the function.

    Dead is not assumed from a scale of zero: what the activation makes of the shift is
    computed, and where it goes from there.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      variables: the values to judge by, structured as for tracing.
      worst: how much may be needed to make up for it: `Verdict.EXACT` nothing,
        `Verdict.FOLDABLE` changes of biases, `Verdict.MAP` maps carried by the small
        function.

    Returns:
      Bools of shape (coupling.size + 1,), for `jaxprune.make_plan`.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> mlp = lambda v, x: jnp.maximum(x * v["scale"] + v["shift"], 0) @ v["w"]
      >>> v = {"scale": np.array([0.0, 1.0]), "shift": -np.ones(2), "w": np.eye(2)}
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
      >>> dead_channels(coupling, v)
      array([False,  True, False])
    """
    return judge(coupling, variables).verdicts <= worst


def fold_constants(coupling: Any, variables: PyTree, plan: Plan) -> Fold:
    """What makes up for constants that go with the channels `plan` removes.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      variables: the dense values, structured as for tracing.
      plan: what to remove.

    Returns:
      For `plan.apply(variables, fold=fold)` and `jaxprune.shrink(fn, plan, fold=fold)`.

    Raises:
      ValueError: the plan removes channels that are not constant.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> mlp = lambda v, x: jnp.exp(x * v["scale"]) @ v["w"] + v["bias"]
      >>> v = {"scale": np.array([0.0, 1.0]), "w": np.ones((2, 3)), "bias": np.zeros(3)}
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
      >>> plan = jp.make_plan(coupling, v, dead=dead_channels(coupling, v))
      >>> fold = fold_constants(coupling, v, plan)
      >>> plan.apply(v, fold=fold)["bias"]
      array([1., 1., 1.])
    """
    return judge(coupling, variables).fold(plan)


_NONE = np.zeros(())


def _close(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two changes differ by rounding only."""
    if a.keys() != b.keys():
        return False
    return all(np.abs(a[p] - b[p]).max() <= 1e-5 * np.abs(a[p]).max() for p in a)


def _compressed(array: np.ndarray) -> np.ndarray:
    """`array` with length 1 along the axes on which it is constant."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis)
        if (array == first).all():
            array = first
    return array
