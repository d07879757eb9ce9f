"""Every error and warning about user input, one file per subject.

A message says what was given, what exists or is allowed, and what to call. Other modules ask these functions and
word nothing themselves.
"""
