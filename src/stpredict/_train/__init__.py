"""From slides to trained networks: patches, batches, augmentation, the training loop, devices. Private."""

from __future__ import annotations
