"""Whether two slides share spots, by what was measured there: not by names, order, folder or file.

A slide is described by three sets of hashes: of its spots over all genes, of its spots over the predicted genes, and of
the predicted genes over all spots. They do not depend on the order of genes or spots. The first two recognise a part of
the spots, the third a part of the genes. The smallest hashes of each set are kept (a bottom-k sketch).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from .slides import Slide

SKETCH_SIZE = 512
"""Number of hashes that are kept of a slide."""
LEAST_SHARE = 0.05
"""Share of the spots of a slide that must be known for the slide to be known; single spots may agree by chance."""
LEAST_GENE_SHARE = 0.5
"""Share of the genes of a slide whose counts must be those of a known slide."""
LEAST_BITS = 24
"""Spots and genes are left out if the sum of log2(1 + count) is less: they may agree by chance."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideIdentity:
    """Distinct hashes of a slide, ascending; spots and genes that may agree by chance are left out."""

    genes: str
    """Hash of the names of all genes."""
    spots: NDArray[np.uint64]
    """Of spots, over all genes."""
    panel_spots: NDArray[np.uint64]
    """Of spots, over the predicted genes."""
    panel_genes: NDArray[np.uint64]
    """Of predicted genes, over all spots."""

    def to_json(self) -> str:
        """The identity as text."""
        parts = (part.astype("<u8").tobytes() for part in (self.spots, self.panel_spots, self.panel_genes))
        return ".".join([self.genes, *(base64.b64encode(part).decode() for part in parts)])

    @classmethod
    def from_json(cls, text: str) -> SlideIdentity:
        """The inverse of `to_json`."""
        genes, *parts = text.split(".")
        spots, of_panel, by_gene = (np.frombuffer(base64.b64decode(part), "<u8").astype(np.uint64) for part in parts)
        return cls(genes=genes, spots=spots, panel_spots=of_panel, panel_genes=by_gene)

    @classmethod
    def of(cls, counts: csr_matrix, genes: Sequence[str], panel: Sequence[str]) -> SlideIdentity:
        """Hash counts ``(n, n_genes)``; of genes that the panel has and the table lacks nothing is known."""
        names, wanted = gene_hashes(genes), set(panel)
        columns = np.array([gene in wanted for gene in genes], bool)
        of_panel = counts[:, columns]
        return cls(
            genes=names_hash(genes),
            spots=_row_hashes(counts, names),
            panel_spots=_row_hashes(of_panel, names[columns]),
            panel_genes=_row_hashes(of_panel.T.tocsr(), np.zeros(of_panel.shape[0], np.uint64), names[columns]),
        )

    def hashes(self) -> list[int]:
        """All hashes, of spots and of genes."""
        hashes: list[int] = np.concatenate([self.spots, self.panel_spots, self.panel_genes]).tolist()
        return hashes

    def sketch(self) -> SlideIdentity:
        """What is kept of a slide: the smallest hashes of each set."""
        kept = {name: getattr(self, name)[:SKETCH_SIZE] for name in ("spots", "panel_spots", "panel_genes")}
        return replace(self, **kept)

    def overlaps(self, known: SlideIdentity) -> bool:
        """Whether these spots, or a part of them, belong to a known slide, of which a sketch is enough."""
        if _share_in(self.panel_genes, known.panel_genes) >= LEAST_GENE_SHARE:
            return True
        if self.genes == known.genes:
            return _share_in(self.spots, known.spots) >= LEAST_SHARE
        return _share_in(self.panel_spots, known.panel_spots) >= LEAST_SHARE


def identify_slides(slides: Sequence[Slide], panel: Sequence[str]) -> dict[str, SlideIdentity]:
    """All hashes of the slides that have counts, by name."""
    measured = [(each.name, each.counts, each.genes) for each in slides if each.counts is not None]
    return {name: SlideIdentity.of(counts, genes, panel) for name, counts, genes in measured}


def known_slides(slide: SlideIdentity, known: Mapping[str, SlideIdentity]) -> list[str]:
    """Names of the known slides that share spots with a slide."""
    return [name for name, identity in known.items() if slide.overlaps(identity)]


def overlapping_slides(slides: Mapping[str, SlideIdentity]) -> list[tuple[str, str]]:
    """Pairs of slides that share spots: one slide under two names, or two overlapping parts of one.

    Only slides that share a hash are compared with each other.
    """
    sketches: dict[str, SlideIdentity] = {}
    holders: dict[int, list[str]] = {}  # slides so far by hash
    pairs: list[tuple[str, str]] = []
    for name, each in slides.items():
        candidates = sorted({other for value in each.hashes() for other in holders.get(value, ())})
        pairs += [(other, name) for other in candidates if each.overlaps(sketches[other])]
        sketches[name] = each.sketch()
        for value in sketches[name].hashes():
            holders.setdefault(value, []).append(name)
    return pairs


def names_hash(genes: Sequence[str]) -> str:
    """16 hexadecimal digits that identify a set of genes, in any order."""
    return hashlib.sha256("\n".join(sorted(map(str, genes))).encode()).hexdigest()[:16]


def gene_hashes(genes: Sequence[str]) -> NDArray[np.uint64]:
    """``(n_genes,)`` a hash of each name, the same in every process."""
    digests = b"".join(hashlib.blake2b(str(gene).encode(), digest_size=8).digest() for gene in genes)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _row_hashes(
    counts: csr_matrix, columns: NDArray[np.uint64], rows: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """Distinct hashes of the informative rows, ascending; ``columns`` and ``rows`` hold what their names add."""
    values = np.round(np.asarray(counts.data, np.float64), 3)  # float32 may be off by rounding
    mixed = _mix(columns[counts.indices] ^ _mix(values.view(np.uint64)))
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    sums = np.zeros(counts.shape[0], np.uint64)
    np.add.at(sums, row[values != 0], mixed[values != 0])  # modulo 2**64
    bits = np.bincount(row, np.log2(1 + np.abs(values)), minlength=counts.shape[0])
    hashes = _mix(sums if rows is None else sums ^ rows)
    return np.unique(hashes[bits >= LEAST_BITS])


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection that scatters its input."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        scattered: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scattered


def _share_in(hashes: NDArray[np.uint64], sketch: NDArray[np.uint64]) -> float:
    """Estimated share of hashes that belong to the slide of a sketch."""
    if not len(sketch):
        return 0.0
    comparable = hashes if len(sketch) < SKETCH_SIZE else hashes[hashes <= sketch[-1]]
    return float(np.isin(comparable, sketch).mean()) if len(comparable) else 0.0
