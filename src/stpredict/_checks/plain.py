"""Arguments as users have them, numbers of numpy and iterators among them, as the rest of the package takes them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from dataclasses import fields
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A number or text of numpy as that of Python, also in tuples and options; iterators and views as lists."""
    if isinstance(value, (np.number, np.bool_, np.str_)):
        return value.item()
    if type(value) is tuple:
        return tuple(plain(each) for each in value)
    if type(value) is dict:
        made = {name: plain(each) for name, each in value.items()}
        return made if any(made[name] is not value[name] for name in made) else value
    is_file = hasattr(value, "read")  # which is an iterator too
    if isinstance(value, (Iterator, KeysView, ItemsView, ValuesView)) and not is_file:
        return list(value)
    return value


def in_order(names: Any) -> list[Any]:
    """Names as a list; those of a set, whose order is another one in every process, sorted."""
    return sorted(names, key=str) if isinstance(names, (set, frozenset)) else list(names)


def plain_fields(instance: Any) -> None:
    """Make the values of a frozen dataclass plain, so that they can be compared and written as JSON."""
    for field in fields(instance):
        value = getattr(instance, field.name)
        if (changed := plain(value)) is not value:
            object.__setattr__(instance, field.name, changed)
