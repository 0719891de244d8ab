"""Examples in docstrings are executed."""

import doctest
import importlib
import pkgutil

import pytest

import racecar

MODULES = [m.name for m in pkgutil.walk_packages(racecar.__path__, "racecar.") if not m.name.endswith(".__main__")]


def test_some_modules_have_examples() -> None:
    found = [m for m in MODULES if doctest.DocTestFinder().find(importlib.import_module(m), m)]
    assert "racecar.module" in found


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
