"""Control flow and rematerialisation: primitives with bodies.

The slots of a body are tied to those of its node, so one relation spans all levels.
"""

import jax
from jax import lax

from jaxprune.coupling.graph import Graph, Node
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def _scan(node: Node, relation: Relation) -> None:
    (body,), consts, carry = node.bodies, *scan_counts(node)
    relation.tie_all(node.inputs[:carry], body.inputs[:carry])
    relation.tie_all(body.inputs[consts:carry], body.outputs[: carry - consts])
    relation.tie_all(body.inputs[consts:carry], node.outputs[: carry - consts])
    stacked = zip(
        (*node.inputs[carry:], *node.outputs[carry - consts :]),
        (*body.inputs[carry:], *body.outputs[carry - consts :]),
        strict=True,
    )
    for whole, step in stacked:
        relation.freeze(whole.slots[0], node, "steps of a scan")
        for a, b in zip(whole.slots[1:], step.slots, strict=True):
            relation.tie(a, b)


def scan_counts(node: Node) -> tuple[int, int]:
    """How many inputs are constants, and how many are constants or carry."""
    if "ft_in" in node.params:  # jax 0.12 and later: (constants, carry, stacked)
        consts, carry, _ = map(len, node.params["ft_in"].unpack())
    else:
        consts, carry = node.params["num_consts"], node.params["num_carry"]
    return consts, consts + carry


def _scan_small(node: Node, small: Small, *arrays: jax.Array):
    (body,), consts, carry = node.bodies, *scan_counts(node)

    def step(state, x):
        outputs = small.run(body, *arrays[:consts], *state, *x)
        return outputs[: carry - consts], outputs[carry - consts :]

    state, stacked = lax.scan(
        step,
        list(arrays[consts:carry]),
        list(arrays[carry:]),
        length=node.params["length"],
        reverse=node.params["reverse"],
        unroll=node.params["unroll"],
    )
    return [*state, *stacked]


def _while(node: Node, relation: Relation) -> None:
    (condition, body), consts_c, consts = node.bodies, *_while_counts(node)
    state = node.inputs[consts:]
    relation.tie_all((*node.inputs[:consts_c], *state), condition.inputs)
    relation.tie_all(node.inputs[consts_c:], body.inputs)
    relation.tie_all(state, body.outputs)
    relation.tie_all(state, node.outputs)


def _while_counts(node: Node) -> tuple[int, int]:
    consts_c = node.params["cond_nconsts"]
    return consts_c, consts_c + node.params["body_nconsts"]


def _while_small(node: Node, small: Small, *arrays: jax.Array):
    (condition, body), consts_c, consts = node.bodies, *_while_counts(node)
    return lax.while_loop(
        lambda state: small.run(condition, *arrays[:consts_c], *state)[0],
        lambda state: small.run(body, *arrays[consts_c:consts], *state),
        list(arrays[consts:]),
    )


def _cond(node: Node, relation: Relation) -> None:
    for branch in node.bodies:
        relation.tie_all(node.inputs[1:], branch.inputs)
        relation.tie_all(node.outputs, branch.outputs)


def _cond_small(node: Node, small: Small, index: jax.Array, *arrays: jax.Array):
    """Binds the primitive itself, which knows what branch is for what platform."""
    structs = [jax.ShapeDtypeStruct(small.shape(v), v.dtype) for v in node.inputs[1:]]

    def smaller(branch: Graph):
        return jax.make_jaxpr(lambda *xs: small.run(branch, *xs))(*structs)

    return node.bind(index, *arrays, branches=tuple(map(smaller, node.bodies)))


def _pass_through(node: Node, relation: Relation) -> None:
    (body,) = node.bodies
    relation.tie_all(node.inputs, body.inputs)
    relation.tie_all(node.outputs, body.outputs)


def _remat_small(node: Node, small: Small, *arrays: jax.Array):
    again = jax.checkpoint(
        lambda *xs: small.run(node.bodies[0], *xs),
        policy=node.params["policy"],
        prevent_cse=node.params["prevent_cse"],
    )
    return again(*arrays)


register("scan", constrain=_scan, rewrite=_scan_small)
register("while", constrain=_while, rewrite=_while_small)
register("cond", constrain=_cond, rewrite=_cond_small)
register("remat2", "checkpoint", "remat", constrain=_pass_through, rewrite=_remat_small)
