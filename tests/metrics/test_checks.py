"""Bad input to `stpredict.metrics`: each mistake has one error that names what was given and what to do."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse

from stpredict import metrics

PAIRED = [metrics.pearson, metrics.spearman, metrics.rmse, metrics.mae]
VALUES = np.random.default_rng(0).normal(size=(10, 4))
XY = np.random.default_rng(1).normal(size=(10, 2))
COUNTS = np.random.default_rng(2).poisson(3, size=(10, 4))


def changed(values, at, value):
    values = np.array(values, dtype=float)
    values[at] = value
    return values


@pytest.mark.parametrize("score", PAIRED)
def test_all_scores_share_their_checks(score):
    with pytest.raises(ValueError, match=r"`observed` has shape \(10, 4\) and `predicted` \(10, 3\)"):
        score(VALUES, VALUES[:, :3])


def test_arrays_of_a_view_of_an_anndata_are_arrays():
    table = ad.AnnData(VALUES, layers={"counts": COUNTS, "other": VALUES**2}, obsm={"spatial": XY})[2:]
    values, other, counts, xy = (type(each).__name__ for each in (
        table.X, table.layers["other"], table.layers["counts"], table.obsm["spatial"]))  # fmt: skip
    assert {values, other, counts, xy} == {"ArrayView"}
    rows, groups = np.s_[2:], np.arange(8) % 2
    for score in (*PAIRED, metrics.r2):
        np.testing.assert_array_equal(score(table.layers["other"], table.X), score(VALUES[rows] ** 2, VALUES[rows]))
    for score in (metrics.morans_i, metrics.gearys_c):
        np.testing.assert_array_equal(score(table.X, table.obsm["spatial"]), score(VALUES[rows], XY[rows]))
    found = metrics.noise_ceiling(table.layers["counts"], n_splits=2)
    np.testing.assert_array_equal(found, metrics.noise_ceiling(COUNTS[rows], n_splits=2))
    np.testing.assert_array_equal(metrics.silhouette(table.X, groups), metrics.silhouette(VALUES[rows], groups))
    np.testing.assert_array_equal(metrics.top_variable(table.X, n=2), metrics.top_variable(VALUES[rows], n=2))


@pytest.mark.parametrize("score", [metrics.pearson])
class TestPaired:
    """Faults common to all scores of observed against predicted."""

    def test_shapes(self, score):
        with pytest.raises(ValueError, match=r"`observed` has shape \(10, 4\) and `predicted` \(10, 3\)"):
            score(VALUES, VALUES[:, :3])
        with pytest.raises(ValueError, match=r"`observed` has shape \(10,\), .*`observed\[:, None\]`"):
            score(VALUES[:, 0], VALUES[:, 0])
        with pytest.raises(ValueError, match=r"`predicted` has shape \(1, 10, 4\)"):
            score(VALUES, VALUES[None])
        with pytest.raises(ValueError, match=r"`observed` is empty: shape \(10, 0\)"):
            score(VALUES[:, :0], VALUES[:, :0])

    def test_types(self, score):
        with pytest.raises(
            TypeError, match=r"`observed` is a csr_array, but scores need a dense .*`observed.toarray\(\)`"
        ):
            score(scipy.sparse.csr_array(VALUES), VALUES)
        with pytest.raises(TypeError, match=r"`predicted` has dtype <U\d+, but must hold real numbers"):
            score(VALUES, VALUES.astype(str))
        with pytest.raises(TypeError, match=r"`predicted` has dtype complex128"):
            score(VALUES, VALUES.astype(complex))

    def test_axis(self, score):
        with pytest.raises(ValueError, match=r"`axis` is 'genes', but must be 'gene' .* or 'spot'"):
            score(VALUES, VALUES, axis="genes")
        with pytest.raises(ValueError, match=r"`axis` is 0, but"):
            score(VALUES, VALUES, axis=0)

    def test_infinite(self, score):
        with pytest.raises(ValueError, match=r"`predicted` holds 1 infinite values \(first: spot 2, gene 3\)"):
            score(VALUES, changed(VALUES, (2, 3), -np.inf))

    def test_gene_never_predicted(self, score):
        predicted = changed(VALUES, np.s_[:, [0, 2]], np.nan)
        with pytest.raises(ValueError, match=r"`predicted` is NaN at every spot for 2 of 4 genes \(columns 0, 2\)"):
            score(VALUES, predicted)

    def test_no_spot_left(self, score):
        observed, predicted = changed(VALUES, np.s_[:5, 0], np.nan), changed(VALUES, np.s_[5:, 1], np.nan)
        for axis in ("gene", "spot"):
            with pytest.raises(ValueError, match=r"0 spots \(10 more have NaN and are left out\)"):
                score(observed, predicted, axis=axis)


@pytest.mark.parametrize("score", [metrics.pearson, metrics.spearman])
def test_too_few_for_a_correlation(score):
    with pytest.raises(ValueError, match=r"2 spots, but at least 3 are needed"):
        score(VALUES[:2], VALUES[:2])
    with pytest.raises(ValueError, match=r"2 spots \(1 more have NaN and are left out\), but at least 3"):
        score(VALUES[:3], changed(VALUES[:3], (1, 1), np.nan))
    with pytest.raises(ValueError, match=r"2 genes, but at least 3 are needed"):
        score(VALUES[:, :2], VALUES[:, :2], axis="spot")


@pytest.mark.parametrize("wrap", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
class TestCounts:
    """Values that are no counts are refused with the reason."""

    def test_log_transformed(self, wrap):
        match = r"of its \d+ non-zero values are not whole numbers .*log-transformed.*adata.layers\['counts'\]"
        with pytest.raises(ValueError, match=match):
            metrics.noise_ceiling(wrap(np.log1p(COUNTS)))

    def test_negative(self, wrap):
        with pytest.raises(ValueError, match=r"1 of its values are negative \(lowest -2\): they look centred"):
            metrics.noise_ceiling(wrap(changed(COUNTS, (0, 0), -2)))

    def test_nan(self, wrap):
        with pytest.raises(ValueError, match=r"1 of its values are NaN or infinite"):
            metrics.noise_ceiling(wrap(changed(COUNTS, (0, 0), np.nan)))

    def test_too_few_spots(self, wrap):
        with pytest.raises(ValueError, match=r"2 spots, but at least 3"):
            metrics.noise_ceiling(wrap(COUNTS[:2]))

    def test_dimensions(self, wrap):
        with pytest.raises(ValueError, match=r"`counts` has shape \(10,\)|`counts` is empty"):
            metrics.noise_ceiling(COUNTS[:, 0] if wrap is np.asarray else wrap((0, 4)))


def test_total():
    with pytest.raises(ValueError, match=r"`total` has shape \(9,\), but must be \(10,\)"):
        metrics.noise_ceiling(COUNTS, total=np.full(9, 1000))
    with pytest.raises(ValueError, match=r"`total` is below the sum of `counts` at 1 spots \(spot 3: 1 < \d+\)"):
        metrics.noise_ceiling(COUNTS, total=changed(COUNTS.sum(axis=1), 3, 1))
    with pytest.raises(ValueError, match=r"`total` must be raw counts, but .* not whole numbers"):
        metrics.noise_ceiling(COUNTS, total=COUNTS.sum(axis=1) + 0.5)


@pytest.mark.parametrize("value", [0, -1e4, np.nan, np.inf])
def test_target_sum(value):
    with pytest.raises(ValueError, match=r"`target_sum` is .*, but must be a positive finite number"):
        metrics.noise_ceiling(COUNTS, target_sum=value)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5"])
def test_whole_numbers_from_one(value):
    with pytest.raises(ValueError, match=r"`n_splits` is .*, but must be a whole number >= 1"):
        metrics.noise_ceiling(COUNTS, n_splits=value)
    with pytest.raises(ValueError, match=r"`n_neighbors` is"):
        metrics.morans_i(VALUES, XY, n_neighbors=value)
    with pytest.raises(ValueError, match=r"`n` is"):
        metrics.best(VALUES[0], n=value)
    with pytest.raises(ValueError, match=r"`n` is"):
        metrics.top_variable(VALUES, n=value)


def test_positions():
    with pytest.raises(ValueError, match=r"`xy` has shape \(9, 2\) and dtype float64, but must be \(10, 2\)"):
        metrics.morans_i(VALUES, XY[:9])
    with pytest.raises(ValueError, match=r"`xy` has shape \(10, 3\)"):
        metrics.morans_i(VALUES, np.ones((10, 3)))
    with pytest.raises(ValueError, match=r"`xy` is NaN or infinite at 2 of 10 spots \(rows 1, 4\)"):
        metrics.morans_i(VALUES, changed(XY, np.s_[[1, 4], 0], np.nan))
    with pytest.raises(ValueError, match=r"all 10 spots lie at the same position \(0.0, 0.0\)"):
        metrics.morans_i(VALUES, np.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"all 5 spots of slide 'b' lie at the same position"):
        metrics.morans_i(VALUES, changed(XY, np.s_[5:], 1), slide=np.repeat(["a", "b"], 5))


def test_slide_labels():
    with pytest.raises(ValueError, match=r"`slide` has shape \(3,\), but must be \(10,\)"):
        metrics.morans_i(VALUES, XY, slide=["a", "b", "c"])
    for missing in (None, np.nan):
        with pytest.raises(ValueError, match=r"`slide` is missing for 8 of 10 spots \(rows 2, 3, 4, 5, 6, …\)"):
            metrics.morans_i(VALUES, XY, slide=np.array(["a", "a"] + [missing] * 8, dtype=object))
    with pytest.raises(ValueError, match=r"every spot is alone on its slide"):
        metrics.morans_i(VALUES, XY, slide=np.arange(10))


def test_morans_i_and_top_variable_refuse_what_pearson_refuses():
    for score in (lambda values: metrics.morans_i(values, XY), metrics.top_variable):
        with pytest.raises(ValueError, match=r"holds 1 infinite values"):
            score(changed(VALUES, (0, 0), np.inf))
        with pytest.raises(ValueError, match=r"is NaN at every spot for 1 of 4 genes"):
            score(changed(VALUES, np.s_[:, 1], np.nan))
        with pytest.raises(ValueError, match=r"1 spots \(9 more have NaN and are left out\)"):
            score(changed(VALUES, np.s_[1:, 1], np.nan))
        with pytest.raises(TypeError, match=r"is a csr_array"):
            score(scipy.sparse.csr_array(VALUES))


def test_best_needs_one_number_per_gene():
    with pytest.raises(ValueError, match=r"`scores` has shape \(10, 4\) and dtype float64.*stp.metrics.pearson"):
        metrics.best(VALUES)
    with pytest.raises(ValueError, match=r"`scores` has shape \(2,\) and dtype <U"):
        metrics.best(["a", "b"])


def test_import_is_cheap():
    """Nothing but numpy is imported until it is needed."""
    code = "import sys, stpredict.metrics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "anndata", "pandas", "scipy.stats", "scipy.sparse", "scipy.spatial"} & set(loaded)
