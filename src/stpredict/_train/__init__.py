"""From samples to a trained network: batches, augmentation, the loop. Private; `tl` is what users call.

torch, numpy and Lightning Fabric only: nothing here knows of files, tables or SpatialData.
"""

from __future__ import annotations
