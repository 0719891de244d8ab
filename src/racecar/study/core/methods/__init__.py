"""Ways of training in phase I, one registered class each: what makes a variant stands in its class and nowhere else.

A file put here is imported with the package, so a new method is one file: a subclass of :class:`.base.Method` with
:func:`.base.register` above it. What is of one study (its data, its network) does not belong here.
"""

import importlib
import pkgutil

from racecar.study.core.methods.base import (
    Method,
    Need,
    Settings,
    Strength,
    forms,
    parse,
    register,
    registered,
    unregister,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Method", "Need", "Settings", "Strength", "forms", "parse", "register", "registered", "unregister"]
