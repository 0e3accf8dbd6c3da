"""Random numbers as a pure function of counters: Philox-4x32-10, vectorised over numpy arrays.

J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11. Unlike numpy's generators
it has no state: the same (key, counter) gives the same number in every process and numpy version.
The order of samples and their augmentation depend on that.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10

Words = npt.NDArray[np.uint32]


class Stream(IntEnum):
    """What random numbers are for: each purpose has numbers of its own."""

    ORDER = 0
    AUGMENT = 1
    TORCH = 2
    MIX = 3
    BALANCE = 4


def philox(counter: npt.NDArray[np.integer], key: tuple[int, int]) -> Words:
    """Map counters `(N, 4)` of 32-bit words to random words `(N, 4)` uint32."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) & _LOW for i in range(4))
    k0, k1 = (int(word) & 0xFFFFFFFF for word in key)
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c2 = (
            (product_1 >> _WORD) ^ c1 ^ np.uint64(k0),
            (product_0 >> _WORD) ^ c3 ^ np.uint64(k1),
        )
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def uniforms(
    seed: int, stream: Stream, epoch: int, samples: npt.NDArray[np.integer], count: int
) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) for each sample, as `(N, count)`."""
    blocks = -(-count // 4)
    counter = np.empty((len(samples), blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.asarray(samples)[:, None]
    counter[..., 1] = np.arange(blocks)
    counter[..., 2] = epoch
    counter[..., 3] = stream
    words = philox(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32))
    return words.reshape(len(samples), -1)[:, :count] / 2.0**32
