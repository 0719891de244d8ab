"""Layers sharded each for itself (FSDP2): several processes compute what one does, with at most two layers whole."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from racecar import sharded

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have written, and after them four: in ``2`` and ``4``."""
    folder = tmp_path_factory.mktemp("layers")
    paths = [str(HERE.parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(HERE / "layers.py")],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = "\n".join(f"{p}:\n{p.read_text()[-3000:]}" for p in folder.glob("*/*.txt"))
    assert result.returncode == 0, result.stderr + said
    return folder


@pytest.fixture
def computed(folder: Path) -> Callable[[int, str], dict[str, Tensor]]:
    """Tensors of a cell, after a look that all processes have the same ones."""

    def read(processes: int, name: str) -> dict[str, Tensor]:
        found = [load_file(folder / str(processes) / f"{name}-{rank}.safetensors") for rank in range(processes)]
        assert found[0]
        for other in found[1:]:
            assert other.keys() == found[0].keys()
            assert all(torch.equal(found[0][key], other[key]) for key in other)
        return found[0]

    return read


def difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[key] - right[key]).abs().max()) for key in left)


def relative(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """‖left − right‖ / ‖right‖ of all together."""
    assert left.keys() == right.keys()
    gap, size = (torch.cat([(f(k)).flatten() for k in left]).norm() for f in (lambda k: left[k] - right[k], right.get))
    return float(gap / size)


def one(layers: Any, cell: str) -> dict[str, Tensor]:
    """What one process computes with the whole batch."""
    rr = layers.prepared(cell)
    layers.steps(cell, rr, layers.data(layers.CELLS[cell]["model"]))
    return layers.gradients(rr)


@pytest.mark.parametrize(
    ("processes", "cell"),
    [
        *((2, cell) for cell in ("mlp", "conv", "vit", "gpt2", "tied", "whole_model")),
        *(
            (2, cell)
            for cell in ("checkpoint", "both", "every", "subset", "layerwise", "decoder", "accumulation", "frozen")
        ),
        *((4, cell) for cell in ("mlp", "conv", "vit", "gpt2", "hsdp")),
    ],
)
def test_gradients_are_those_of_one_process(layers, computed, processes, cell) -> None:
    expected = one(layers, cell)
    assert max(float(g.abs().max()) for g in expected.values()) > 0.1
    assert difference(computed(processes, cell), expected) < 1e-5


@pytest.mark.parametrize("cell", ["bf16", "bf16_checkpoint", "bf16_weights"])
def test_bfloat16_differs_by_its_rounding_alone(layers, computed, cell) -> None:
    exact = one(layers, {"bf16_weights": "mlp"}.get(cell, "vit"))
    assert 1e-4 < relative(computed(2, cell), exact) < 0.03


def test_the_same_layer_twice_and_layers_that_are_frozen(layers, computed) -> None:
    assert "model.2.weight" not in computed(2, "frozen")
    assert "model.0.weight" in computed(2, "tied")


def test_a_program_for_another_size_is_derived_while_the_weights_are_divided(layers, computed) -> None:
    rr = layers.ready("gpt2")
    layers.loss(*rr(layers.data("gpt2")[:, :5])).backward()
    assert difference(computed(2, "other_sizes"), layers.gradients(rr)) < 1e-5


def test_at_most_two_layers_are_whole(computed) -> None:
    """The one that is read, and the one that is on its way."""
    found = computed(2, "memory")
    assert found["plain"] <= 2
    assert found["checkpoint"] <= 2
    assert found["bf16"] <= 1.1, "half of the bytes, but for the biases"
    assert found["plain"] > 1.5, "nothing is gathered ahead"


def test_no_weight_is_gathered_in_vain(computed) -> None:
    """The backward pass reads fewer of them: neither biases nor what begins the network."""
    found = computed(2, "gatherings")
    assert 0 < found["backward"] < found["forward"]


@pytest.fixture
def one_of_two() -> Iterator[Callable[[], int]]:
    """This process as one of two of which the other is missing: how many collective operations nobody has waited for.

    They give anything.
    """
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield torch._C._distributed_c10d._get_work_registry_size
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}], ids=str)
def test_what_is_gathered_beside_computing_is_waited_for(layers, one_of_two, monkeypatch, options) -> None:
    """As on a GPU; also what was begun for the next operation of a backward pass that ends before."""
    monkeypatch.setattr(sharded, "gathers_beside_computing", lambda device: True)
    rr = layers.ready("mlp", **options)
    layers.shard("mlp", rr)
    penalty = rr(layers.data("mlp")[:4])[1]
    last = rr.model[6].weight
    torch.autograd.grad(penalty, [last], retain_graph=True)
    assert one_of_two() > 0, "nothing is gathered ahead"
    del penalty
    assert one_of_two() == 0


def test_beside_training(layers, computed) -> None:
    rr, x = layers.ready("mlp"), layers.data("mlp")
    pairs = {f"{n}.{i}": t.detach() for n, pair in rr.reconstruct(x).items() for i, t in enumerate(pair)}
    assert difference(computed(2, "reconstruct"), pairs) < 1e-5
    assert difference(computed(2, "evaluation"), {"output": rr.eval()(x).detach()}) < 1e-5


def test_saved_by_two_processes_and_loaded_by_four(layers, computed) -> None:
    before = {n: p.detach() for n, p in layers.ready("mlp").model.named_parameters()}
    saved = computed(2, "saved")
    assert difference(saved, before) > 1e-3, "a step was taken"
    assert difference(computed(4, "loaded"), saved) == 0


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("without_a_root", ["'2.weight' is not", "fully_shard(rr)"]),
        ("tensor_parallel", ["'0.weight'", "tensor parallel"]),
        ("compiled", ["torch.compile", "at its root"]),
    ],
)
def test_what_cannot_work_is_one_clear_error(computed, cell, words) -> None:
    said = bytes(computed(2, cell)["message"].tolist()).decode()
    assert "\n" not in said
    for word in words:
        assert word in said
