"""The provenance of a predictor as attributes, as a mapping, and as JSON of earlier and later versions."""

from __future__ import annotations

import json

import pytest

from stpredict.tl import Provenance, Selection

SLIDES = {"A": {"group": "p", "n_spots": 9, "um_per_px": 0.5, "sha256": "0"}}


def test_attributes_and_entries_are_the_same():
    selection = Selection(image_key={"A": "image"}, shapes_key=("A",), um_per_px=0.5)
    provenance = Provenance(slides=SLIDES, selection=selection, diameter_um=55.0)
    again = Provenance.from_json(json.loads(json.dumps(provenance.to_json())))
    assert again == provenance
    assert again["slides"] == again.slides == SLIDES
    assert (again.selection.image_key, again.selection.shapes_key, again.selection.um_per_px) == (
        {"A": "image"}, ["A"], 0.5)  # fmt: skip
    assert again["selection"]["layer"] is None
    with pytest.raises(KeyError):
        _ = again["slide"]


def test_entries_of_other_versions_come_back_as_they_were():
    old = {"slides": SLIDES, "color": {"channels": [], "mean": [], "std": []}, "stain": None, "of_later_versions": 1}
    provenance = Provenance.from_json(old)
    assert provenance.to_json() == old
    assert (provenance.selection, provenance.pitch_um, provenance.get("pitch_um"), len(provenance)) == (
        None, None, None, 4)  # fmt: skip
    assert "pitch_um" not in provenance
    assert provenance["of_later_versions"] == 1
