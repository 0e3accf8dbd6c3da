"""Random numbers as a pure function of counters."""

import numpy as np

from pretrain.loading.philox import Stream, philox, uniforms


def test_known_answers_of_the_reference_implementation() -> None:
    # Random123's kat_vectors: philox4x32, 10 rounds.
    zeros = philox(np.zeros((1, 4), np.uint64), (0, 0))
    ones = philox(np.full((1, 4), 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF))
    assert [f"{word:08x}" for word in zeros[0]] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{word:08x}" for word in ones[0]] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


def test_numbers_of_a_sample_do_not_depend_on_the_others() -> None:
    together = uniforms(7, Stream.AUGMENT, 3, np.array([5, 9, 2]), 6)
    alone = uniforms(7, Stream.AUGMENT, 3, np.array([9]), 6)
    assert np.array_equal(together[1], alone[0])


def test_seed_stream_epoch_and_sample_all_matter() -> None:
    base = uniforms(0, Stream.ORDER, 0, np.array([0]), 4)
    others = [
        uniforms(1, Stream.ORDER, 0, np.array([0]), 4),
        uniforms(2**32, Stream.ORDER, 0, np.array([0]), 4),
        uniforms(0, Stream.AUGMENT, 0, np.array([0]), 4),
        uniforms(0, Stream.ORDER, 1, np.array([0]), 4),
        uniforms(0, Stream.ORDER, 0, np.array([1]), 4),
    ]
    assert not any(np.array_equal(base, other) for other in others)


def test_numbers_are_uniform() -> None:
    counts, _ = np.histogram(
        uniforms(0, Stream.ORDER, 0, np.arange(25_000), 4), bins=10, range=(0, 1)
    )
    assert counts.sum() == 100_000
    assert abs(counts - 10_000).max() < 400  # four deviations of a fair count
