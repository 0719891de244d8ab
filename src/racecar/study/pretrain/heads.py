"""The classifier at the end of a network: found, and made anew for another number of classes."""

from __future__ import annotations

from torch import nn

from racecar.study.core.errors import StudyError


def replace_head(model: nn.Module, before: int, classes: int) -> list[str]:
    """Give a network a fresh last layer, drawn from torch's random state.

    The layer is what timm's ``reset_classifier`` renews, else the last Linear or Conv2d with ``before`` outputs.

    Args:
        model: changed in place.
        before: the number of classes it has.
        classes: the number it is to have.

    Returns:
        Names of the modules that are new.

    Raises:
        StudyError: no such layer.
    """
    reset, get = getattr(model, "reset_classifier", None), getattr(model, "get_classifier", None)
    if callable(reset) and callable(get):
        reset(classes)
        found = get()
        heads = found if isinstance(found, list | tuple) else [found]
        return [n for n, m in model.named_modules() if any(m is h for h in heads)]
    name = next((n for n, m in reversed(list(model.named_modules())) if n and _outputs(m) == before), None)
    if name is None:
        raise StudyError(
            f"{type(model).__name__} has no Linear or Conv2d with {before} outputs, one per class, that could be made "
            "anew: give it one, or a method reset_classifier(num_classes) with get_classifier()"
        )
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


def freeze(model: nn.Module, heads: list[str]) -> None:
    """Let only the parameters of ``heads`` want a gradient."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(f"{h}.") for h in heads))


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.groups == 1 else None
