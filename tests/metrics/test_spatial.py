"""Moran's I: against a double loop, known signs, ties, several slides, missing spots."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict import metrics


def grid(n, m):
    y, x = np.divmod(np.arange(n * m), m)
    return np.column_stack([x, y]).astype(float)


def naive_morans_i(values, xy, n_neighbors, slide):
    """The formula by loops over pairs of spots, one gene at a time."""
    n = len(values)
    weights = np.zeros((n, n))
    for i in range(n):
        distance = {j: np.hypot(*(xy[i] - xy[j])) for j in range(n) if j != i and slide[i] == slide[j]}
        if distance:
            last = sorted(distance.values())[:n_neighbors][-1]
            neighbours = [j for j, d in distance.items() if d <= last * (1 + 1e-4)]
            weights[i, neighbours] = 1 / len(neighbours)
    result = []
    for gene in values.T:
        z = gene - gene.mean()
        pairs = sum(weights[i, j] * z[i] * z[j] for i in range(n) for j in range(n))
        result.append(n / weights.sum() * pairs / (z**2).sum())
    return np.array(result), weights


@pytest.mark.parametrize("n_neighbors", [1, 4, 6])
def test_matches_double_loop_on_scattered_spots_of_three_slides(n_neighbors):
    rng = np.random.default_rng(n_neighbors)
    xy, values = rng.uniform(0, 10, size=(60, 2)), rng.normal(size=(60, 3))
    slide = np.array(["a"] * 31 + ["b"] * 28 + ["alone"])
    expected, _ = naive_morans_i(values, xy, n_neighbors, slide)
    np.testing.assert_allclose(metrics.morans_i(values, xy, n_neighbors=n_neighbors, slide=slide), expected)


def test_matches_double_loop_on_a_grid_with_ties():
    xy, values = grid(6, 5), np.random.default_rng(0).normal(size=(30, 2))
    for n_neighbors in (4, 6, 8):
        expected, weights = naive_morans_i(values, xy, n_neighbors, np.zeros(30))
        symmetric, z = (weights + weights.T) / 2, values - values.mean(axis=0)
        same = np.einsum("ig,ij,jg->g", z, symmetric, z) / symmetric.sum() * 30 / (z**2).sum(axis=0)
        scores = metrics.morans_i(values, xy, n_neighbors=n_neighbors)
        np.testing.assert_allclose(scores, expected)
        np.testing.assert_allclose(scores, same)  # symmetric weights give the same


def test_checkerboard_halves_and_noise_have_known_signs():
    xy = grid(20, 20)
    x, y = xy.T
    noise = np.random.default_rng(0).normal(size=400)
    values = np.column_stack([(x + y) % 2, x < 10, x, noise])
    checkerboard, halves, gradient, random = metrics.morans_i(values, xy, n_neighbors=2)
    assert checkerboard == pytest.approx(-1)  # ties give every spot all the 2, 3 or 4 spots that touch it
    assert halves == pytest.approx(1 - 2 * (36 / 4 + 4 / 3) / 400)  # of 40 spots one touching spot is across
    assert gradient > 0.95
    assert abs(random) < 0.1


def test_line_by_hand():
    """Spots 0, 1, 2, 3 on a line, one neighbour, ties of inner spots included: z = -1.5, -0.5, 0.5, 1.5."""
    xy = np.column_stack([np.arange(4.0), np.zeros(4)])
    lagged = [-0.5, -0.5, 0.5, 0.5]  # neighbours 1 | 0, 2 | 1, 3 | 2
    expected = np.dot([-1.5, -0.5, 0.5, 1.5], lagged) / 5
    np.testing.assert_allclose(metrics.morans_i(np.arange(4.0)[:, None], xy, n_neighbors=1), [expected])


@pytest.mark.parametrize("n_neighbors", [3, 6])
def test_invariances(n_neighbors):
    rng = np.random.default_rng(0)
    xy, values = grid(7, 8) * 286.0, rng.normal(size=(56, 4))
    expected = metrics.morans_i(values, xy, n_neighbors=n_neighbors)
    spots, angle = rng.permutation(56), 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for other in (
        metrics.morans_i(values[spots], xy[spots], n_neighbors=n_neighbors),
        metrics.morans_i(values, xy @ turn * 0.5 + 1e4, n_neighbors=n_neighbors),
        metrics.morans_i(values * [2, -3, 0.1, 50] + 7, xy, n_neighbors=n_neighbors),
        metrics.morans_i(values, (xy + 500).astype(np.float32), n_neighbors=n_neighbors),
        metrics.morans_i(values, xy, n_neighbors=n_neighbors, slide=np.ones(56)),
    ):
        np.testing.assert_allclose(other, expected, atol=1e-10)


def test_neighbours_stay_on_their_slide_and_the_mean_is_common():
    """Two slides at the same place: each is flat, so neighbours are alike though their positions interleave."""
    xy = np.concatenate([grid(5, 5), grid(5, 5) + 0.1])
    slide = np.repeat(["one", "two"], 25)
    values = np.repeat([0.0, 1.0], 25)[:, None]
    np.testing.assert_allclose(metrics.morans_i(values, xy, slide=slide), [1])
    assert metrics.morans_i(values, xy, n_neighbors=1)[0] == pytest.approx(-1)


def test_small_slides_use_all_their_spots():
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(metrics.morans_i(rng.normal(size=(5, 3)), rng.normal(size=(5, 2))), -1 / 4)


def test_constant_genes_and_missing_spots():
    rng = np.random.default_rng(0)
    xy, values = grid(5, 6), rng.normal(size=(30, 3))
    values[:, 1] = 0.1
    scores = metrics.morans_i(values, xy)
    assert np.isnan(scores).tolist() == [False, True, False]
    values[[4, 9]] = np.nan
    kept = np.setdiff1d(np.arange(30), [4, 9])
    slide = np.repeat(["a", "b"], 15)
    np.testing.assert_array_equal(
        metrics.morans_i(values, xy, slide=slide), metrics.morans_i(values[kept], xy[kept], slide=slide[kept])
    )


def test_coincident_spots_are_neighbours():
    xy = np.array([[0, 0], [0, 0], [9, 9], [9, 9]])
    np.testing.assert_allclose(metrics.morans_i(np.array([[1.0], [1.0], [4.0], [4.0]]), xy, n_neighbors=1), [1])
