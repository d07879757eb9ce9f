"""Colour and texture statistics of patches, and the ridge regression on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models.image_statistics import N_STATISTICS, patch_statistics


def pixels(n=3, scales=2, size=16, seed=0):
    return torch.rand(n, scales, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_flat_patch_has_the_optical_density_of_its_colour_and_no_texture():
    color = torch.tensor([0.2, 0.5, 0.9])
    found = patch_statistics(color[:, None, None].expand(1, 1, 3, 16, 16), 0.5)[0].reshape(2, N_STATISTICS)
    density = -color.log()
    for window in found:
        torch.testing.assert_close(window[:3], density)  # mean
        torch.testing.assert_close(window[3:6], torch.zeros(3), atol=1e-6, rtol=0)  # spread
        torch.testing.assert_close(window[12:24], torch.full((12,), np.log(1e-3), dtype=torch.float32))  # texture
        torch.testing.assert_close(window[24:], density)  # centre


def test_against_numpy():
    image = pixels(1, 1)
    density = -np.log(np.maximum(image[0, 0].numpy(), 1 / 255)).reshape(3, -1)
    window = patch_statistics(image, 1.0)[0, N_STATISTICS:].numpy()
    np.testing.assert_allclose(window[:3], density.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(window[3:6], density.std(axis=1), rtol=1e-5)
    np.testing.assert_allclose(window[6:9], np.corrcoef(density)[[0, 0, 1], [1, 2, 2]], atol=1e-5)
    skew = ((density - density.mean(axis=1, keepdims=True)) ** 3).mean(axis=1) / density.std(axis=1) ** 3
    np.testing.assert_allclose(window[9:12], skew, rtol=1e-3)


def test_flips_and_turns_change_nothing():
    image = pixels(size=32)
    for turned in (image.flip(-1), image.flip(-2), image.transpose(-1, -2)):
        torch.testing.assert_close(patch_statistics(turned, 0.5), patch_statistics(image, 0.5), atol=1e-4, rtol=1e-4)


def test_the_first_window_is_the_spot():
    image = pixels(size=16)
    other = image.clone()
    other[:, 0, :, :4] = 0.5  # above the central half
    same = patch_statistics(image, 0.5)[:, :N_STATISTICS] == patch_statistics(other, 0.5)[:, :N_STATISTICS]
    assert same.all()
    assert not torch.equal(patch_statistics(image, 1.0), patch_statistics(other, 1.0))


@pytest.mark.parametrize("size", [8, 9, 21])
def test_odd_and_small_patches_are_finite(size):
    found = patch_statistics(pixels(size=size), 2 / 3)
    assert found.shape == (3, 3 * N_STATISTICS)
    assert found.isfinite().all()
