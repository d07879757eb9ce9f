"""Gene panels of publications."""

from __future__ import annotations

import pytest

from stpredict.datasets import gene_panel


@pytest.mark.parametrize(("name", "member"), [("her2st", "ERBB2"), ("cscc", "KRT"), ("hbc", "ENSG")])
def test_panels(name, member):
    panel = gene_panel(name)
    assert len(panel) == len(set(panel)) == 250
    assert any(gene.startswith(member) for gene in panel)


def test_unknown_panel():
    with pytest.raises(ValueError, match="`name` names 'visium'; there are 'her2st', 'hbc', 'cscc'"):
        gene_panel("visium")
