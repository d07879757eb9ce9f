"""Networks, order and batch sizes of the GPU benchmark: plain data, also used by the page."""

from __future__ import annotations

import itertools

from network_cases import GRAPHS, OTHERS, OURS, PLAIN, Case

BATCH = {"inference": 256, "training": 128}
SMALL_BATCH = 16
"""Batch size at which launching kernels takes longer than running them, as CUDA graphs are meant for."""
ENCODED = (("bf16", 64), ("bf16", 256), ("fp32", 64))
"""Precision and batch size of the frozen encoder."""


def eager_groups():
    """Groups of eager cases, the most important first, as pairs of a case and its batch size."""
    for mode in BATCH:
        yield [make_pair(PLAIN, mode, "fp32"), make_pair("m2ost", mode, "bf16"), make_pair("m2ost", mode, "fp32")]
    for precision in ("bf16", "fp32"):
        for name, mode in itertools.product((*OURS[1:], *OTHERS), BATCH):
            yield [make_pair(name, mode, precision)]


def compiled_groups():
    """Groups of compiled cases; those with small batches include the eager network."""
    for mode in BATCH:
        yield [make_pair(PLAIN, mode, "fp32"), make_pair("m2ost", mode, "bf16", "compiled")]
    for name in ("m2ost_tiny", "m2ost"):
        runs = ("eager", "compiled", GRAPHS)
        yield [make_pair(name, "inference", "bf16", execution, batch=SMALL_BATCH) for execution in runs]
    for name, mode in itertools.product(("m2ost_tiny", "m2ost_small", "m2ost_reference"), BATCH):
        yield [make_pair(name, mode, "bf16", "compiled")]
    for mode in BATCH:
        yield [make_pair("m2ost", mode, "fp32", "compiled")]


def make_pair(network, mode, precision, execution="eager", batch=None):
    """A case and its batch size."""
    return Case(network=network, mode=mode, precision=precision, execution=execution), batch or BATCH[mode]
