"""Choose leaves of a pytree by path; complain when nothing matches.

A path is the leaf's keys joined by slashes, `"params/Conv_0/kernel"`. Boxes that only
wrap a value (NNX variables, Linen's `Partitioned`) do not show in it, so one predicate
serves every framework.
"""

import re
from collections.abc import Callable

import jax
from jax.tree_util import GetAttrKey, KeyPath, keystr

from jaxprune.types import Params, Predicate, PyTree

_KERNEL_NAMES = frozenset({"kernel", "w", "weight", "embedding"})
_FACTOR_NAMES = frozenset({"scale", "bias", "gamma", "beta", "offset", "weight"})
_BATCH_NORM = re.compile(r"batch_?norm|(^|_)bn($|_|\d)", re.IGNORECASE)


def name(path: KeyPath) -> str:
    """The path of a leaf as text, `"Conv_0/kernel"`.

    Example:
      >>> import jax
      >>> [name(p) for p, _ in jax.tree.leaves_with_path({"a": {"b": 1, "c": 2}})]
      ['a/b', 'a/c']
    """
    if path and isinstance(path[-1], GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return keystr(path, simple=True, separator="/")


def select(tree: Params, predicate: Predicate) -> PyTree:
    """A tree of bools, True where `predicate(path, leaf)` holds.

    Raises:
      ValueError: nothing matches; the message shows some of the paths there are.

    Example:
      >>> import jax.numpy as jnp
      >>> select({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, kernels)
      {'bias': False, 'kernel': True}
    """
    chosen = jax.tree.map_with_path(lambda p, x: bool(predicate(name(p), x)), tree)
    if not any(jax.tree.leaves(chosen)):
        there = [name(p) for p, _ in jax.tree.leaves_with_path(tree)]
        shown = ", ".join(there[:5]) + (", …" if len(there) > 5 else "")
        what = getattr(predicate, "__name__", repr(predicate))
        raise ValueError(
            f"{what} matches none of the {len(there)} leaves: "
            f"{shown or 'the tree is empty'}"
        )
    return chosen


def label(
    predicate: Predicate, chosen: str, *, otherwise: str
) -> Callable[[Params], PyTree]:
    """A labelling function for `optax.partition`.

    Args:
      predicate: which leaves get the label `chosen`.
      chosen: label of the leaves that match.
      otherwise: label of all others.

    Returns:
      A function from a tree to a tree of labels; it raises `ValueError` when nothing
      matches.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"BatchNorm_0": {"scale": jnp.ones(3)}, "kernel": jnp.ones((2, 3))}
      >>> label(batch_norm_factors, "factors", otherwise="weights")(params)
      {'BatchNorm_0': {'scale': 'factors'}, 'kernel': 'weights'}
    """

    def labels(tree: Params) -> PyTree:
        return jax.tree.map(
            lambda hit: chosen if hit else otherwise, select(tree, predicate)
        )

    return labels


def kernels(path: str, leaf: object) -> bool:
    """The weights of dense and convolutional layers: two axes or more, named as such.

    Knows the names of Linen and NNX (`kernel`, `embedding`), Haiku (`w`), Equinox
    (`weight`). Keras gives a list of arrays without names: write your own predicate.
    """
    return getattr(leaf, "ndim", 0) >= 2 and _last(path) in _KERNEL_NAMES


def batch_norm_factors(path: str, leaf: object) -> bool:
    """The scale γ and the shift β of batch normalisation, for `jaxprune.fista`.

    A leaf called scale, bias, gamma, beta, offset or weight inside a module whose name
    says batch norm (`BatchNorm_0`, `batch_norm`, `bn1`, …).
    """
    *modules, last = path.split("/")
    return last in _FACTOR_NAMES and any(map(_BATCH_NORM.search, modules))


def matching(pattern: str) -> Predicate:
    """Leaves whose path contains a match of the regular expression `pattern`.

    Example:
      >>> matching(r"head/.*kernel")("head/Dense_0/kernel", None)
      True
    """
    found = re.compile(pattern).search

    def predicate(path: str, leaf: object) -> bool:
        del leaf
        return found(path) is not None

    predicate.__name__ = f"matching({pattern!r})"
    return predicate


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]
