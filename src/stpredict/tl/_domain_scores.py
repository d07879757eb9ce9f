"""How well domains agree with labels, and what agreement chance gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import models as check_models
from .._checks.calls import public
from .._slides import checks as check_elements
from .._slides.slides import Selection, resolve
from ..metrics import ari, homogeneity_completeness, nmi
from . import _errors as check
from ._predictability.image_graph import torus_shift_permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.regions import Regions


@public
def domain_scores(
    sdata: SpatialData,
    label_key: str,
    *,
    key: str | Sequence[str] = keys.DOMAIN,
    table_name: str | None = None,
    label_table: str | None = None,
    shapes_key: str | Sequence[str] | None = None,
    regions: Regions | None = None,
    n_permutations: int = 99,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare spatial domains with labels, such as layers that a pathologist drew.

    Parameters
    ----------
    sdata
        The object.
    label_key
        Column of ``obs`` with labels; spots without one are not scored.
    key
        Column of ``obs`` with domains, or several.
    table_name
        Table with the domains; by default ``"observed"``, or the only one with counts.
    label_table
        Table with the labels, whose spots have the same names; by default the same.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    regions
        Score only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    n_permutations
        Number of shifted domain maps for the chance level.
    seed
        Seed of the shifts.

    Returns
    -------
    One row for each column of domains and each slide, and one for all slides together if there are several:
    ``n_spots`` with a label, ``n_labels``, ``n_domains``, ``ari``, ``nmi``, ``homogeneity``, ``completeness``, and
    ``chance_ari``, the 95 % quantile of the index after the map of domains is rotated and shifted over the slide, which
    keeps its smoothness. Nothing is written.

    Raises
    ------
    ValueError
        If a column does not exist, or no spot has both a label and a domain.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=8)
    >>> _ = stp.tl.domains(sdata, 2, "expression", n_seeds=1, progress=False)
    >>> sdata["observed"].obs["half"] = sdata["observed"].obs["array_col"] < 4
    >>> stp.tl.domain_scores(sdata, "half", n_permutations=9).columns[:4].tolist()
    ['key', 'slide', 'n_spots', 'n_labels']
    """
    check_elements.is_spatialdata(sdata)
    check_models.positive_int("n_permutations", n_permutations)
    selection = Selection(table_name=table_name, shapes_key=shapes_key, regions=regions, in_px=True)
    slides = resolve(sdata, selection, needs_counts=False, needs_image=False)
    table = sdata.tables[str(slides[0].table_name)]
    if label_table is not None:
        check_elements.has_table(list(sdata.tables), label_table)
    source = table if label_table is None else sdata.tables[label_table]
    check_elements.has_column(source, label_key, "label_key")
    columns = [key] if isinstance(key, str) else list(key)
    for name in columns or [""]:
        check.has_domains(name, [str(slides[0].table_name)] if name in table.obs else [], list(sdata.tables))
    rows = np.concatenate([table.obs_names.get_indexer(pd.Index(slide.obs_names)) for slide in slides])
    labels = pd.Series(source.obs[label_key]).reindex(table.obs_names[rows]).to_numpy()
    slide = np.repeat([slide.name for slide in slides], [len(slide.xy_px) for slide in slides])
    xy = np.concatenate([slide.xy_um for slide in slides])
    found = []
    for name in columns:
        domains = table.obs[name].to_numpy()[rows]
        for one in [*dict.fromkeys(slide.tolist())] + (["all"] if len(slides) > 1 else []):
            part = np.ones(len(slide), bool) if one == "all" else slide == one
            scores = _scores(labels[part], domains[part], xy[part], slide[part], n_permutations, seed)
            found.append({"key": name, "slide": one, **scores})
    return pd.DataFrame(found)


def _scores(
    labels: NDArray[np.object_],
    domains: NDArray[np.object_],
    xy: NDArray[np.float64],
    slide: NDArray[np.str_],
    n_permutations: int,
    seed: int,
) -> dict[str, float]:
    rng, index = np.random.default_rng(seed), pd.factorize(slide)[0]
    both = ~(pd.isna(labels) | pd.isna(domains))
    homogeneity, completeness = homogeneity_completeness(labels, domains)
    chance = [ari(labels, domains[torus_shift_permutation(xy, index, rng)]) for _ in range(n_permutations)]
    return {
        "n_spots": int(both.sum()),
        "n_labels": len(pd.unique(labels[both])),
        "n_domains": len(pd.unique(domains[both])),
        "ari": ari(labels, domains),
        "nmi": nmi(labels, domains),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "chance_ari": float(np.quantile(chance, 0.95)),
    }
