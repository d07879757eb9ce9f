"""Stain of resolved slides: of training slides for the provenance, of slides to predict for stain normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks import slides as check
from ...pp.stain_normalization import METHODS, Stain, StainNormalizer, fit_stain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._slides.slides import Slide
    from ...pp.stain_normalization import StainMethod
    from .provenance import Provenance


def training_stain(slides: Sequence[Slide]) -> dict[str, Any] | None:
    """Stain of the training slides, ready for JSON; None if it can be measured on none of them.

    ``reference`` is their mean, in which every slide has the same weight; ``slides`` are those that can be measured.
    """
    measured = {
        slide.name: fit_stain(slide.levels, slide.um_per_px, slide.xy_px, image_key=slide.image_key) for slide in slides
    }
    known = {name: stain for name, stain in measured.items() if stain is not None}
    if not known:
        return None
    return {
        "reference": Stain.average(list(known.values())).to_dict(),
        "slides": {name: stain.to_dict() for name, stain in known.items()},
    }


def stain_normalizers(slides: Sequence[Slide], provenance: Provenance, method: StainMethod) -> list[StainNormalizer]:
    """For each slide, the function that gives patches ``(n, s, 3, p, p)`` uint8 the stain of the training slides."""
    check_config.one_of("stain", method, METHODS)
    if provenance.stain is None:
        msg = (
            "The predictor does not know the stain of the slides it was trained on: it was made by an older version, "
            "or that stain could not be measured. Predict without `stain`, or train again with `stp.tl.fit`."
        )
        raise ValueError(msg)
    reference = Stain.from_dict(provenance.stain["reference"])
    return [StainNormalizer.between(slide_stain(slide), reference, method) for slide in slides]


def slide_stain(slide: Slide) -> Stain:
    """`measured_stain`; refuses slides on which it cannot be measured."""
    return check.has_stain(measured_stain(slide), slide.image_key)


def measured_stain(slide: Slide) -> Stain | None:
    """The stain that `stp.pp.stain` recorded for the image of a slide, or else that measured at its spots."""
    recorded = slide.source.attrs.get(keys.ATTRS, {}).get(keys.STAIN, {}).get(slide.image_key)
    if recorded is not None:
        return Stain.from_dict(recorded)
    return fit_stain(slide.levels, slide.um_per_px, slide.xy_px, image_key=slide.image_key)
