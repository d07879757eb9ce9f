"""Which networks the GPU benchmark measures, in which order, with which batches: plain data, also for the page."""

from __future__ import annotations

import itertools

from network_cases import GRAPHS, OTHERS, OURS, PLAIN, Case

BATCH = {"inference": 256, "training": 128}
SMALL_BATCH = 16
"""Spots a batch where launching kernels takes longer than running them: CUDA graphs are for such batches."""
ENCODED = (("bf16", 64), ("bf16", 256), ("fp32", 64))
"""Precision and batch of the frozen encoder."""


def eager_groups():
    """Groups of cases without a compiler, the most important first, as pairs of a case and its batch."""
    for mode in BATCH:
        yield [pair(PLAIN, mode, "fp32"), pair("m2ost", mode, "bf16"), pair("m2ost", mode, "fp32")]
    for precision in ("bf16", "fp32"):
        for name, mode in itertools.product((*OURS[1:], *OTHERS), BATCH):
            yield [pair(name, mode, precision)]


def compiled_groups():
    """Groups of cases with a compiler; small batches beside the same network without one."""
    for mode in BATCH:
        yield [pair(PLAIN, mode, "fp32"), pair("m2ost", mode, "bf16", "compiled")]
    for name in ("m2ost_tiny", "m2ost"):
        runs = ("eager", "compiled", GRAPHS)
        yield [pair(name, "inference", "bf16", execution, batch=SMALL_BATCH) for execution in runs]
    for name, mode in itertools.product(("m2ost_tiny", "m2ost_small", "m2ost_reference"), BATCH):
        yield [pair(name, mode, "bf16", "compiled")]
    for mode in BATCH:
        yield [pair("m2ost", mode, "fp32", "compiled")]


def pair(network, mode, precision, execution="eager", batch=None):
    """A case, and how many spots a batch has."""
    return Case(network=network, mode=mode, precision=precision, execution=execution), batch or BATCH[mode]
