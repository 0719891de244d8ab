"""The state of a training as tensors by name: weights, buffers and the optimisers' moments, and back.

Tensors that several processes share among them (FSDP2) are whole in a saved state: all of them call :func:`pack`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from racecar.sharded import is_sharded
from racecar.study.core.errors import StudyError
from racecar.study.core.files import read_tensors_and_metadata, write_tensors


def pack(modules: Sequence[nn.Module], optimisers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Copies of everything that a step changes."""
    tensors: dict[str, Tensor] = {}
    for i, module in enumerate(modules):
        tensors |= {f"module{i}.{name}": t for name, t in module.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        moments = 0
        for number, state in optimiser.state_dict()["state"].items():
            own = {f"optimiser{i}.{number}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
            tensors |= own
            moments += bool(own)
        tensors[f"{_COUNT}{i}"] = torch.tensor(moments)
    return {k: whole(v) for k, v in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor, gathered from all processes if they share it."""
    if is_sharded(tensor):
        return tensor.full_tensor().detach().cpu()
    return tensor.clone()


def _shared(value: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor, where the one it replaces is shared."""
    if is_sharded(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def unpack(tensors: Mapping[str, Tensor], modules: Sequence[nn.Module], optimisers: Sequence[Optimizer]) -> None:
    """Put what :func:`pack` gave back into modules and optimisers of the same build.

    Raises:
        KeyError, ValueError, TypeError, RuntimeError: the tensors are of something else.
    """
    prefixes = [f"module{i}." for i in range(len(modules))] + [f"optimiser{i}." for i in range(len(optimisers))]
    if foreign := [k for k in tensors if re.match("module|optimiser", k) and not k.startswith(tuple(prefixes))]:
        raise KeyError(foreign[0])
    for i, module in enumerate(modules):
        own = module.state_dict()
        given = below(tensors, f"module{i}.")
        module.load_state_dict({name: _shared(value, own.get(name)) for name, value in given.items()})
    for i, optimiser in enumerate(optimisers):
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in below(tensors, f"optimiser{i}.").items():
            number, key = name.split(".", 1)
            moments.setdefault(int(number), {})[key] = value
        known = optimiser.state_dict()
        count = tensors.get(f"{_COUNT}{i}")  # older states have none
        _check_moments(i, moments, optimiser, len(moments) if count is None else int(count))
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for place, values in moments.items():
            of = parameters[place]
            moments[place] = {k: _shared(v, of if v.shape == of.shape else None) for k, v in values.items()}
        optimiser.load_state_dict({"state": moments, "param_groups": known["param_groups"]})
        # Files hold contiguous tensors; fused optimisers read moments in the memory order of their parameter.
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


_COUNT = "moments"  # of parameters that have some


def _check_moments(
    number: int, moments: Mapping[int, Mapping[str, Tensor]], optimiser: Optimizer, expected: int
) -> None:
    """All parameters that have been trained have moments of the same kinds; one without a gradient has none."""
    count = sum(len(group["params"]) for group in optimiser.param_groups)
    kinds = {frozenset(kinds) for kinds in moments.values()}
    if len(kinds) > 1 or any(i >= count for i in moments) or len(moments) != expected:
        raise ValueError(f"moments of optimiser {number} are missing, or there are too many")


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class Progress:
    """State of runs in training.

    Attributes:
        tensors: anything the experiment needs to go on, by name.
        metadata: anything else that is JSON.
        path: where it was read from.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    path: Path | None = None

    @contextmanager
    def restored(self, what: str = "training") -> Iterator[None]:
        """A block that puts it back: whatever goes wrong there means that it is a state of something else.

        Args:
            what: goes on from it.

        Raises:
            StudyError: saying so, and what to do.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            place = "" if self.path is None else f". Delete {self.path} to start again from the beginning"
            raise StudyError(f"a saved state does not fit this {what}: {error}{place}") from error


def write_progress(path: Path, progress: Progress, check: Callable[[], None] = lambda: None) -> None:
    """Replace a saved state; ``check`` as for :func:`racecar.study.core.files.write_atomically`."""
    write_tensors(path, progress.tensors, {"about": json.dumps(progress.metadata)}, check)


def about(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a saved state says beside its tensors.

    Raises:
        LookupError, RecursionError, TypeError, ValueError: the file is of something else.
    """
    found = json.loads(metadata["about"])
    if not isinstance(found, dict):
        raise TypeError("no object")
    return found


def read_progress(path: Path) -> Progress | None:
    """A saved state; None where there is none, or a damaged one, which is said: what it held starts again."""
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors_and_metadata(path)
        return Progress(tensors, about(metadata), path)
    except (StudyError, LookupError, RecursionError, TypeError, ValueError) as error:
        if path.exists():  # else another process has just finished its run
            reason = (
                f"{error}".split(". Delete it")[0] if isinstance(error, StudyError) else f"{path} is no saved state"
            )
            print(f"racecar: {reason}. What it held starts again from its beginning", file=sys.stderr)
        return None
