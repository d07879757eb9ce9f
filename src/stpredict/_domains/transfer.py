"""Domains of reference spots for other spots, by expression that one predictor predicted for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_COMPONENTS, N_FOLDS = 20, 5


def transfer_domains(
    reference: NDArray[np.float32],
    domains: NDArray[np.intp],
    values: NDArray[np.float32],
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], NDArray[np.float32], float]:
    """Linear discriminant analysis (Gaussians with one covariance) on principal components of the reference.

    Returns the domain of each spot, its probability, and the adjusted Rand index of the domains of the reference and
    those that cross-validation gives it.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import adjusted_rand_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n_components = min(N_COMPONENTS, reference.shape[1], len(reference) // 2)
    model = make_pipeline(
        StandardScaler(),
        PCA(n_components, svd_solver="full"),
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    )
    fold = rng.permutation(len(domains)) % N_FOLDS
    guessed = np.empty_like(domains)
    for i in range(N_FOLDS):
        rest = fold != i
        guessed[~rest] = model.fit(reference[rest], domains[rest]).predict(reference[~rest])
    model.fit(reference, domains)
    probability = model.predict_proba(values)
    codes = model.classes_[probability.argmax(axis=1)]
    return codes, probability.max(axis=1).astype(np.float32), float(adjusted_rand_score(domains, guessed))
