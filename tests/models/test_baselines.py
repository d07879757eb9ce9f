"""Mean profile, colour, texture, place: against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict import models
from stpredict.models import SpotBatch
from stpredict.models.baselines import relative_to_slide
from stpredict.models.nuclei_ridge import EOSIN, HAEMATOXYLIN, haematoxylin, nucleus_statistics

RIDGE = "ridge_statistics"


def section(n_side=5, slide=0, at=(0.0, 0.0), seed=0, g=3):
    """A square of spots whose targets are their place from the centre."""
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(torch.arange(n_side), torch.arange(n_side), indexing="ij")
    xy = 200.0 * torch.stack([x.flatten(), y.flatten()], dim=1)
    inside = (xy - xy.mean(dim=0)) / 1000
    return SpotBatch(
        patches=torch.randint(0, 256, (n_side**2, 3, 3, 16, 16), dtype=torch.uint8, generator=draw),
        xy_um=xy + torch.tensor(at),
        slide=torch.full((n_side**2,), slide),
        group=torch.full((n_side**2,), slide),
        targets=torch.cat([inside, inside.sum(dim=1, keepdim=True)], dim=1)[:, :g],
    )


def together(*parts):
    names = ("patches", "xy_um", "slide", "group", "targets")
    return SpotBatch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def built(name, spots, **overrides):
    model = models.build(models.config(name, 3, {"size_px": 16, **overrides}))
    model.initialize_from(iter([spots]))
    return model.eval()


def test_mean_profile_is_the_mean():
    spots = section()
    model = built("mean_profile", spots)
    assert not list(model.parameters())
    torch.testing.assert_close(model(section(2)), spots.targets.mean(dim=0).expand(4, 3))
    assert set(model.state_dict()) == {"profile"}


def test_ridge_on_colour_sees_no_shape():
    spots = section()
    model = built("ridge_color", spots)
    turned = replace(spots, patches=spots.patches.transpose(-1, -2))
    torch.testing.assert_close(model(turned), model(spots), atol=1e-5, rtol=1e-5)


def test_place_is_that_from_the_centre_of_the_slide():
    slide = torch.tensor([3, 3, 8])
    xy = torch.tensor([[0.0, 10.0], [100.0, 30.0], [5e5, 7e5]])
    expected = torch.tensor([[-50.0, -10.0], [50.0, 10.0], [0.0, 0.0]])
    assert torch.equal(relative_to_slide(xy, slide), expected)


@pytest.mark.parametrize("k", [1, 4])
def test_nearest_places_are_averaged(k):
    known = together(section(6), section(6, slide=1, at=(9e4, -3e4)))
    new = section(4, slide=7, at=(123.0, 4e5))
    model = built("knn_spatial", known, k=k)
    there, here = relative_to_slide(known.xy_um, known.slide), relative_to_slide(new.xy_um, new.slide)
    distance = torch.cdist(here.double(), there.double())
    best = distance.topk(k, largest=False).values.mean(dim=1)
    found = (model(new)[:, None] - known.targets[None]).abs().sum(dim=2).min(dim=1) if k == 1 else None
    if found is not None:
        torch.testing.assert_close(distance[range(16), found.indices].float(), best.float())
    nearest = distance.topk(k, largest=False).indices
    expected = known.targets[nearest].mean(dim=1)
    assert (model(new) - expected).abs().max() < 0.25  # which of several that are equally far is left open


def test_serial_sections_are_known_by_place():
    known = together(section(8), section(8, slide=1, at=(9e4, 0)))
    new = section(8, slide=0, at=(-5e3, 77.0))
    model = built("knn_spatial", known, k=2)
    torch.testing.assert_close(model(new), new.targets, atol=1e-5, rtol=1e-5)


def test_places_of_other_slides_are_not_seen():
    model = built("knn_spatial", section(6))
    one, other = section(4, slide=2), section(3, slide=9, at=(4e4, 4e4))
    alone = torch.cat([model(one), model(other)])
    assert torch.equal(model(together(one, other)), alone)


def test_one_spot_is_at_the_centre():
    model = built("knn_spatial", section(5), k=1)
    torch.testing.assert_close(model(section(1, at=(5e5, 0))), torch.zeros(1, 3))


def test_many_spots_are_looked_up_in_parts(monkeypatch):
    model, new = built("knn_spatial", section(6)), section(9)
    whole = model(new)
    monkeypatch.setattr("stpredict.models.baselines.AT_ONCE", 7)
    assert torch.equal(model(new), whole)


def test_bank_of_any_length_is_loaded():
    model = built("knn_spatial", section(5))
    other = models.build(model.config)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(section(3)), model(section(3)))


def test_ridge_on_statistics_sees_texture_that_colour_does_not():
    """The darkest pixels of a patch are gathered or scattered: its colours are the same, its texture is not."""
    spots = section(8)
    smooth, level = spots.targets[:, 0] > 0, spots.patches.flatten(-2)
    spots.patches = torch.where(smooth[:, None, None, None], level.sort(dim=-1).values, level).view_as(spots.patches)
    spots.targets = smooth[:, None].float().expand(-1, 3)
    error = {name: (built(name, spots)(spots) - spots.targets).abs().mean() for name in ("ridge_color", RIDGE)}
    assert error[RIDGE] < 0.3 * error["ridge_color"]


@pytest.mark.parametrize("name", ["mean_profile", "ridge_color", RIDGE, "knn_spatial"])
def test_one_profile_everywhere(name):
    model = built(name, section())
    model.initialize_at(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(model(section(3)), torch.tensor([1.0, 2.0, 3.0]).expand(9, 3))
    with pytest.raises(ValueError, match="this network has 3 outputs"):
        model.initialize_at(torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("knn_spatial", {"k": 0}),
        ("ridge_color", {"penalty": -1}),
        (RIDGE, {"clip": -1.0}),
        ("mean_profile", {"size_px": 0}),
    ],
)
def test_fields_that_make_no_sense_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        models.config(name, 3, options)


def nuclei(radii, *, size=96, stain=HAEMATOXYLIN, stretch=1.0):
    """Ellipses of one stain on glass, in a row: ``(3, p, p)`` in [0, 1]."""
    y, x = np.mgrid[:size, :size]
    centres = np.linspace(16, size - 16, len(radii))
    inside = [
        ((x - at) / (r * stretch)) ** 2 + ((y - 48) / (r / stretch)) ** 2 < 1
        for at, r in zip(centres, radii, strict=True)
    ]
    density = np.any(inside, axis=0)[None] * stain[:, None, None]
    return 10.0 ** -(density + 0.02).astype(np.float32)


def test_nuclei_are_counted_and_measured():
    few, many = (nucleus_statistics(haematoxylin(nuclei(radii))) for radii in ([5, 5, 5], [5] * 5))
    counts = np.expm1([few[0], many[0]]) * 96 * 96 / 1e4
    np.testing.assert_allclose(counts, [3, 5])
    assert many[1] / few[1] == pytest.approx(5 / 3, rel=0.02)
    np.testing.assert_allclose(np.exp(few[2]), np.pi * 25, rtol=0.15)
    assert few[3] == pytest.approx(0, abs=1e-9)  # all of one size
    assert few[7] < 0.05
    assert np.exp(few[8]) == pytest.approx(32)
    mixed = nucleus_statistics(haematoxylin(nuclei([3, 5, 7])))
    assert mixed[3] > 0.3
    long = nucleus_statistics(haematoxylin(nuclei([5, 5, 5], stretch=1.4)))
    assert long[7] == pytest.approx(np.log(1.4**2), abs=0.1)


def test_what_is_no_nucleus():
    assert (nucleus_statistics(haematoxylin(nuclei([]))) == 0).all()
    eosin = nucleus_statistics(haematoxylin(nuclei([5, 5, 5], stain=EOSIN)))
    assert (eosin == 0).all()


def test_nuclei_do_not_depend_on_the_side_from_which_a_patch_is_seen():
    seen = nuclei([3, 5, 7])
    expected = nucleus_statistics(haematoxylin(seen))
    for turned in (seen[:, ::-1], np.rot90(seen, axes=(1, 2))):
        np.testing.assert_allclose(nucleus_statistics(haematoxylin(turned)), expected, atol=1e-9)
