"""The scripts beside, as modules: what one process computes of what they compute in several."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def _loaded(name: str) -> Any:
    sys.path.insert(0, str(HERE.parent / "support"))
    try:
        spec = importlib.util.spec_from_file_location(f"racecar_{name}", HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(HERE.parent / "support"))
    return module


@pytest.fixture(scope="module")
def cells() -> Any:
    """Nets, data and λ of the matrix."""
    return _loaded("cells")


@pytest.fixture(scope="module")
def layers() -> Any:
    """Models, data and options of layers that are sharded each for itself."""
    return _loaded("layers")
