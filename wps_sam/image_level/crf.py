"""Labels drawn to the edges of a picture: mean field of a fully connected CRF (Krähenbühl, Koltun, arXiv 1210.5644).

Its Gaussian filters are those of a permutohedral lattice (Adams, Baek, Davis: Fast High-Dimensional Filtering Using the
Permutohedral Lattice, Eurographics 2010), as sparse matrices. Axes: N pixels, D features, M vertices, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import softmax


@dataclass(frozen=True)
class CRFSettings:
    """The defaults are WeakTr's of VOC. ``confidence``: how sure labels are. A pixel wants to be what pixels near it
    are, by ``near_weight`` and ``near_sigma`` pixels, and what those of its colour not far away are, by
    ``colour_weight``, ``position_sigma`` pixels and ``colour_sigma`` of 0..255."""

    iterations: int = 10
    confidence: float = 0.7
    near_sigma: float = 4.0
    near_weight: float = 3.0
    position_sigma: float = 83.0
    colour_sigma: float = 5.0
    colour_weight: float = 3.0


class DenseCRF:
    """Of one picture uint8 [H, W, 3], RGB."""

    def __init__(self, image: np.ndarray, settings: CRFSettings) -> None:
        height, width = image.shape[:2]
        y, x = np.mgrid[:height, :width]
        place = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
        colour = np.hstack([place / settings.position_sigma, image.reshape(-1, 3) / settings.colour_sigma])
        self._settings = settings
        self._kernels = [
            (settings.near_weight, PermutohedralLattice(place / settings.near_sigma)),
            (settings.colour_weight, PermutohedralLattice(colour)),
        ]

    def __call__(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        """Labels int64 [H, W], 0..L-1, to what they become; with a single label nothing can."""
        if num_labels < 2:
            return labels
        # Energies: of the given label that it is right, of the others what is left, shared out.
        confidence = self._settings.confidence
        unary = np.full((labels.size, num_labels), -np.log((1 - confidence) / (num_labels - 1)))
        unary[np.arange(labels.size), labels.ravel()] = -np.log(confidence)
        belief = softmax(-unary, axis=1)
        for _ in range(self._settings.iterations):
            agreement = sum(weight * kernel.normalised(belief) for weight, kernel in self._kernels)
            belief = softmax(agreement - unary, axis=1)
        return belief.argmax(1).reshape(labels.shape)


class PermutohedralLattice:
    """Sums of values of N points, weighted by exp(-|f_i - f_j|^2 / 2) of their features: up to a common factor, which
    :meth:`normalised` takes out, approximately, and in linear time.

    Args:
        features: float [N, D], each in units of its standard deviation.
    """

    def __init__(self, features: np.ndarray) -> None:
        count, dims = features.shape
        corners, weights = _simplices(features)
        # Corners as single numbers, with room for their neighbours.
        low, high = corners.min((0, 1)) - dims, corners.max((0, 1)) + dims
        radix = np.cumprod([1, *(high - low + 1)[:-1]])
        codes, vertices = np.unique((corners - low) @ radix, return_inverse=True)
        ends = np.arange(0, count * (dims + 1) + 1, dims + 1)
        self._splat = sparse.csr_matrix((weights.ravel(), vertices.ravel(), ends), (count, len(codes)))
        steps = np.vstack([np.ones((dims, dims)) - (dims + 1) * np.eye(dims), np.ones(dims)]).astype(np.int64)
        self._blur = [_neighbours(codes, int(step @ radix)) for step in steps]
        self._norm = 1 / np.sqrt(self(np.ones((count, 1))) + 1e-20)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """[N, L] to [N, L]."""
        on_vertices = self._splat.T @ values
        for blur in self._blur:
            on_vertices = on_vertices + blur @ on_vertices
        return self._splat @ on_vertices

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """The kernel divided by the roots of both points' sums of weights, by which it stays symmetric."""
        return self._norm * self(self._norm * values)


def _simplices(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every point the corners of its simplex, int64 [N, D + 1, D], and its barycentric weights [N, D + 1].

    Corners lie on the plane of D + 1 coordinates whose sum is 0, of which the last one is left out (section 3.1).
    """
    count, dims = features.shape
    axes = np.arange(dims)
    # Blurring and interpolation widen a Gaussian; so that it has unit deviation after both (section 3.2).
    scaled = features * (np.sqrt(2 / 3) * (dims + 1) / np.sqrt((axes + 1) * (axes + 2)))
    after = np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1]
    raised = np.concatenate([after, np.zeros((count, 1))], axis=1)
    raised[:, 1:] -= (axes + 1) * scaled
    # The nearest point whose coordinates are all multiples of D + 1 and sum to 0.
    base = np.round(raised / (dims + 1)).astype(np.int64)
    excess = base.sum(1, keepdims=True)
    order = np.argsort(-(raised - base * (dims + 1)), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(dims + 1), order.shape), axis=1)
    rank += excess
    wrapped = (rank < 0).astype(np.int64) - (rank > dims)
    base, rank = base + wrapped, rank + wrapped * (dims + 1)
    # Weights are the differences between neighbours in the order of what is left.
    left = np.take_along_axis(raised / (dims + 1) - base, np.argsort(rank, axis=1), axis=1)
    weights = np.empty((count, dims + 1))
    weights[:, 1:] = (left[:, :-1] - left[:, 1:])[:, ::-1]
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    corner = np.arange(dims + 1)[None, :, None]
    steps = np.where(rank[:, None, :dims] <= dims - corner, corner, corner - (dims + 1))
    return base[:, None, :dims] * (dims + 1) + steps, weights


def _neighbours(codes: np.ndarray, step: int) -> sparse.csr_matrix:
    """Half of both neighbours of each vertex, [M, M], along one direction; ``codes`` int64 [M] are sorted."""
    place = np.minimum(np.searchsorted(codes, codes + step), len(codes) - 1)
    rows = np.flatnonzero(codes[place] == codes + step)
    halves = sparse.csr_matrix((np.full(len(rows), 0.5), (rows, place[rows])), (len(codes), len(codes)))
    return (halves + halves.T).tocsr()
