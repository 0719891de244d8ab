"""The contract of a way of training, and the registry that knows them all by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Protocol, Self, TypeVar

from torch import Tensor, nn

Regulariser = Callable[[nn.Module], Tensor]  # the model in training → a penalty on its weights, a scalar


class Settings(Protocol):
    """Strengths of penalties, of any study's configuration."""

    @property
    def weight(self) -> float:
        """λ of Eq. 1."""

    @property
    def ort_weight(self) -> float:
        """β of Eq. 2."""


class Need(Enum):
    """What a method asks of a study beside plain training; a study takes the methods whose needs it can meet."""

    LONGER = "a phase I of another length"
    REVERSE = "a reverse pass over the first layers"
    ARGUMENTS = "further arguments of racecar.Racecar"
    DECODER = "a reverse pass with weights of its own"
    REGULARISER = "a penalty on weights"
    RECIPE = "other hyper-parameters in phase I"
    SHORTER = "a phase I that is stopped early"
    PROJECTOR = "layers between features and head that phase II throws away"
    PRETRAINING = "layers trained one by one before phase I"
    REMEDY = "a penalty that ends early, falls with depth or is whitened, or a reverse pass that is changed"
    BETWEEN = "weights changed between tasks that follow one another"


@dataclass(frozen=True)
class Strength:
    """One tuning value of a method as :class:`Settings`, whichever of them it reads.

    Attributes:
        value: in the method's own :attr:`Method.unit`.
    """

    value: float

    @property
    def weight(self) -> float:
        """λ."""
        return self.value

    @property
    def ort_weight(self) -> float:
        """β."""
        return self.value


@dataclass(frozen=True)
class Method:
    """A way of training in phase I. One that overrides nothing trains plainly, as Std does.

    It adds one penalty at most: by :attr:`arguments` that of :class:`racecar.Racecar`, or a :meth:`regulariser`.

    Attributes:
        depth: s, the number of compared layers; 0 for methods that compare none.
        family: what its names begin with, ``"RR"`` of ``"RR6"``.
        color: in figures and tables, ``"#rrggbb"``; of fewer compared layers it is paler.
        line: in curves, as matplotlib takes it, where the colour alone does not tell it from another method.
        place: where it stands, from left to right, in figures and notes; the paper has Ort, Std, RR.
        layered: whether its names end with the number of compared layers.
        untied: whether its reverse pass has weights of its own, which are not kept with the model.
        has_weight: whether it depends on λ, so that a sweep over λ trains it for each.
        usage: for the message on a name that is none: what may follow the family.
        strengths: the five values that a study tries where it gives every method the same number of them; empty: there
            is nothing to tune.
        unit: what such a value is. With a reverse pass it is the ratio that :func:`racecar.balance` sets λ by.

    Raises:
        ValueError: a number of layers where none is compared, or none where some are.
    """

    depth: int = 0

    family: ClassVar[str]
    color: ClassVar[str]
    line: ClassVar[str] = "-"
    place: ClassVar[int] = 3
    layered: ClassVar[bool] = False
    untied: ClassVar[bool] = False
    has_weight: ClassVar[bool] = False
    usage: ClassVar[str] = ""
    strengths: ClassVar[tuple[float, ...]] = ()
    unit: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if (self.depth > 0) != self.layered or self.depth < 0:
            raise ValueError(f"{self.family} {'needs a' if self.layered else 'takes no'} number of compared layers")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a variant's name, in lower case and without ``^``; None where it is another method's."""
        match = re.fullmatch(cls.family.lower() + r"([1-9]\d*)" * cls.layered, text)
        return None if match is None else cls(int(match[1])) if cls.layered else cls()

    @property
    def suffix(self) -> str:
        """What follows the number of layers in the name."""
        return ""

    @property
    def name(self) -> str:
        """As typed and used in paths: ``"RR6"``, ``"RR6-every4"``."""
        return f"{self.family}{self.depth or ''}{self.suffix}"

    @property
    def label(self) -> str:
        """As printed: ``"RR^6"``."""
        return f"{self.family}^{self.depth}{self.suffix}" if self.layered else self.name

    # --- training -----------------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> dict[str, Any]:
        """Of :class:`racecar.Racecar` beside a study's own λ, reduction and input range; empty: no reverse pass."""
        return {"layers": self.depth} if self.layered else {}

    def regulariser(self, model: nn.Module, settings: Settings) -> Regulariser | None:
        """The penalty on weights, strength included; None for methods without one.

        Args:
            model: as phase I begins with it; what the penalty depends on is to be copied.
            settings: of the study.
        """
        return None

    def length(self, compute_match: float) -> float:
        """Of phase I, over Std's.

        Args:
            compute_match: work of a racecar step over that of a plain one.
        """
        return 1.0

    def recipe(self, strength: float) -> Mapping[str, Any]:
        """What it changes of the hyper-parameters of phase I, by name."""
        return {}

    def stop(self, strength: float) -> float:
        """The share of phase I after which it stops."""
        return 1.0

    def projector(self, strength: float) -> int:
        """Hidden units of a projector between the features and the head of phase I; 0: none."""
        return 0

    def pretraining(self, strength: float) -> int:
        """Epochs for which every layer is trained on its own before phase I."""
        return 0

    def between(
        self, weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor], head: str, strength: float
    ) -> Mapping[str, Tensor]:
        """The weights that the next of several tasks begins with, by name.

        Args:
            weights: as the last task has left them.
            fresh: of the same network, drawn anew.
            head: what the names of the last layer's weights begin with.
            strength: one of :attr:`strengths`.
        """
        return weights

    def until(self) -> float:
        """The share of phase I in which its penalty acts."""
        return 1.0

    def fading(self, layers: int) -> tuple[float, ...]:
        """λ_1 to λ_s in proportion to each other, from the network's input on."""
        return (1.0,) * layers

    @property
    def after_pooling(self) -> bool:
        """Whether its reverse pass begins behind the last pooling, at the features, and not before it."""
        return False

    @property
    def gained(self) -> bool:
        """Whether the reverse pass multiplies every unit by a factor that is trained, before its weights."""
        return False

    @property
    def noise(self) -> float:
        """Of the I_r that the reverse pass begins with, in standard deviations of I_r."""
        return 0.0

    @property
    def whitened(self) -> bool:
        """Whether the input and the regenerated input are compared in directions of equal variance."""
        return False

    @property
    def cost(self) -> float:
        """Expected work of a step over Std's: decides how runs are divided among processes, and the progress bar."""
        return 1.0

    @property
    def needs(self) -> frozenset[Need]:
        """What a study must be able to do to take it, by what the class overrides."""
        asked = {
            Need.LONGER: self.length(2.0) != 1.0,
            Need.REVERSE: bool(self.arguments),
            Need.ARGUMENTS: bool(self.arguments.keys() - {"layers"}),
            Need.DECODER: self.untied,
            Need.REGULARISER: type(self).regulariser is not Method.regulariser,
            Need.RECIPE: type(self).recipe is not Method.recipe,
            Need.SHORTER: type(self).stop is not Method.stop,
            Need.PROJECTOR: type(self).projector is not Method.projector,
            Need.PRETRAINING: type(self).pretraining is not Method.pretraining,
            Need.REMEDY: self.until() != 1.0
            or len(set(self.fading(2))) > 1
            or self.after_pooling
            or self.whitened
            or self.gained
            or self.noise > 0,
            Need.BETWEEN: type(self).between is not Method.between,
        }
        return frozenset(need for need, is_asked in asked.items() if is_asked)

    # --- reports ------------------------------------------------------------------------------------------------------

    def note(self, compute_match: float) -> str:
        """A sentence for beneath a table with its models; "" where its name says it all."""
        return ""


# --- the registry -----------------------------------------------------------------------------------------------------

_registered: list[type[Method]] = []
M = TypeVar("M", bound=Method)


def register(method: type[M]) -> type[M]:
    """Make a method known by its family's name; a class decorator.

    Raises:
        ValueError: it lacks a family or a colour that is written ``#rrggbb``, its family is no name for a folder, or
            another method reads its names.
    """
    if missing := [name for name in ("family", "color") if not hasattr(method, name)]:
        raise ValueError(f"{method.__name__} has no {' and no '.join(missing)}")
    if re.fullmatch("#[0-9a-f]{6}", method.color) is None:
        raise ValueError(f"{method.__name__}'s color must be written #rrggbb, not {method.color!r}")
    family = method.family
    if re.fullmatch(r"[A-Z][A-Za-z0-9]*", family) is None or (method.layered and family[-1].isdigit()):
        raise ValueError(f"{family!r} cannot be a method's name: use letters and digits, a capital first")
    for other in _registered:
        if other.parse(_example(method)) or method.parse(_example(other)):
            raise ValueError(f"{family} is registered already, or its names are read by {other.family}")
    _registered.append(method)
    parse.cache_clear()
    return method


def unregister(method: type[Method]) -> None:
    """Forget a method.

    Raises:
        ValueError: it is not registered.
    """
    _registered.remove(method)
    parse.cache_clear()


def registered() -> tuple[type[Method], ...]:
    """All methods."""
    return tuple(_registered)


@cache
def parse(text: str) -> Method:
    """Read a variant's name in any case, with or without ``^``: ``"Std"``, ``"RR^6"``, ``"rr6-every4"``.

    Raises:
        ValueError: no method has it, with what there is.
    """
    plain = text.strip().lower().replace("^", "")
    for method in _registered:
        if (read := method.parse(plain)) is not None:
            return read
    whole = ", ".join(m.family for m in sorted(_registered, key=lambda m: (m.place, m.family)) if not m.layered)
    layered = " or ".join(m.family for m in _registered if m.layered)
    usage = "".join(f"; {m.family} {m.usage}" for m in _registered if m.usage)
    raise ValueError(
        f"no variant {text!r}: use {whole}, or {layered} with the number of compared layers, e.g. RR6{usage}"
    )


def forms(offers: Iterable[Need], depth: int, besides: tuple[type[Method], ...] = ()) -> str:
    """The names that a study takes, for a message: ``"Std, StdC, RR1 to RR6"``.

    Args:
        offers: which needs the study can meet.
        depth: how many layers it can compare.
        besides: methods that it takes although it cannot meet their needs in general.
    """
    fitting = [m for m in _registered if m in besides or m(int(m.layered)).needs <= frozenset(offers)]
    whole = [m.family for m in fitting if not m.layered]
    return ", ".join([*whole, *(f"{m.family}1 to {m.family}{depth}" for m in fitting if m.layered)])


def _example(method: type[Method]) -> str:
    return method.family.lower() + "1" * method.layered
