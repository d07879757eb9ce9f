"""What is learnt without a step, against numpy and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models import _closed_form as closed


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(x, y, fold=None, slide=None):
    here = torch.zeros(len(x), dtype=torch.int64)
    return closed.TrainingSpots(
        features=x, targets=y, fold=here if fold is None else fold, slide=here if slide is None else slide
    )


def places(n, seed=0):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([300.0, 9000.0])


@pytest.mark.parametrize("n", [5, 40, 41])
def test_folds_are_groups_else_slides_else_stripes(n):
    slide = torch.arange(n) % 4 + 3
    group = (slide > 4).long()
    xy = places(n)
    assert torch.equal(closed.inner_folds(group, slide, xy), group)
    assert torch.equal(closed.inner_folds(group * 0, slide, xy), slide - 3)
    stripe = closed.inner_folds(group * 0, slide * 0, xy)
    assert stripe.unique().tolist() == [0, 1, 2, 3]
    assert np.ptp(torch.bincount(stripe).numpy()) <= 1
    for i in range(3):  # the longer side is y
        assert xy[stripe == i, 1].max() <= xy[stripe == i + 1, 1].min()


@pytest.mark.parametrize("shape", [(50, 7), (8, 30), (5000, 3)])
def test_standardised_is_numpy_s(shape):
    x = draw(*shape) * 5 + 100
    standard = closed.Standardizer(shape[1])
    standard.solve(x)
    given = standard(x.double()).numpy()
    values = x.double().numpy()
    np.testing.assert_allclose(given, (values - values.mean(axis=0)) / values.std(axis=0), atol=1e-4)


def test_a_constant_feature_is_taken_out_and_not_blown_up():
    x = torch.cat([draw(20, 2), torch.full((20, 1), 1234.567)], dim=1)
    standard = closed.Standardizer(3)
    standard.solve(x)
    assert standard(x)[:, 2].abs().max() < 1e-2
    assert standard.spread[2] == 1


@pytest.mark.parametrize(("n", "d", "k"), [(60, 9, 9), (60, 9, 4), (12, 30, 30), (12, 30, 5)])
def test_components_are_those_of_an_svd_padded(n, d, k):
    x = draw(n, 3) @ draw(3, d, seed=1) + 0.3 * draw(n, d, seed=2)
    components = closed.PrincipalComponents(d, k, None)
    components.solve(x)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    u, s, _ = np.linalg.svd(z.double().numpy(), full_matrices=False)
    kept = min(k, n - 1, d)
    scores = u[:, :kept] * s[:kept]
    scores /= np.sqrt((scores**2).mean())
    given = components(x).numpy()
    assert given.shape == (n, min(k, d))
    np.testing.assert_allclose(np.abs(given[:, :kept]), np.abs(scores), atol=1e-4)
    assert not given[:, kept:].any()


@pytest.mark.parametrize(("n", "d"), [(80, 6), (20, 50)])
def test_ridge_is_the_closed_form(n, d):
    x, y = draw(n, d) * 3 + 1, draw(n, 4, seed=1) + 2
    ridge = closed.Ridge(d, 4)
    ridge.solve(known(x, y), 256, 7.0)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    centred = (y - y.mean(0)).double().numpy()
    weight = np.linalg.solve(z.T @ z + 7 * np.eye(d), z.T @ centred)
    np.testing.assert_allclose(ridge(x).numpy(), z @ weight + y.mean(0).numpy(), atol=1e-5)
    assert ridge.penalty == 7


def test_penalty_of_hest_counts_components_and_outputs():
    ridge = closed.Ridge(6, 5)
    ridge.solve(known(draw(40, 6), draw(40, 5)), 4, "hest")
    assert float(ridge.penalty) == pytest.approx(100 / (4 * 5))


@pytest.mark.parametrize(("n", "d", "k"), [(300, 40, 256), (90, 200, 256), (300, 300, 64)])
def test_hest_recipe_against_scikit_learn(n, d, k):
    decomposition = pytest.importorskip("sklearn.decomposition")
    linear = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    hidden = draw(n, 10)
    x = hidden @ draw(10, d, seed=1) + draw(n, d, seed=2) + 3
    y = (hidden[:, :5] + draw(n, 5, seed=3)).exp().log1p()
    ridge = closed.Ridge(d, 5)
    ridge.solve(known(x, y), k, "hest", intercept=False)
    standard = preprocessing.StandardScaler().fit_transform(x.double().numpy())
    projected = decomposition.PCA(min(k, n - 1, d), svd_solver="full").fit_transform(standard)
    theirs = linear.Ridge(
        alpha=100 / (projected.shape[1] * 5), fit_intercept=False, solver="lsqr", tol=1e-12, max_iter=10_000
    )
    expected = theirs.fit(projected, y.double().numpy()).predict(projected)
    np.testing.assert_allclose(ridge(x).numpy(), expected, atol=1e-5)


def test_without_intercept_only_the_level_differs():
    x, y = draw(30, 4), draw(30, 3, seed=1) + 5
    with_mean, without = closed.Ridge(4, 3), closed.Ridge(4, 3)
    with_mean.solve(known(x, y), 4, 2.0)
    without.solve(known(x, y), 4, 2.0, intercept=False)
    torch.testing.assert_close(with_mean(x) - y.mean(0), without(x))


def exhaustive(x, y, fold, slide):
    """The scores of every penalty, the long way; none for those that miss by more than a mean does."""
    scores = []
    for alpha in closed.PENALTIES:
        score, missed, spread = 0.0, 0.0, 0.0
        for held in np.unique(fold):
            train, test = fold != held, fold == held
            mean = x[train].mean(0)
            a, b = x[train] - mean, y[train] - y[train].mean(0)
            predicted = (x[test] - mean) @ np.linalg.solve(a.T @ a + alpha * np.eye(x.shape[1]), a.T @ b)
            for name in np.unique(slide[test]):
                here = slide[test] == name
                r = [np.corrcoef(p, o)[0, 1] for p, o in zip(predicted[here].T, y[test][here].T, strict=True)]
                score += np.average(r, weights=y[test][here].var(axis=0))
                swing, truth = (each[here] - each[here].mean(0) for each in (predicted, y[test]))
                missed, spread = missed + ((swing - truth) ** 2).sum(), spread + (truth**2).sum()
        scores.append(score if missed <= spread else -np.inf)
    return np.array(scores)


@pytest.mark.parametrize("noise", [0.01, 2.0, 30.0])
def test_chosen_penalty_is_that_of_the_long_way(noise):
    x, slide = draw(90, 12), torch.arange(90) // 15
    y = x @ draw(12, 3, seed=1) + noise * draw(90, 3, seed=2) + slide[:, None]  # each slide at a level of its own
    fold = slide // 2
    found = closed.choose_penalty(x.double(), y.double(), fold, slide)
    long = exhaustive(x.double().numpy(), y.double().numpy(), fold.numpy(), slide.numpy())
    best = long.argmax() if np.isfinite(long).any() else -1
    assert found == pytest.approx(closed.PENALTIES[int(best)])


def test_levels_of_slides_have_no_say():
    x, slide = draw(90, 12), torch.arange(90) // 15
    y = x @ draw(12, 3, seed=1) + 3 * draw(90, 3, seed=2)
    shifted = y + 2 * slide[:, None]
    found = [closed.choose_penalty(x.double(), each.double(), slide, slide) for each in (y, shifted)]
    assert abs(np.log10(found[0] / found[1])) <= 1


def test_nothing_varies():
    x, slide = draw(40, 3).double(), torch.arange(40) % 2
    assert closed.choose_penalty(x, torch.ones(40, 2).double(), slide, slide) == closed.FALLBACK


@pytest.mark.parametrize("n", [50, 5000])
def test_what_lies_far_out_is_drawn_in(n):
    x = torch.cat([draw(n, 3), torch.full((1, 3), 1e3)])
    standard = closed.Standardizer(3, 2.0)
    standard.solve(x)
    seen = standard(x.double())
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    assert float(seen.max() - seen.min()) <= 4
    assert torch.equal(standard(x[-1:] * 100), standard(x[-1:]))


def test_one_patch_unlike_the_others_is_no_worse_than_the_farthest():
    x, law = draw(200, 20), draw(20, 2, seed=1)
    y, odd = x @ law, draw(5, 20, seed=3) * 1e3
    drawn_in, as_it_is = closed.Ridge(20, 2, 3.0), closed.Ridge(20, 2)
    for ridge in (drawn_in, as_it_is):
        ridge.solve(known(x, y), 20, 1.0)
    assert drawn_in(odd).abs().max() < 4 * y.abs().max() < as_it_is(odd).abs().max()
    assert (drawn_in(x) - y).abs().mean() < 0.03 * y.std()


def test_more_noise_more_penalty():
    x, slide = draw(120, 30), torch.arange(120) % 4
    law = x @ draw(30, 2, seed=1)
    found = [
        closed.choose_penalty(x.double(), (law + noise * draw(120, 2, seed=2)).double(), slide, slide)
        for noise in (0.01, 10)
    ]
    assert found[0] < found[1]


@pytest.mark.parametrize("n_slides", [1, 2])
def test_what_nothing_tells_of_is_predicted_by_its_mean(n_slides):
    x, y, slide = draw(40, 100), draw(40, 8, seed=1), torch.arange(40) % n_slides
    ridge = closed.Ridge(100, 8)
    ridge.solve(known(x, y, fold=torch.arange(40) // 10, slide=slide), 256, None)
    assert (ridge(draw(50, 100, seed=2)) - y.mean(dim=0)).abs().max() < 0.05 * y.std()


def test_too_few_spots_to_leave_any_out():
    x, y = draw(2, 3).double(), draw(2, 1).double()
    assert closed.choose_penalty(x, y, torch.tensor([0, 1]), torch.tensor([0, 1])) == closed.FALLBACK


def test_one_spot_predicts_itself():
    ridge = closed.Ridge(3, 2)
    ridge.solve(known(draw(1, 3), torch.tensor([[1.0, 2.0]])), 256, None)
    torch.testing.assert_close(ridge(draw(4, 3)), torch.tensor([[1.0, 2.0]]).expand(4, 2))


def test_level_of_a_slide_is_taken_out_of_it_alone():
    slide = torch.tensor([4, 4, 9, 9, 9])
    values = torch.tensor([[1.0], [3.0], [10.0], [10.0], [40.0]])
    expected = torch.tensor([[-1.0], [1.0], [-10.0], [-10.0], [20.0]])
    torch.testing.assert_close(closed.center_by_slide(values, slide), expected)
