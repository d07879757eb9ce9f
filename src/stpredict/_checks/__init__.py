"""Errors and warnings about user input that several packages share, one file per subject.

A message says what was given, what exists or is allowed, and what to call. Errors that one package raises are in its
`_errors.py`, or in the function itself.
"""
