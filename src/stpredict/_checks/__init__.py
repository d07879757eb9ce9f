"""Errors and warnings about user input that several packages share, one file per subject.

A message says what was given, what exists or is allowed, and what to call. What only one package says is in its
``_errors.py``, and what only one function says is in that function.
"""
