"""Rice code of a sorted index: close to the entropy of the mask, and vectorised.

The gap g ≥ 0 between two kept positions is written as a quotient q = ⌊g / 2ʳ⌋ in unary
(q zeros and a one) and r low bits. When positions are kept independently with
probability p, gaps are geometric, and the best r comes within a few percent of the
entropy H(p) per position. r = 0 *is* the bitmask: no gap has low bits, and the unary
code of all gaps is the mask itself, up to the last one kept.

R. F. Rice, "Some practical universal noiseless coding techniques", JPL 79-22, 1979.
"""

import numpy as np

MAX_LOW_BITS = 40


def encode(kept: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes a mask.

    Args:
      kept: bool, (n,).

    Returns:
      The code, uint8, and the number r of low bits, the one that makes it shortest.

    Example:
      >>> import numpy as np
      >>> code, low_bits = encode(np.arange(1000) % 50 == 7)
      >>> len(code), low_bits
      (18, 5)
      >>> np.flatnonzero(decode(code, low_bits, count=20, size=1000))[:3]
      array([  7,  57, 107])
    """
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    low_bits = min(range(MAX_LOW_BITS), key=lambda r: _bits(gaps, r))
    ones = np.cumsum((gaps >> low_bits) + 1) - 1
    unary = np.zeros(ones[-1] + 1 if len(ones) else 0, bool)
    unary[ones] = True
    low = np.empty((len(gaps), low_bits), bool)
    for bit in range(low_bits):
        low[:, bit] = (gaps >> bit) & 1
    parts = np.packbits(unary), np.packbits(low.ravel())
    return np.concatenate(parts), low_bits


def decode(code: np.ndarray, low_bits: int, count: int, size: int) -> np.ndarray:
    """The mask, bool (size,), that `encode` wrote with `count` kept positions.

    Raises:
      ValueError: the code is not one of such a mask.
    """
    low_bytes = (count * low_bits + 7) // 8
    if not 0 <= low_bits < MAX_LOW_BITS or not 0 <= low_bytes <= len(code):
        raise ValueError("the code of a mask is too short")
    split = len(code) - low_bytes
    ones = np.flatnonzero(np.unpackbits(code[:split]))
    if len(ones) != count:
        raise ValueError(f"a mask keeps {len(ones)} weights, {count} were written")
    low = np.unpackbits(code[split:], count=count * low_bits).reshape(count, low_bits)
    gaps = (np.diff(ones, prepend=-1) - 1) << low_bits
    for bit in range(low_bits):
        gaps |= low[:, bit].astype(np.int64) << bit
    index = np.cumsum(gaps + 1) - 1
    if count and index[-1] >= size:
        raise ValueError(f"a mask reaches to {index[-1]}, beyond its size {size}")
    kept = np.zeros(size, bool)
    kept[index] = True
    return kept


def entropy_bytes(kept: np.ndarray) -> float:
    """n·H(p) / 8, p = share kept: what no code of independent positions goes below.

    Example:
      >>> import numpy as np
      >>> entropy_bytes(np.arange(80) % 2 == 0)
      10.0
    """
    p = np.mean(kept) if kept.size else 0.0
    if p in (0.0, 1.0):
        return 0.0
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return float(kept.size * entropy / 8)


def _bits(gaps: np.ndarray, low_bits: int) -> int:
    return len(gaps) * (1 + low_bits) + int(np.sum(gaps >> low_bits))
