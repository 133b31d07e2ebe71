"""Clusters of points by Fubini-Study distance, and kernels that act within clusters only.

A kernel between N points has N^2 values; within C clusters of N / C points it has N^2 / C.  The
clusters themselves are found in batches of M points, so that no distance matrix is larger than
M x M.  The choice of clusters is made by scikit-learn on the host.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, Key

from . import _checks, processes
from ._checks import AnyArray
from ._front_door import guard, public_functions
from ._pytree import register_dataclass
from .geometry import nearest_neighbour, pairwise_distance
from .kernels.operators import tiled_operator

LINKAGES = ("average", "complete", "single")


def fubini_study_clusters(
    z: Complex[AnyArray, "b k"], count: int, *, linkage: str = "average"
) -> Int[np.ndarray, " b"]:
    """Agglomerative clustering of N points on their N x N matrix of Fubini-Study distances.

    Args:
        z: homogeneous coordinates, (N, n+2).
        count: C, how many clusters.
        linkage: distance of two clusters: the mean over all pairs (``"average"``), the largest or
            the smallest.

    Returns:
        Labels 0 to C - 1, shape (N,).

    Raises:
        ValueError: more clusters than points, an unknown linkage.

    Source: MF section 3.1 (step 2)
    """
    z = _points(z, count)
    if linkage not in LINKAGES:
        raise ValueError(f"linkage: expected one of {LINKAGES}, got {linkage!r}")
    if count == 1:
        return np.zeros(len(z), int)
    from sklearn.cluster import AgglomerativeClustering

    method = AgglomerativeClustering(count, metric="precomputed", linkage=linkage)
    return method.fit_predict(processes.on_host(pairwise_distance(z, z)))


def batched_clusters(
    key: Key[Array, ""],
    z: Complex[AnyArray, "b k"],
    count: int,
    batches: int,
    *,
    linkage: str = "average",
) -> Int[np.ndarray, " b"]:
    """Clusters of large sets: every batch by itself, then merged into those of the first batch.

    1. The points are shuffled and divided into batches of (nearly) equal size.
    2. Each batch is clustered by :func:`fubini_study_clusters`.
    3. The clusters of the first batch are where merging begins.
    4. For each of them in turn, the cluster of the next batch with the smallest mean distance to
       it is merged into it; every cluster of a batch is used once.
    5. The same for all batches.

    The paper does not say whether a cluster may be taken twice; here it may not, so that all points
    end in a cluster.  Distances are to the clusters of the first batch, c^1 in its formula.

    Args:
        key: of the shuffle.
        z: homogeneous coordinates, (N, n+2).
        count: C, how many clusters.
        batches: how many batches.
        linkage: see :func:`fubini_study_clusters`.

    Returns:
        Labels 0 to C - 1, shape (N,).

    Raises:
        ValueError: batches with fewer points than clusters.

    Source: MF section 3.1 (steps 1 to 5), MF 3.3
    """
    z = _points(z, count)
    batches = _checks.positive_integer("batches", batches)
    if len(z) // batches < count:
        raise ValueError(
            f"batches: {batches} batches of {len(z)} points have {len(z) // batches} points each, "
            f"fewer than {count} clusters; use fewer batches or clusters"
        )
    parts = np.array_split(processes.on_host(jax.random.permutation(key, len(z))), batches)
    found = [fubini_study_clusters(z[part], count, linkage=linkage) for part in parts]
    labels = np.empty(len(z), int)
    labels[parts[0]] = found[0]
    for part, own in zip(parts[1:], found[1:], strict=True):
        distance = processes.on_host(pairwise_distance(z[parts[0]], z[part]))
        mean = _between(distance, found[0], own, count)
        labels[part] = _taken_in_turn(mean)[own]
    return labels


def birch_clusters(z: Complex[AnyArray, "b k"], count: int) -> Int[np.ndarray, " b"]:
    """Birch clustering by the Euclidean distance of Re z and Im z: the base line.

    It depends on how the homogeneous coordinates are scaled.

    Source: MF section 3.1 (Birch)
    """
    z = processes.on_host(_points(z, count))
    from sklearn.cluster import Birch

    # the threshold of scikit-learn, .5, would leave fewer subclusters than are asked for
    method = Birch(threshold=0.01, n_clusters=count)
    return method.fit_predict(np.concatenate([z.real, z.imag], axis=1))


def silhouette(z: Complex[AnyArray, "b k"], labels: Int[AnyArray, " b"]) -> float:
    """The mean over points of (b - a) / max(a, b), by Fubini-Study distance, between -1 and 1.

    a is the mean distance to the other points of its cluster, b that to the points of the nearest
    other cluster; around zero clusters overlap.

    Raises:
        ValueError: fewer than two clusters, or as many as points.

    Source: MF section 3.1 (silhouette scores)
    """
    labels = np.asarray(labels)
    z = _points(z, 1)
    if not 2 <= len(np.unique(labels)) < len(z):
        raise ValueError(
            f"labels: a silhouette needs 2 to {len(z) - 1} clusters, got {len(np.unique(labels))}"
        )
    from sklearn.metrics import silhouette_score

    distance = processes.on_host(pairwise_distance(z, z)).copy()
    np.fill_diagonal(distance, 0)
    return float(silhouette_score(distance, labels, metric="precomputed"))


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ClusteredKernel:
    """K(x, x') if x and x' belong to the same cluster, else 0: a block-diagonal kernel.

    A point belongs to the cluster of its nearest centre.  Give it to a flow like any other kernel;
    what other clusters would contribute is neglected.

    Attributes:
        kernel: a scalar kernel.
        centres: the points that were clustered, (N, n+2).
        labels: of the centres, (N,).

    Source: MF section 3.1 (updates for each cluster separately)
    """

    kernel: Any
    centres: Complex[Array, "b k"]
    labels: Int[Array, " b"]

    def operator(
        self, z1: Complex[Array, "b1 k"], z2: Complex[Array, "b2 k"], *, chunk: int
    ) -> "BlockOperator":
        """The blocks between z1 and z2; found on the host, so the points must be numbers.

        Raises:
            ValueError: points that are being traced.
        """
        if _checks.is_traced((z1, z2, self.centres, self.labels)):
            raise ValueError(
                "ClusteredKernel: blocks are found on the host; make the operator outside of jit, "
                "and pass it in"
            )
        first, second = self.assigned(z1), self.assigned(z2)
        rows, columns, blocks = [], [], []
        for label in np.unique(second):
            here, there = np.flatnonzero(first == label), np.flatnonzero(second == label)
            if len(here):
                rows.append(jnp.asarray(here))
                columns.append(jnp.asarray(there))
                blocks.append(tiled_operator(self.kernel, z1[here], z2[there], chunk=chunk))
        return BlockOperator(tuple(rows), tuple(columns), tuple(blocks), len(z1))

    def assigned(self, z: Complex[Array, "b k"]) -> Int[np.ndarray, " b"]:
        """The label of the nearest centre of each point."""
        return np.asarray(self.labels)[
            processes.on_host(nearest_neighbour(z, self.centres).indices)
        ]


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class BlockOperator:
    """A :class:`ClusteredKernel` between two sets of points.

    Attributes:
        rows, columns: for each block, which points it belongs to.
        blocks: the kernel within each cluster.
        size: the number of points of the first set.
    """

    rows: tuple[Array, ...]
    columns: tuple[Array, ...]
    blocks: tuple[Any, ...]
    size: int = dataclasses.field(metadata={"static": True})

    def __matmul__(self, v: Float[Array, "b2 c"]) -> Float[Array, "b1 c"]:
        """sum_b K(x_a, x_b) v_b over the points of the same cluster."""
        out = jnp.zeros((self.size, v.shape[1]), v.dtype)
        for row, column, block in zip(self.rows, self.columns, self.blocks, strict=True):
            out = out.at[row].set((block @ v[column]).astype(v.dtype))
        return out


def _points(z: AnyArray, count: int) -> Array:
    z = _checks.homogeneous_coordinates("z", z)
    if z.ndim != 2:
        raise ValueError(f"z: expected shape (N, n+2), got {z.shape}")
    if _checks.positive_integer("count", count) > len(z):
        raise ValueError(f"count: {count} clusters need as many points, got {len(z)}")
    return z


def _between(distance: np.ndarray, first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """The mean distance of clusters, (C, C), from the distances of their points."""
    one, other = (np.eye(count)[labels] for labels in (first, second))
    return one.T @ distance @ other / np.outer(one.sum(axis=0), other.sum(axis=0))


def _taken_in_turn(distance: np.ndarray) -> np.ndarray:
    """For each column the row that takes it: each row in turn its nearest of what is left."""
    owner = np.empty(len(distance), int)
    left = np.ones(len(distance), bool)
    for row, distances in enumerate(distance):
        column = int(np.argmin(np.where(left, distances, np.inf)))
        owner[column], left[column] = row, False
    return owner


guard(globals(), tuple(public_functions(globals())))
