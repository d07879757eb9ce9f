"""What trains in the tests of domains trains for a moment."""

from __future__ import annotations

from functools import partial

import pytest

from stpredict._domains.mcgae import variational_view


@pytest.fixture(autouse=True)
def short_training_of_the_second_view(monkeypatch):
    monkeypatch.setattr("stpredict._domains.mcgae.variational_view", partial(variational_view, n_epochs=2))
