"""What of a network is trained: its last layer, made anew for another number of classes, and what is frozen."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from racecar.study.core.errors import StudyError


def find_heads(model: nn.Module, outputs: int) -> list[str]:
    """Names of a network's last layers: what timm's ``get_classifier`` gives, else the last Linear or Conv2d.

    Args:
        model: as it is.
        outputs: the number of classes it has.

    Raises:
        StudyError: no such layer.
    """
    if callable(getattr(model, "reset_classifier", None)) and callable(get := getattr(model, "get_classifier", None)):
        found = get()
        heads = found if isinstance(found, list | tuple) else [found]
        return [n for n, m in model.named_modules() if any(m is h for h in heads)]
    name = next((n for n, m in reversed(list(model.named_modules())) if n and _outputs(m) == outputs), None)
    if name is None:
        raise StudyError(
            f"{type(model).__name__} has no Linear or Conv2d with {outputs} outputs, one per class, that could be made "
            "anew: give it one, or a method reset_classifier(num_classes) with get_classifier()"
        )
    return [name]


def replace_head(model: nn.Module, before: int, classes: int) -> list[str]:
    """Give a network a fresh last layer, drawn from torch's random state.

    Args:
        model: changed in place.
        before: the number of classes it has.
        classes: the number it is to have.

    Returns:
        Names of the modules that are new.

    Raises:
        StudyError: no such layer, see :func:`find_heads`.
    """
    if callable(reset := getattr(model, "reset_classifier", None)) and callable(getattr(model, "get_classifier", None)):
        reset(classes)
        return find_heads(model, classes)
    (name,) = find_heads(model, before)
    old = model.get_submodule(name)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(
            old.in_channels,
            classes,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    return [name]


def train_only(model: nn.Module, heads: list[str]) -> None:
    """Let only the parameters of ``heads`` want a gradient."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{h}.") for h in heads))


def freeze_named(model: nn.Module, names: Sequence[str]) -> tuple[nn.Module, ...]:
    """Keep modules as they are: their parameters want no gradient.

    Args:
        model: changed in place.
        names: of modules, with ``*`` and ``?`` for more than one, such as ``layer1`` or ``blocks.?``.

    Returns:
        The modules, which are to stay in evaluation mode, so that their running statistics stay too.

    Raises:
        StudyError: no such module, or nothing is left to train.
    """
    modules = {n: m for n, m in model.named_modules() if n}
    found: list[nn.Module] = []
    for name in names:
        matching = [m for n, m in modules.items() if fnmatchcase(n, name)]
        if not matching:
            near = difflib.get_close_matches(name, modules, 3) or [n for n, _ in model.named_children()][:10]
            raise StudyError(f"--freeze {name}: no module of that name; there are {', '.join(near)}")
        found += matching
    for parameter in (p for module in found for p in module.parameters()):
        parameter.requires_grad_(False)
    if found and not any(p.requires_grad for p in model.parameters()):
        raise StudyError("--freeze: nothing is left to train")
    return tuple(found)


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.groups == 1 else None
