"""From slides to batches, and which spots are held out: groups are never split, members rotate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._train.config import FitConfig
from stpredict._train.data import read_pieces, read_spots, slide_index, validation_fold

SPEC = PatchSpec(fov_um=(150, 600), size_px=8)


@pytest.fixture(scope="module")
def slides(synthetic_sdata):
    from stpredict._slides.slides import Selection, resolve

    return resolve(synthetic_sdata, Selection())


def grouped(slides, *groups):
    return [replace(slide, group=group) for slide, group in zip(slides, groups, strict=True)]


def held_slides(slides, found):
    """Names of slides that are held out, each as a whole."""
    index = slide_index(slides)
    shares = [found.held_out[index == i].mean() for i in range(len(slides))]
    assert set(shares) <= {0.0, 1.0}
    return {slide.name for slide, share in zip(slides, shares, strict=True) if share}


def test_spots_of_all_slides_in_order(slides):
    batch, flagged = read_spots(slides, SPEC, progress=False)
    assert batch.patches.shape == (108, 2, 3, 8, 8)
    assert batch.patches.dtype == torch.uint8
    assert batch.slide.tolist() == [0] * 36 + [1] * 36 + [2] * 36
    np.testing.assert_allclose(batch.xy_um[36:72], slides[1].xy_um, rtol=1e-6)
    assert flagged.shape == (108,)
    assert not flagged.any()
    alone, _ = read_spots([slides[2]], SPEC, progress=False)
    assert torch.equal(batch.patches[72:], alone.patches)


@pytest.mark.parametrize(("piece_bytes", "n_pieces"), [(1, 36), (7 * 192, 6), (36 * 192, 1), (100 * 192, 1)])
def test_pieces_are_the_whole(slides, piece_bytes, n_pieces):
    spec = PatchSpec(fov_um=(1500,), size_px=8)  # 192 bytes a spot
    whole, flagged = read_spots([slides[0]], spec, progress=False)
    pieces = list(read_pieces(slides[0], spec, piece_bytes=piece_bytes))
    assert len(pieces) == n_pieces
    assert sorted(np.concatenate([piece.rows for piece in pieces]).tolist()) == list(range(36))
    for piece in pieces:
        assert piece.spots.patches.nbytes <= max(piece_bytes, 192)
        for name in ("patches", "xy_um", "slide"):
            assert torch.equal(getattr(piece.spots, name), getattr(whole, name)[piece.rows])
        np.testing.assert_array_equal(piece.flagged, flagged[piece.rows])
    assert flagged.any()


def test_spots_are_visited_in_the_order_of_the_reader(slides, monkeypatch):
    read, visited = PatchReader.read, []
    monkeypatch.setattr(PatchReader, "order", lambda self, xy_px: np.arange(len(xy_px))[::-1])
    monkeypatch.setattr(PatchReader, "read", lambda self, xy_px: (visited.append(xy_px), read(self, xy_px))[1])
    list(read_pieces(slides[0], SPEC, piece_bytes=10 * 384))
    assert [len(xy_px) for xy_px in visited] == [10, 10, 10, 6]
    np.testing.assert_array_equal(np.concatenate(visited), slides[0].xy_px[::-1])


def test_by_default_the_last_group_is_held_out(slides):
    found = validation_fold(slides, FitConfig(), 0)
    assert (found.kind, found.groups, found.leaks) == ("slide", ("S2_spots",), False)
    assert held_slides(slides, found) == {"S2_spots"}


def test_groups_stay_whole(slides):
    grouped_slides = grouped(slides, "p", "q", "p")
    found = validation_fold(grouped_slides, FitConfig(), 0)
    assert held_slides(grouped_slides, found) == {"S1_spots"}
    found = validation_fold(grouped_slides, FitConfig(), 1)
    assert held_slides(grouped_slides, found) == {"S0_spots", "S2_spots"}
    assert found.groups == ("p",)


def test_members_rotate_through_the_groups_and_the_seed_begins_elsewhere(slides):
    rotation = [validation_fold(slides, FitConfig(), member).groups[0][:2] for member in range(5)]
    assert rotation == ["S2", "S1", "S0", "S2", "S1"]
    assert validation_fold(slides, FitConfig(seed=1), 0).groups == ("S1_spots",)


def test_groups_or_slides_can_be_named(slides):
    grouped_slides = grouped(slides, "p", "q", "q")
    assert held_slides(slides, validation_fold(slides, FitConfig(), 0, ["S0_spots"])) == {"S0_spots"}
    assert held_slides(grouped_slides, validation_fold(grouped_slides, FitConfig(), 0, ["q"])) == {
        "S1_spots",
        "S2_spots",
    }


def test_a_group_on_both_sides_is_refused_unless_allowed_and_then_marked(slides):
    grouped_slides = grouped(slides, "p", "q", "q")
    with pytest.raises(ValueError, match=r"share groups with training slides: 'q'.*allow_leakage=True"):
        validation_fold(grouped_slides, FitConfig(), 0, ["S2_spots"])
    found = validation_fold(grouped_slides, FitConfig(allow_leakage=True), 0, ["S2_spots"])
    assert found.leaks
    assert held_slides(grouped_slides, found) == {"S2_spots"}


def test_one_group_of_several_slides(slides):
    same = grouped(slides, "p", "p", "p")
    assert validation_fold(same, FitConfig(), 0).kind == "block"
    with pytest.raises(ValueError, match="share groups with training slides: 'p'"):
        validation_fold(same, FitConfig(validation="slide"), 0)
    found = validation_fold(same, FitConfig(validation="slide", allow_leakage=True), 0)
    assert (found.kind, found.leaks, held_slides(same, found)) == ("slide", True, {"S2_spots"})
    assert validation_fold(same, FitConfig(allow_leakage=True), 0).kind == "slide"
    assert validation_fold(same[:1], FitConfig(allow_leakage=True), 0).kind == "block"


def test_one_slide_is_validated_on_blocks_and_marked(slides):
    found = validation_fold(slides[:1], FitConfig(), 0)
    assert (found.kind, found.groups, found.leaks) == ("block", (), True)
    assert found.held_out.sum() == 7  # a fifth of 36
    assert (validation_fold(slides[:1], FitConfig(), 1).held_out != found.held_out).any()
    np.testing.assert_array_equal(validation_fold(slides[:1], FitConfig(), 0).held_out, found.held_out)


def test_blocks_are_taken_of_every_slide(slides):
    found = validation_fold(slides, FitConfig(validation="block"), 0)
    assert np.bincount(slide_index(slides)[found.held_out]).tolist() == [7, 7, 7]


def test_nothing_held_out(slides):
    found = validation_fold(slides, FitConfig(validation="none"), 0)
    assert (found.kind, found.leaks, int(found.held_out.sum()), len(found.held_out)) == ("none", False, 0, 108)


@pytest.mark.parametrize("validation", ["none", "slide"])
def test_slides_that_are_named_are_held_out_whatever_the_rule(slides, validation):
    found = validation_fold(slides, FitConfig(validation=validation), 0, ["S1_spots"])
    assert (found.kind, held_slides(slides, found)) == ("slide", {"S1_spots"})


@pytest.mark.parametrize(("n", "arguments", "words"), [
    (1, {"config": FitConfig(validation="slide")}, "There is one slide only.*validation='block'"),
    (3, {"validate_on": ["S0_spots", "S1_spots", "S2_spots"]}, "All 3 slides are held out for validation"),
    (3, {"validate_on": ["S9"]}, "`validate_on` names 'S9'; give a list out of 'S0_spots', 'S1_spots', 'S2_spots'"),
    (3, {"validate_on": "S0_spots"}, "`validate_on` names 'S0_spots'; give a list out of"),
    (3, {"validate_on": []}, "`validate_on` names nothing"),
])  # fmt: skip
def test_folds_that_are_refused(slides, n, arguments, words):
    with pytest.raises(ValueError, match=words):
        validation_fold(slides[:n], arguments.get("config", FitConfig()), 0, arguments.get("validate_on"))
