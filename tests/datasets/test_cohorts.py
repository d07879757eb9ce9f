"""What is stated of cohorts is text, and only what is known."""

from __future__ import annotations

import pytest

from stpredict import datasets
from stpredict.datasets import Cohort, cohorts


def test_every_public_cohort_has_a_reader_a_panel_and_a_citation():
    for name, cohort in cohorts().items():
        assert cohort.name == name
        assert callable(getattr(datasets, name))
        assert datasets.gene_panel(name)
        assert "doi:" in cohort.citation
        assert bool(cohort.licence) == bool(cohort.licence_source)


def test_only_what_is_known_is_kept():
    assert Cohort(organ="lung").to_dict() == {"organ": "lung"}


def test_fields_are_text():
    with pytest.raises(
        TypeError, match=r"`url` of a cohort is 3 \(int\)\. Give text, for instance `stp.datasets.Cohort"
    ):
        Cohort(url=3)
