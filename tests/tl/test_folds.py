"""Folds: groups stay whole, sections leak by permission only, and the published shuffle is the published one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict._slides.slides import Selection, resolve
from stpredict.datasets import synthetic
from stpredict.tl._benchmarking.folds import cross_validation_splits, m2ost_split, section_name

SIZES = {"A": 6, "B": 6, "C": 6, "D": 6, "E": 3, "F": 3, "G": 3, "H": 3}
HER2ST = [f"{patient}{i + 1}" for patient, n in SIZES.items() for i in range(n)]
HELD_BY_THEIR_CODE = ["F1", "F3", "C4", "A2", "G3", "B5", "A1", "C6", "D6", "C1", "A6", "D2"]


@pytest.fixture(scope="module")
def slide():
    return resolve(synthetic(n_slides=1, n_side=3, um_per_px=16.0), Selection())[0]


def made(slide, groups, n_spots=None):
    """Slides of these groups, in name only."""
    return [
        replace(
            slide, name=f"s{i}", group=group, xy_px=slide.xy_px[: (n_spots[i] if n_spots else None)], table_name=None
        )
        for i, group in enumerate(groups)
    ]


def test_leave_one_group_out_tests_every_slide_once(slide):
    found = cross_validation_splits(made(slide, "pqpr"), by="group", n_folds=None, allow_leakage=False)
    assert [part.test for part in found] == [("s0", "s2"), ("s1",), ("s3",)]
    assert [part.train for part in found] == [("s1", "s3"), ("s0", "s2", "s3"), ("s0", "s1", "s2")]
    assert not any(part.leaks for part in found)
    assert [part.number for part in found] == [0, 1, 2]


def test_fewer_folds_are_of_about_equal_size(slide):
    slides = made(slide, "pqrs", n_spots=[9, 3, 3, 4])
    found = cross_validation_splits(slides, by="group", n_folds=2, allow_leakage=False)
    assert [part.test for part in found] == [("s0",), ("s1", "s2", "s3")]


@settings(max_examples=100, deadline=None)
@given(groups=st.lists(st.sampled_from("pqrstu"), min_size=2, max_size=12), data=st.data())
def test_patients_are_never_on_both_sides(slide, groups, data):
    if len(set(groups)) < 2:
        return
    n_folds = data.draw(st.one_of(st.none(), st.integers(2, len(set(groups)))))
    found = cross_validation_splits(made(slide, groups), by="group", n_folds=n_folds, allow_leakage=False)
    group_of = {f"s{i}": group for i, group in enumerate(groups)}
    for part in found:
        assert not {group_of[name] for name in part.train} & {group_of[name] for name in part.test}
        assert sorted(part.train + part.test) == sorted(group_of)
        assert part.test
        assert part.train
        assert not part.leaks
    assert sorted(name for part in found for name in part.test) == sorted(group_of)
    assert len(found) == (n_folds or len(set(groups)))


def test_order_of_slides_does_not_matter(slide):
    slides = made(slide, "pqprsq")
    one, other = (
        cross_validation_splits(given, by="group", n_folds=3, allow_leakage=False) for given in (slides, slides[::-1])
    )
    assert [set(part.test) for part in one] == [set(part.test) for part in other]


def test_sections_of_one_group_need_permission_and_carry_the_mark(slide):
    with pytest.raises(ValueError, match=r"All slides are of one group.*'p' would be both.*`allow_leakage=True`"):
        cross_validation_splits(made(slide, "ppp"), by="group", n_folds=None, allow_leakage=False)
    found = cross_validation_splits(made(slide, "ppp"), by="group", n_folds=None, allow_leakage=True)
    assert [part.test for part in found] == [("s0",), ("s1",), ("s2",)]
    assert all(part.leaks for part in found)


def test_sections_where_asked(slide):
    with pytest.raises(ValueError, match=r"Folds are of sections \(`by='section'`\), and 'p' would be both"):
        cross_validation_splits(made(slide, "ppq"), by="section", n_folds=None, allow_leakage=False)
    found = cross_validation_splits(made(slide, "ppq"), by="section", n_folds=None, allow_leakage=True)
    assert [part.leaks for part in found] == [True, True, False]
    alone = cross_validation_splits(made(slide, "pqr"), by="section", n_folds=None, allow_leakage=False)
    assert not any(part.leaks for part in alone)


@pytest.mark.parametrize(("groups", "options", "words"), [
    ("p", {}, "There is one slide only, so no fold can be held out"),
    ("pqr", {"n_folds": 4}, "`n_folds` is 4; with 3 groups to hold out it must lie between 2 and 3"),
    ("pqr", {"n_folds": 1}, "`n_folds` is 1"),
    ("pqr", {"by": "spot"}, "`by` is 'spot'; allowed: 'group', 'section'"),
])  # fmt: skip
def test_what_cannot_be_held_out_is_refused(slide, groups, options, words):
    with pytest.raises(ValueError, match=words):
        cross_validation_splits(
            made(slide, groups), **{"by": "group", "n_folds": None, "allow_leakage": True, **options}
        )


def test_the_published_split_of_her2st(slide):
    assert len(HER2ST) == 36
    slides = [replace(slide, name=name, group=name[0], table_name=None) for name in HER2ST[::-1]]
    (found,) = m2ost_split(slides, train=0.6, validate=0.1)
    assert list(found.test) == HELD_BY_THEIR_CODE
    assert (len(found.train), len(found.validate)) == (24, 3)  # those for early stopping among them
    assert set(found.validate) == {"B6", "G2", "C3"}
    assert found.leaks
    (released,) = m2ost_split(slides, train=0.7, validate=0.0)
    assert (list(released.test), released.validate) == (HELD_BY_THEIR_CODE[1:], ())


def test_sections_are_sorted_by_what_the_table_calls_them():
    slides = resolve(synthetic(n_slides=4, n_side=3, um_per_px=16.0), Selection(group_key="patient"))
    assert [section_name(slide) for slide in slides] == ["S0", "S1", "S2", "S3"]
    (found,) = m2ost_split(slides, train=0.5, validate=0.25)
    assert len(found.test) == 1
    assert set(found.train + found.test) == {f"S{i}_spots" for i in range(4)}
    assert not found.leaks
