"""Every mistake gets one error of the right type that says what is wrong, where, and what to do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar
from racecar import ArgumentError, ExportError, IrreversibleError, NonFiniteError, Racecar, RuleError


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def vectors() -> Tensor:
    return torch.randn(4, 6)


def cnn() -> nn.Module:
    model = nn.Sequential()
    for i, channels in enumerate((3, 4)):
        model.add_module(f"conv{i}", nn.Conv2d(channels, 4, 3))
        model.add_module(f"relu{i}", nn.ReLU())
    return model.append(nn.Flatten()).append(nn.Linear(64, 2))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


class Sorting(nn.Module):
    """Operations that nobody can reverse, in several modules, twice in one."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumprod(torch.cumprod(self.layer(x), 1), 0)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = self.Encoder(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.logcumsumexp(self.encoder(x), 1))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(-x if x.sum() > 0 else x)


class SizeFromValues(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + torch.zeros(int(x.max()) + 7).sum()


class WithCache(Branch):
    class Cache:
        """As Hugging Face's DynamicCache."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        return self.a(x), self.Cache()


class ChangedByData(Branch):
    """As codebooks are, that follow their codes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.ema.data.mul_(0.9).add_(h.detach().mean(0))
        return h * self.ema


class Condition(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda v: -v, lambda v: v.clone(), (self.a(x),))


class ViewsChanged(Branch):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.unsqueeze(0).unsqueeze(0)
        y.relu_()
        return self.a(z)


class TwoToTwo(nn.Module):
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(x)

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inner(x)
        return a + b


def hooked(model: nn.Module, name: str, kind: str = "register_forward_hook") -> nn.Module:
    getattr(model.get_submodule(name), kind)(lambda *args: None)
    return model


def pruned() -> nn.Module:
    model = mlp()
    nn.utils.prune.l1_unstructured(model[2], "weight", 0.5)
    return model


def spectral() -> nn.Module:
    model = mlp()
    nn.utils.spectral_norm(model[0])
    return model


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what people load
        return torch.jit.script(model)


def quantised(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model)


# what is done, the type of the error, words it must contain, in this order
CONSTRUCTION: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # operations
    "no rule": (
        lambda: Racecar(Sorting(), vectors()),
        IrreversibleError,
        r"aten.cumprod.default in module 'encoder' | aten.logcumsumexp.default in module '\(the model itself\)' "
        r"| racecar.register_reverse | start=",
    ),
    # layers
    "unknown layer": (
        lambda: Racecar(cnn(), images(), layers=["conv_1"]),
        ArgumentError,
        "no layer is called 'conv_1' | nearest | 'conv1'",
    ),
    "unknown layer, a string": (
        lambda: Racecar(Sorting(), vectors(), layers="encodr.layer"),
        ArgumentError,
        "no layer is called 'encodr.layer' | 'encoder.layer'",
    ),
    "nothing alike": (
        lambda: Racecar(cnn(), images(), layers="zzzzzzz"),
        ArgumentError,
        "no layer is called 'zzzzzzz' | 'conv0', 'conv1'",
    ),
    "layers=0": (lambda: Racecar(cnn(), images(), layers=0), ArgumentError, "layers=0 | 1 ≤ s ≤ 2"),
    "layers=-1": (lambda: Racecar(cnn(), images(), layers=-1), ArgumentError, "layers=-1 | 1 ≤ s ≤ 2"),
    "layers=3": (lambda: Racecar(cnn(), images(), layers=3), ArgumentError, "layers=3 | 1 ≤ s ≤ 2"),
    "layers=True": (lambda: Racecar(cnn(), images(), layers=True), ArgumentError, "layers must be | not True"),
    "layers=1.0": (lambda: Racecar(cnn(), images(), layers=1.0), ArgumentError, "layers must be | not 1.0"),
    "layers=[]": (lambda: Racecar(cnn(), images(), layers=[]), ArgumentError, "layers is empty | at least one"),
    "no convolution": (
        lambda: Racecar(mlp(), vectors(), layers="conv"),
        ArgumentError,
        "no convolution | layers='all'",
    ),
    "nothing to mirror": (
        lambda: Racecar(nn.Sequential(nn.ReLU()), vectors()),
        ArgumentError,
        "nothing can be mirrored | linear or convolution",
    ),
    "only unused layers": (
        lambda: Racecar(nn.Embedding(5, 3), torch.zeros(4, dtype=torch.long)),
        ArgumentError,
        "nothing can be mirrored",
    ),
    # start
    "unknown start": (
        lambda: Racecar(Sorting(), vectors(), start="encodr"),
        ArgumentError,
        "no module | 'encodr' | nearest | 'encoder'",
    ),
    "start too early": (
        lambda: Racecar(cnn(), images(), layers=["conv0", "conv1"], start="relu0"),
        ArgumentError,
        "'conv1' | after the start | later start=",
    ),
    # weight
    "λ too many": (
        lambda: Racecar(cnn(), images(), weight=[1, 2, 3]),
        ArgumentError,
        "weight | 3 | 2 layers | one λ each",
    ),
    "λ in two dimensions": (
        lambda: Racecar(cnn(), images(), weight=torch.ones(1, 2)),
        ArgumentError,
        "weight | 1 × 2 | 2 layers",
    ),
    "λ < 0": (lambda: Racecar(cnn(), images(), weight=[1, -1]), ArgumentError, "weight | not negative | -1"),
    "λ NaN": (lambda: Racecar(cnn(), images(), weight=float("nan")), ArgumentError, "weight | finite | nan"),
    "λ inf": (lambda: Racecar(cnn(), images(), weight=float("inf")), ArgumentError, "weight | finite | inf"),
    "λ a word": (lambda: Racecar(cnn(), images(), weight="big"), ArgumentError, "weight must be a number | 'big'"),
    "λ words": (lambda: Racecar(cnn(), images(), weight=["1", "2"]), ArgumentError, "weight must be a number"),
    "λ None": (lambda: Racecar(cnn(), images(), weight=None), ArgumentError, "weight must be a number | None"),
    "λ a dict": (lambda: Racecar(cnn(), images(), weight={"conv0": 1.0}), ArgumentError, "weight must be a number"),
    # other options
    "reduction": (
        lambda: Racecar(cnn(), images(), reduction="avg"),
        ArgumentError,
        "reduction | 'mean' or 'sum' | 'avg'",
    ),
    "input_range": (
        lambda: Racecar(cnn(), images(), input_range="relu"),
        ArgumentError,
        "input_range | 'paper' or a function | 'relu'",
    ),
    "input_range fails": (
        lambda: Racecar(cnn(), images(), input_range=lambda x: x @ x.new_zeros(5, 5)),
        ArgumentError,
        r"input_range failed | \(4, 3, 8, 8\)",
    ),
    "input_range of another shape": (
        lambda: Racecar(cnn(), images(), input_range=lambda x: x[:1]),
        ArgumentError,
        "input_range | shape",
    ),
    "norm_statistics": (
        lambda: Racecar(cnn(), images(), norm_statistics="both"),
        ArgumentError,
        "norm_statistics | 'separate' or 'shared' | 'both'",
    ),
    # model and example
    "a function": (lambda: Racecar(F.relu, images()), ArgumentError, "model must be a torch.nn.Module | function"),
    "a class": (lambda: Racecar(nn.Linear, images()), ArgumentError, "model must be a torch.nn.Module | type"),
    "another device": (
        lambda: Racecar(cnn(), images().to("meta")),
        ArgumentError,
        r"example input is on meta | weights are on cpu | example.to\('cpu'\)",
    ),
    "weights and example without values": (
        lambda: Racecar(cnn().to("meta"), images().to("meta")),
        ArgumentError,
        "example input is on the meta device | where the model will run",
    ),
    "called without values": (
        lambda: Racecar(cnn().to("meta"), images())(images()),
        ArgumentError,
        r"'conv0' | weight on the meta device | to_empty\(device=",
    ),
    "a buffer without values": (
        lambda: Racecar(mlp().append(nn.BatchNorm1d(3, affine=False, device="meta")), vectors())(vectors()),
        ArgumentError,
        "'3' | running_mean on the meta device",
    ),
    "lazy": (lambda: Racecar(nn.Sequential(nn.LazyLinear(3)), vectors()), ArgumentError, "'0' | lazy | call the model"),
    "scripted": (
        lambda: Racecar(scripted(mlp()), vectors()),
        ArgumentError,
        "the model is compiled by torch.jit | before torch.jit.script",
    ),
    "scripted inside": (
        lambda: Racecar(nn.Sequential(scripted(mlp()), nn.Linear(3, 2)), vectors()),
        ArgumentError,
        "module '0' of the model is compiled by torch.jit",
    ),
    "quantised": (
        lambda: Racecar(quantised(mlp()), vectors()),
        ArgumentError,
        "module '0' of the model is quantised | before quantisation",
    ),
    "no input": (lambda: Racecar(cnn(), ()), ArgumentError, "example_inputs | missing | 'input'"),
    "no tensor": (lambda: Racecar(cnn(), (3,)), ArgumentError, "example_inputs holds no tensor | tuple"),
    "a word": (lambda: Racecar(cnn(), "images"), ArgumentError, "example_inputs must be a tensor | not str"),
    "a wrong keyword": (
        lambda: Racecar(cnn(), {"image": images()}),
        ArgumentError,
        r"example_inputs do not fit Sequential.forward\(input\) | 'input'",
    ),
    "wrong shape": (
        lambda: Racecar(mlp(), torch.randn(4, 5)),
        ExportError,
        r"Sequential fails | \(4, 5\) | the model itself runs",
    ),
    "branch on values": (
        lambda: Racecar(Branch(), vectors()),
        ExportError,
        r"could not trace Branch | branches on the values of a tensor | torch.where | test_errors.py, line \d+ | x.sum",
    ),
    "a size from values": (
        lambda: Racecar(SizeFromValues(), vectors()),
        ExportError,
        r"takes a size from them | as a number | test_errors.py, line \d+ | int\(x.max",
    ),
    "a cache": (
        lambda: Racecar(WithCache(), vectors()),
        ExportError,
        "could not trace WithCache | no nest of tensors | use_cache = False",
    ),
    "changed beside the graph": (
        lambda: Racecar(ChangedByData(), vectors()),
        ExportError,
        r"could not trace ChangedByData | .data | torch.no_grad\(\)",
    ),
    "cond": (lambda: Racecar(Condition(), vectors()), ExportError, "cond | cannot mirror | without"),
    "in place under a view": (
        lambda: Racecar(ViewsChanged(), vectors()),
        ExportError,
        "aten.relu_.default | in place | without the in-place",
    ),
    # hooks
    "backward hook": (
        lambda: Racecar(hooked(cnn(), "conv0", "register_full_backward_hook"), images()),
        ArgumentError,
        "'conv0' | backward hooks | remove them | Tensor.register_hook",
    ),
    "backward pre-hook": (
        lambda: Racecar(hooked(mlp(), "", "register_full_backward_pre_hook"), vectors()),
        ArgumentError,
        "'Sequential' | backward hooks",
    ),
    "hook on two outputs": (
        lambda: Racecar(hooked(TwoToTwo(), "inner"), vectors()),
        ArgumentError,
        "'inner' | 1 input and 2 output | module inside",
    ),
    "hook on nothing": (
        lambda: Racecar(hooked(nn.Sequential(nn.Linear(6, 6), nn.Identity()), "1"), vectors()),
        ArgumentError,
        "'1' | no operation | never run | remove",
    ),
    "pruning": (lambda: Racecar(pruned(), vectors()), ArgumentError, "'2' | weight in a hook | prune.remove"),
    "old spectral norm": (lambda: Racecar(spectral(), vectors()), ArgumentError, "'0' | hook | parametrizations"),
}


def check(error: BaseException, words: str) -> None:
    message = str(error)
    place = 0
    for word in words.split(" | "):
        found = re.search(word.strip(), message[place:])
        assert found, f"{word!r} is not in the rest of: {message}"
        place += found.end()
    assert not message.startswith(" ")
    assert "\n\n" not in message
    assert "FakeTensor" not in message


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.cond's own
@pytest.mark.parametrize("case", CONSTRUCTION)
def test_construction(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    wrong, kind, words = CONSTRUCTION[case]
    with pytest.raises(kind) as caught:
        wrong()
    assert capfd.readouterr() == ("", "")  # no page of graph before the one error
    assert type(caught.value) is kind
    assert isinstance(caught.value, racecar.RacecarError)
    check(caught.value, words)


def test_every_operation_without_a_rule_is_listed_once() -> None:
    with pytest.raises(IrreversibleError) as caught:
        Racecar(Sorting(), vectors())
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "aten.cumprod.default",
        "aten.logcumsumexp.default",
    ]


def test_argument_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="reduction"):
        Racecar(mlp(), vectors(), reduction="max")


@pytest.mark.parametrize("case", ["no rule", "branch", "later"])
def test_the_model_is_left_as_it_was(case: str) -> None:
    model: nn.Module = Branch() if case == "branch" else Sorting()
    model.register_buffer("seen", torch.zeros(()))
    model.register_forward_hook(hook := lambda *args: None)
    next(model.children()).eval()
    x = vectors()
    before = {n: m.training for n, m in model.named_modules()}
    keys, names, state = list(model.state_dict()), sorted(model.__dict__), torch.get_rng_state()
    with pytest.raises(racecar.RacecarError):
        Racecar(model, x, layers=7) if case == "later" else Racecar(model, x)
    assert {n: m.training for n, m in model.named_modules()} == before
    assert list(model.state_dict()) == keys
    assert sorted(model.__dict__) == names
    assert list(model._forward_hooks.values()) == [hook]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# --- calls ------------------------------------------------------------------------------------------------------------


CALLS: dict[str, tuple[Callable[[Racecar], Any], type[Exception], str]] = {
    "too many": (
        lambda rr: rr(vectors(), vectors()),
        ArgumentError,
        "2 positional | had 1 positional | same arguments",
    ),
    "none": (lambda rr: rr(), ArgumentError, "0 positional arguments | had 1 positional argument"),
    "unknown keyword": (lambda rr: rr(y=vectors()), ArgumentError, "keywords 'y' | had 1 positional"),
    "nested": (lambda rr: rr([vectors()]), ArgumentError, "called with 1 positional | nested"),
    "another width": (lambda rr: rr(torch.randn(4, 5)), ExportError, r"\(4, 5\) | the model itself runs"),
    "reconstruct": (lambda rr: rr.reconstruct(vectors(), 1), ArgumentError, "2 positional | had 1"),
}


@pytest.mark.parametrize("case", CALLS)
def test_call(case: str) -> None:
    wrong, kind, words = CALLS[case]
    rr = Racecar(mlp(), vectors())
    with pytest.raises(kind) as caught:
        wrong(rr)
    assert type(caught.value) is kind
    check(caught.value, words)
    assert rr(vectors())[1] > 0  # and the next call is none the worse


def nan_in_a_weight(model: nn.Module, x: Tensor) -> None:
    model[2].weight.data[0, 0] = torch.nan


def huge_weights(model: nn.Module, x: Tensor) -> None:
    model[0].weight.data.fill_(1e30)


def nan_in_the_input(model: nn.Module, x: Tensor) -> None:
    x[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nan_in_a_weight, r"'2\.weight' of the model"),
        (nan_in_the_input, "its input is not"),
        (huge_weights, "reverse pass grew | layer '0' | weight="),
    ],
)
def test_a_penalty_that_is_not_finite_names_what_was_first(spoil: Callable[..., None], words: str) -> None:
    model, x = mlp(), vectors()
    rr = Racecar(model, x)
    spoil(model, x)
    with pytest.raises(NonFiniteError) as caught:
        rr(x)
    check(caught.value, words)


def test_a_forward_pass_that_overflows_is_not_laid_to_the_reverse_pass() -> None:
    model, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), torch.ones(3, 6)
    rr = Racecar(model, x)
    for parameter in model.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(NonFiniteError, match="the model's own output"):
        rr(x)


def test_without_a_penalty_nothing_stops() -> None:
    model, x = mlp(), vectors()
    rr = Racecar(model, x, weight=0.0)
    model[0].weight.data.fill_(1e30)
    rr(x)


def test_an_empty_batch_has_no_penalty() -> None:
    rr = Racecar(mlp(), vectors())
    output, penalty = rr(vectors()[:0])
    assert output.shape[0] == 0
    assert penalty.item() == 0


def test_reweighted_checks_its_lambdas() -> None:
    rr = Racecar(cnn(), images())
    with pytest.raises(ArgumentError, match="3 values, but 2 layers"):
        rr.reweighted([1.0, 2.0, 3.0])


# --- rules ------------------------------------------------------------------------------------------------------------


class Cumulative(nn.Module):
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(x, 1)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner, self.b = nn.Linear(6, 6), self.Inner(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.inner(self.a(x)))


@pytest.fixture
def registry() -> Iterator[None]:
    """Rules that a test registers are gone after it."""
    from racecar.rules import registry

    saved = dict(registry._RULES)
    yield
    registry._RULES.clear()
    registry._RULES.update(saved)


def fails(estimate: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    raise RuntimeError("no way back")


RULES: dict[str, tuple[Callable[..., Any], str]] = {
    "wrong shape": (
        lambda e, x, dim, **k: e[:, :2],
        r"aten.cumsum.default in module 'inner' | \(4, 2\) | \(4, 6\)",
    ),
    "nothing": (lambda e, x, dim, **k: None, "aten.cumsum.default in module 'inner' | None"),
    "too many": (lambda e, x, dim, **k: (e, e), "aten.cumsum.default in module 'inner' | 2 estimates for 1"),
    "raises": (fails, "rule fails of aten.cumsum.default in module 'inner' failed | no way back"),
    "wrong signature": (lambda e: e, "aten.cumsum.default in module 'inner' failed | positional argument"),
}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("case", RULES)
def test_a_wrong_rule_names_its_node(case: str) -> None:
    rule, words = RULES[case]
    racecar.register_reverse(torch.ops.aten.cumsum.default, rule)
    with pytest.raises(RuleError) as caught:
        Racecar(Cumulative(), vectors())
    assert type(caught.value) is RuleError
    check(caught.value, words)


@pytest.mark.usefixtures("registry")
def test_a_right_rule_is_enough() -> None:
    racecar.register_reverse(torch.ops.aten.cumsum.default, lambda e, x, dim, **k: e.flip(1).cumsum(1).flip(1))
    assert Racecar(Cumulative(), vectors())(vectors())[1] > 0


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("op", "words"),
    [
        (torch.ops.aten.cumsum, "aten.cumsum has several overloads .*default.* name one, e.g. aten.cumsum.default"),
        (nn.ReLU, "needs an operation such as torch.ops.aten.relu.default, not <class"),
        ("relu", "needs an operation such as torch.ops.aten.relu.default, not 'relu'"),
    ],
)
def test_registering_what_is_no_operation(op: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        racecar.register_reverse(op, fails)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reverse": 3}, "must be a function"),
        ({"reverse": lambda e, x: e, "layer": "convolution"}, "layer must be"),
        ({"reverse": lambda e, x: e, "range": "thru"}, "range must be"),
    ],
)
def test_register_reverse_refuses_wrong_arguments(arguments, words) -> None:
    with pytest.raises(TypeError, match=words):
        racecar.register_reverse(torch.ops.aten.lgamma.default, **arguments)


def _failing(estimate, *args):
    raise ValueError("no such range")


@pytest.mark.parametrize(
    ("range_map", "words"),
    [
        (_failing, "no such range"),
        (lambda e, *args: e[:1], "must keep the shape"),
        (lambda e, *args: None, "must keep"),
    ],
)
def test_a_wrong_range_map_names_the_operation(range_map, words) -> None:
    class Digamma(torch.nn.Module):
        def forward(self, x):
            return torch.digamma(x)

    racecar.register_reverse(torch.ops.aten.digamma.default, lambda e, x: e, range=range_map)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), Digamma(), torch.nn.Linear(4, 2))
    with pytest.raises(racecar.RuleError, match=words) as caught:
        racecar.Racecar(model, torch.randn(5, 3))
    assert "aten.digamma.default in module '1'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"start": 2}, "start must be the name"), ({"input_range": lambda e: None}, "input_range must keep the shape")],
)
def test_wrong_start_and_input_range(options, words) -> None:
    with pytest.raises(racecar.ArgumentError, match=words):
        racecar.Racecar(torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.randn(5, 3), **options)
