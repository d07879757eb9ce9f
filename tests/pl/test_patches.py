from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from stpredict import pl
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Selection, resolve

SPEC = PatchSpec(fov_um=(120.0, 480.0), size_px=32)


def squares(ax):
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_fields_of_view_are_drawn_to_scale(sdata):
    axes = pl.patches(sdata, "S1_2x3", patch=SPEC)
    assert [ax.get_title(loc="left") for ax in axes] == ["S1_2x3", "120 µm", "480 µm"]
    centre = 4.0 * sdata["observed"].obsm["spatial"][sdata["observed"].obs_names.get_loc("S1_2x3")]
    for square, fov in zip(squares(axes[0]), SPEC.fov_um, strict=True):
        assert (square.get_width(), square.get_height()) == (fov, fov)
        np.testing.assert_allclose(square.get_center(), centre)
    assert np.ptp(axes[0].get_xlim()) == pytest.approx(600)


def test_patches_are_those_of_the_model(sdata):
    axes = pl.patches(sdata, "S1_2x3", patch=SPEC)
    slide = resolve(sdata, Selection(shapes_key="S1_spots"))[0]
    i = int(np.flatnonzero(slide.obs_names == "S1_2x3")[0])
    expected, _ = PatchReader(slide.levels, slide.um_per_px, SPEC).read(slide.xy_px[[i]])
    for ax, patch in zip(axes[1:], expected[0], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), np.moveaxis(patch, 0, -1))


def test_frames_have_the_colours_of_their_squares(sdata):
    axes = pl.patches(sdata, "S0_0x0")
    edges = [to_hex(square.get_edgecolor()) for square in squares(axes[0])]
    assert len(set(edges)) == 3
    assert [to_hex(ax.spines["left"].get_edgecolor()) for ax in axes[1:]] == edges
    assert [ax.get_title(loc="left") for ax in axes[1:]] == ["150 µm", "300 µm", "600 µm"]  # spots of 100 µm


def test_default_is_what_predictions_were_made_from(predicted):
    predicted["predicted"].uns["predicted"]["params"] = {"fov_um": np.array([90.0, 1000.0]), "size_px": np.int64(16)}
    axes = pl.patches(predicted, "S0_0x0")
    assert [ax.get_title(loc="left") for ax in axes[1:]] == ["90 µm", "1 mm"]
    assert axes[1].images[0].get_array().shape == (16, 16, 3)


def test_spot_by_index(sdata):
    by_index = pl.patches(sdata, 7, patch=SPEC, shapes_key="S2_spots")
    assert by_index[0].get_title(loc="left") == sdata["observed"].obs_names[2 * 36 + 7]


def test_slide_without_table(sdata):
    del sdata.tables["observed"]
    assert pl.patches(sdata, 7, patch=SPEC, shapes_key="S2_spots")[0].get_title(loc="left") == "7"


def test_slide_with_predictions_only(predicted):
    del predicted.tables["observed"]
    assert pl.patches(predicted, "S1_2x3", patch=SPEC)[0].get_title(loc="left") == "S1_2x3"


def test_table_of_another_name(sdata):
    sdata["table"] = sdata.tables.pop("observed")
    assert len(pl.patches(sdata, "S1_2x3", patch=SPEC)) == 3
    sdata["other"] = sdata["table"].copy()
    assert len(pl.patches(sdata, "S1_2x3", patch=SPEC, table_name="other")) == 3
    with pytest.raises(ValueError, match=r"Which table .*'table', 'other'.*`table_name`"):
        pl.patches(sdata, "S1_2x3")


def test_faults(sdata):
    with pytest.raises(ValueError, match=r"No spot 'S9_2x3' in .*Give a name from `obs_names` of the table"):
        pl.patches(sdata, "S9_2x3")
    with pytest.raises(ValueError, match=r"No spot 36 in 'S0_spots'"):
        pl.patches(sdata, 36, shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"Spot 7 is in several elements: 'S0_spots', 'S1_spots', 'S2_spots'"):
        pl.patches(sdata, 7)
    with pytest.raises(ValueError, match=r"no element named 'S7'\. Found: 'S0_spots'.* Give one .* as `shapes_key`\."):
        pl.patches(sdata, 7, shapes_key="S7")
    with pytest.raises(ValueError, match=r"No table 'counts'"):
        pl.patches(sdata, 7, table_name="counts")
    with pytest.raises(TypeError, match=r"Expected a SpatialData"):
        pl.patches(sdata["observed"], 7)
