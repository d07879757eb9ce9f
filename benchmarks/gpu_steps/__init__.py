"""The steps of `gpu.py`, one file each: plain functions that measure, and hand over what they found so far.

No step prints or writes a file of results. Everything private of `stpredict` is imported in `package.py` and nowhere
else.
"""

from __future__ import annotations
