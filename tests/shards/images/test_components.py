"""Components are those that scipy finds, on random graphs, chains and graphs without edges."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shards.images.components import components, numbered


@pytest.mark.parametrize(("nodes", "edges"), [(1, 0), (7, 0), (100, 60), (1000, 900), (50, 2000)])
def test_random_graphs(nodes: int, edges: int) -> None:
    ends = np.random.default_rng(nodes).integers(0, nodes, (2, edges))
    graph = coo_array((np.ones(edges), (ends[0], ends[1])), shape=(nodes, nodes))
    expected = connected_components(graph, directed=False)[1]
    found = components(nodes, *ends)
    assert (numbered(found) == expected).all()
    lowest = [np.flatnonzero(expected == number)[0] for number in expected]
    assert found.tolist() == lowest


def test_a_long_chain_in_any_order() -> None:
    order = np.random.default_rng(0).permutation(20_000)
    assert not components(20_000, order[:-1], order[1:]).any()
