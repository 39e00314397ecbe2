"""The CRF: its lattice against sums over all pairs, its steps against the textbook's, and what it does to an edge."""

from __future__ import annotations

from wps_sam.image_level import crf
from wps_sam.image_level.crf import CRFSettings, DenseCRF, PermutohedralLattice

import numpy as np
import pytest

SETTINGS = CRFSettings(near_sigma=1.5, position_sigma=8.0, colour_sigma=20.0)


class AllPairs:
    """The kernel itself, N x N, with the lattice's interface."""

    def __init__(self, features):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        norm = 1 / np.sqrt(kernel.sum(1))
        self.kernel = norm[:, None] * kernel * norm

    def normalised(self, values):
        return self.kernel @ values


def scene(size=(16, 20), edge=10):
    """Dark left, bright right of ``edge``, with noise."""
    image = np.random.default_rng(0).integers(30, 60, (*size, 3)).astype(np.uint8)
    image[:, edge:] += 150
    return image


def test_corners_and_weights_give_back_the_point():
    """Of each simplex the weighted corners are the point on the plane; weights are shares; corners differ by steps of
    the lattice: their coordinates are alike modulo D + 1."""
    features = np.random.default_rng(0).normal(size=(200, 5)) * 3
    corners, weights = crf._simplices(features)
    assert weights.min() >= 0 and np.allclose(weights.sum(1), 1)
    assert (np.ptp(corners % 6, axis=2) == 0).all() and (np.sort(corners[:, :, 0] % 6, axis=1) == np.arange(6)).all()
    found = (weights[..., None] * corners).sum(1)
    # The plane's coordinates, one after the other as the paper defines them: of axis i the sum over the axes from i on,
    # less i times the one before.
    scaled = features * np.sqrt(2 / 3) * 6 / np.sqrt(np.arange(1, 6) * np.arange(2, 7))
    expected = np.stack([scaled[:, i:].sum(1) - (i * scaled[:, i - 1] if i else 0) for i in range(5)], axis=1)
    assert np.allclose(found, expected)


@pytest.mark.parametrize(("dims", "least"), [(2, 0.995), (5, 0.95)])
def test_the_lattice_sums_as_all_pairs_do(dims, least):
    rng = np.random.default_rng(1)
    features, values = rng.normal(size=(500, dims)), rng.random((500, 2)) ** 4
    lattice, exact = PermutohedralLattice(features), AllPairs(features)
    found, expected = lattice.normalised(values), exact.normalised(values)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least
    assert np.allclose(found.mean(), expected.mean(), rtol=0.05)
    assert np.abs(found - expected).mean() < 0.1 * expected.mean()
    # Symmetric as the kernel is, up to the order in which directions are blurred.
    left, right = (values[:, 0] @ lattice.normalised(values[:, 1:]), values[:, 1] @ lattice.normalised(values[:, :1]))
    assert left == pytest.approx(right, rel=0.03)
    wider = PermutohedralLattice(features / 2).normalised(values)
    assert np.abs(wider - expected).mean() > 2 * np.abs(found - expected).mean(), "another deviation would be told"


def test_the_steps_are_those_of_mean_field(monkeypatch):
    """With all pairs in the lattice's place, against the update written out: minus the energy of a label is what agrees
    with it, weighted, and what it was given, 0.7 or its share of 0.3."""
    image, labels = scene((8, 10), 5), np.random.default_rng(2).integers(0, 3, (8, 10))
    monkeypatch.setattr(crf, "PermutohedralLattice", AllPairs)
    found = DenseCRF(image, SETTINGS)(labels, 3)
    place = np.array([(x, y) for y in range(8) for x in range(10)], float)
    near = AllPairs(place / 1.5).kernel
    alike = AllPairs(np.concatenate([place / 8, image.reshape(-1, 3) / 20], axis=1)).kernel
    given = np.log(np.where(labels.ravel()[:, None] == np.arange(3), 0.7, 0.15))
    belief = np.exp(given) / np.exp(given).sum(1, keepdims=True)
    for _ in range(10):
        raised = np.exp(given + 3 * near @ belief + 3 * alike @ belief)
        belief = raised / raised.sum(1, keepdims=True)
    assert np.array_equal(found, belief.argmax(1).reshape(8, 10))
    assert not np.array_equal(found, labels)


def test_labels_come_to_the_edge_that_the_colours_have_and_specks_go():
    image, truth = scene(), np.repeat((np.arange(20) >= 10)[None], 16, 0).astype(int)
    labels = np.repeat((np.arange(20) >= 12)[None], 16, 0).astype(int)
    labels[4, 3] = 1
    found = DenseCRF(image, SETTINGS)(labels, 2)
    assert np.array_equal(found, truth)
    colourless = DenseCRF(image, CRFSettings(near_sigma=1.5, colour_weight=0.0))(labels, 2)
    assert colourless[4, 3] == 0 and (colourless[:, 11] == 0).all(), "nearness alone leaves the edge where it was"
    nothing = DenseCRF(image, CRFSettings(near_weight=0.0, colour_weight=0.0))(labels, 2)
    assert np.array_equal(nothing, labels)
    assert DenseCRF(image, SETTINGS)(np.zeros((16, 20), int), 1).sum() == 0
