"""What a network regresses: from counts to target values and back. numpy only.

Means, scales and components are those of training spots only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._checks import config as check
from .._checks.plain import plain_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """How counts become the values that are predicted and scored.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> import stpredict as stp
    >>> spec = stp.pp.TargetSpec(target_sum=10_000)
    >>> spec.units
    'log1p CP10k'
    >>> spec.normalize(csr_matrix([[1.0, 99.0]]), [0, 1]).round(1)
    array([[4.6, 9.2]], dtype=float32)
    """

    target_sum: float | None = 1e4
    """Counts per spot after scaling to a common library size; None leaves raw counts as they are (HEST-bench)."""
    over: Literal["all", "panel"] = "all"
    """Library size over all genes of the table, or over the predicted genes only (the published M2OST code)."""
    log1p: bool = True
    """Whether ln(1 + x) follows."""
    standardize: bool = True
    """Whether the network sees each gene with mean 0 and variance 1 over the training spots."""
    n_components: int | None = 5
    """Regress the first principal components of the training targets, at most this many; None regresses the genes."""
    center: Literal["all", "slide"] = "all"
    """Subtract the mean of all training spots, or of each training slide, before a model is fitted."""

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.target_sum is not None:
            check.in_range("target_sum", self.target_sum, 1.0, 1e9)
        check.one_of("over", self.over, ("all", "panel"))
        check.one_of("center", self.center, ("all", "slide"))
        if self.n_components is not None:
            check.in_range("n_components", self.n_components, 1, 100_000)

    @property
    def units(self) -> str:
        """What predictions are measured in, in words."""
        if self.target_sum is None:
            return "log1p counts" if self.log1p else "counts"
        name = {1e4: "CP10k", 1e6: "CPM"}.get(self.target_sum, f"counts per {self.target_sum:g}")
        scope = "" if self.over == "all" else " over the panel"
        return f"log1p {name}{scope}" if self.log1p else f"{name}{scope}"

    def normalize(
        self,
        counts: csr_matrix,
        columns: Sequence[int] | NDArray[np.intp],
        library: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Normalised expression of the panel.

        Parameters
        ----------
        counts
            ``(n, n_all_genes)`` raw counts.
        columns
            Columns of the panel.
        library
            ``(n,)`` library sizes over all genes, for ``counts`` that do not hold all of them; by default the sums over
            ``counts``. They do not count for ``over="panel"``.

        Returns
        -------
        ``(n, len(columns))``, float32; a spot without counts is all zero.
        """
        panel = np.asarray(counts[:, columns].todense(), np.float64)
        if self.target_sum is None:
            return (np.log1p(panel) if self.log1p else panel).astype(np.float32)
        if self.over == "panel":
            library = panel.sum(axis=1)
        total = np.asarray(counts.sum(axis=1) if library is None else library, np.float64).reshape(-1, 1)
        scaled = panel * (self.target_sum / np.where(total > 0, total, 1.0))
        return (np.log1p(scaled) if self.log1p else scaled).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON.

        Returns
        -------
        A new dictionary.
        """
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Targets:
    """A `TargetSpec` with the statistics of the training spots: encodes expression, decodes predictions."""

    spec: TargetSpec
    genes: tuple[str, ...]
    """The panel, in order."""
    mean: NDArray[np.float32]
    """``(g,)`` mean over training spots, in the units of ``spec``."""
    scale: NDArray[np.float32]
    """``(g,)`` standard deviation over training spots, or ones."""
    components: NDArray[np.float32] | None = None
    """``(k, g)`` orthonormal rows, or None."""

    @classmethod
    def fit(
        cls, spec: TargetSpec, genes: Sequence[str], values: NDArray[np.float32], slide: NDArray[np.int64]
    ) -> Targets:
        """Compute mean, scale and components of training spots from ``(n, g)`` normalised expression."""
        mean = values.mean(axis=0, dtype=np.float64)
        centred = values - (slide_means(values, slide) if spec.center == "slide" else mean)
        scale = centred.std(axis=0, dtype=np.float64) if spec.standardize else np.ones_like(mean)
        scale = np.where(scale > 1e-6, scale, 1.0)
        components = None
        if spec.n_components is not None:
            _, _, rows = np.linalg.svd(centred / scale, full_matrices=False)
            components = rows[: spec.n_components].astype(np.float32)
        return cls(
            spec=spec,
            genes=tuple(genes),
            mean=mean.astype(np.float32),
            scale=scale.astype(np.float32),
            components=components,
        )

    @property
    def n_outputs(self) -> int:
        """Number of outputs of a network per spot."""
        return len(self.genes) if self.components is None else len(self.components)

    def encode(self, values: NDArray[np.float32], slide: NDArray[np.int64]) -> NDArray[np.float32]:
        """From ``(n, g)`` normalised expression to ``(n, n_outputs)``; slides matter for ``center="slide"`` only."""
        centre = slide_means(values, slide) if self.spec.center == "slide" else self.mean
        encoded: NDArray[np.float32] = ((values - centre) / self.scale).astype(np.float32)
        return encoded if self.components is None else encoded @ self.components.T

    def decode(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """From ``(n, n_outputs)`` of a network to ``(n, g)`` normalised expression."""
        standardised = encoded if self.components is None else encoded @ self.components
        return (standardised * self.scale + self.mean).astype(np.float32)

    @classmethod
    def from_arrays(
        cls, spec: Mapping[str, Any], genes: Sequence[str], arrays: Mapping[str, NDArray[np.float32]]
    ) -> Targets:
        """Rebuild saved targets from ``spec.to_dict()``, genes, ``mean``, ``scale`` and maybe ``components``."""
        return cls(
            spec=TargetSpec(**spec),
            genes=tuple(genes),
            mean=arrays["mean"],
            scale=arrays["scale"],
            components=arrays.get("components"),
        )


def nonnegative(expression: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expression with negative values set to 0: no unit of `TargetSpec` has any, but a regression predicts some."""
    clipped: NDArray[np.float32] = np.maximum(expression, np.float32(0))
    return clipped


def slide_means(values: NDArray[np.float32], slide: NDArray[np.int64]) -> NDArray[np.float64]:
    """``(n, g)`` mean over the slide that each spot lies on."""
    labels, index = np.unique(slide, return_inverse=True)
    means = np.stack([values[index == i].mean(axis=0, dtype=np.float64) for i in range(len(labels))])
    return means[index]


def standardize_within_slides(values: NDArray[np.float32], slide: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean 0 and variance 1 of each column within each slide; columns that are constant there become 0."""
    found = np.empty(values.shape, np.float32)
    for name in np.unique(slide):
        rows = slide == name
        part = values[rows]
        std = part.std(axis=0, dtype=np.float64)
        found[rows] = (part - part.mean(axis=0, dtype=np.float64)) / np.where(std > 1e-6, std, np.inf)
    return found
