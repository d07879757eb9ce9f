"""Which process this is: threads of a parent do not survive a fork, and workers share the cores of the machine."""

from __future__ import annotations

import multiprocessing
import os

IMPORTED_BY = os.getpid()
"""The process that imported this module; another one is its fork."""


def is_forked() -> bool:
    """Whether this process is a fork of one that had imported stpredict, so that pools of threads may be dead."""
    return os.getpid() != IMPORTED_BY


def is_worker() -> bool:
    """Whether another process of Python started this one, by fork or otherwise."""
    return is_forked() or multiprocessing.parent_process() is not None
