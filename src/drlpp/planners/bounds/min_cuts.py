"""Vertices of a weighted hypergraph that no light cut separates.

If every cut between two vertices weighs more than a threshold, and no solution may cut more than that, the two are on
the same side in every solution. Such vertices are found with maximum-adjacency orders (each vertex next is the one
that most weight joins to those before): the weight that joins a vertex to all before it is the smallest cut between it
and its predecessor among these vertices, and with the others the cut can only weigh more. Sources: Nagamochi and
Ibaraki, "Computing Edge-Connectivity in Multigraphs and Capacitated Graphs" (SIAM J. Discrete Math. 1992); Klimmek and
Wagner, "A Simple Hypergraph Min Cut Algorithm" (1996).

Left out: vertices with little weight of their own are set aside, and cuts that would pass through them count as
lighter than they are. So some vertices that belong together may stay apart, never the other way round.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.native import library


class Hypergraph(NamedTuple):
    """Weighted hyperedges over some vertices.

    Attributes:
        num_vertices: how many.
        pointer, pins: ``[E + 1]``, ``[sum]`` vertices of each hyperedge; they may repeat.
        weight: ``[E]`` what a cut through a hyperedge weighs, however many parts it falls into.
    """

    num_vertices: int
    pointer: NDArray[np.int64]
    pins: NDArray[np.int64]
    weight: NDArray[np.float64]


def inseparable(graph: Hypergraph, threshold: float) -> NDArray[np.int64]:
    """``[num_vertices]`` a label per vertex; vertices of equal label are separated only by cuts above the threshold.

    Args:
        threshold: cuts up to this weight may separate.

    Raises:
        ValueError: pointers or pins that do not fit together.
    """
    return library.inseparable(graph, threshold)
