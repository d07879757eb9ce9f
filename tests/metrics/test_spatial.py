"""Moran's I, Geary's C and structural similarity: against loops and libraries, ties, several slides, missing spots."""

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


def test_gearys_c_matches_double_loop_and_has_known_signs():
    rng = np.random.default_rng(3)
    xy, values = rng.uniform(0, 10, size=(60, 2)), rng.normal(size=(60, 3)) + 5
    slide = np.array(["a"] * 31 + ["b"] * 28 + ["alone"])
    _, weights = naive_morans_i(values, xy, 4, slide)
    differences = np.square(values[:, None] - values[None])
    pairs = np.einsum("ij,ijg->g", weights, differences) / np.square(values - values.mean(axis=0)).sum(axis=0)
    expected = 59 * pairs / (2 * weights.sum())
    np.testing.assert_allclose(metrics.gearys_c(values, xy, n_neighbors=4, slide=slide), expected)
    y, x = np.divmod(np.arange(400), 20)
    maps = np.column_stack([x, rng.normal(size=400), (x + y) % 2, np.ones(400)])
    smooth, noise, checkerboard, constant = metrics.gearys_c(maps, grid(20, 20), n_neighbors=2)
    assert smooth < 0.02 < 0.9 < noise < 1.1 < checkerboard
    assert np.isnan(constant)


def test_both_autocorrelations_match_scanpy():
    from scanpy.metrics import gearys_c, morans_i
    from scipy.sparse import csr_matrix

    xy, values = grid(9, 9), np.random.default_rng(0).normal(size=(81, 3))
    _, weights = naive_morans_i(values, xy, 4, np.zeros(81))
    graph = csr_matrix((weights + weights.T) / 2)
    np.testing.assert_allclose(metrics.morans_i(values, xy, n_neighbors=4), morans_i(graph, values.T))
    np.testing.assert_allclose(metrics.gearys_c(values, xy, n_neighbors=4), gearys_c(graph, values.T))


def test_ssim_is_that_of_scikit_image_inside_a_grid():
    from skimage.metrics import structural_similarity

    from stpredict.metrics._spatial import _graph, _with_self, similarity_map

    rng = np.random.default_rng(0)
    observed = np.round(rng.gamma(2, size=(12, 11)), 1)
    predicted = observed + rng.normal(size=(12, 11))
    extent = np.ptp(observed)
    options = {"win_size": 3, "data_range": extent, "use_sample_covariance": False, "full": True}
    _, expected = structural_similarity(observed, predicted, **options)
    flat = [values.reshape(-1, 1) for values in (observed, predicted)]
    windows = _with_self(_graph(flat[0], grid(12, 11), 8, None, np.ones(132, bool)))
    found = similarity_map(flat[0].T, flat[1].T, windows, np.array([[extent]])).reshape(12, 11)
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1])
    assert metrics.ssim(*flat, grid(12, 11), n_neighbors=8).item() == pytest.approx(found.mean())


def test_ssim_of_equal_constant_and_missing_values():
    xy, values = grid(6, 6), np.random.default_rng(0).gamma(2, size=(36, 3))
    values[:, 2] = 4
    np.testing.assert_allclose(metrics.ssim(values, values, xy), [1, 1, np.nan])
    missing = np.where(np.arange(36)[:, None] < 4, np.nan, values + 1)
    np.testing.assert_allclose(metrics.ssim(values, missing, xy), metrics.ssim(values[4:], missing[4:], xy[4:]))
    twice = [np.concatenate([each, each]) for each in (values, values[::-1], xy)]  # two slides at one place
    expected = metrics.ssim(values, values[::-1], xy)
    np.testing.assert_allclose(metrics.ssim(*twice, slide=np.repeat(["a", "b"], 36)), expected)
