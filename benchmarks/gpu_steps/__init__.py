"""The steps of `gpu.py`, one file each: functions that measure and save their results so far.

No step prints or writes result files itself. All private parts of `stpredict` are imported in `package.py` only.
"""

from __future__ import annotations
