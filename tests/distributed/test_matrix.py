"""The support matrix of docs/distributed.md: what two processes compute is what one computes with the whole batch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import racecar

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have written what they computed."""
    folder = tmp_path_factory.mktemp("matrix")
    paths = [str(HERE.parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(
        [sys.executable, str(HERE / "cells.py")],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    said = "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in folder.glob("*.txt"))
    assert result.returncode == 0, result.stderr + said
    return folder


@pytest.fixture
def computed(folder: Path) -> Callable[[str], dict[str, Tensor]]:
    """Tensors of a cell, after a look that both processes have the same ones."""

    def read(name: str) -> dict[str, Tensor]:
        ours, theirs = (load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2))
        assert ours
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), f"the processes differ in {key}"
        return ours

    return read


def message(tensors: dict[str, Tensor]) -> str:
    return bytes(tensors["message"].tolist()).decode()


# --- one process ------------------------------------------------------------------------------------------------------
# Nets, data and λ are those of cells.py, imported from there where they do not matter to the comparison.


def one(
    cells: Any, reduction: str = "mean", *, norm: bool = False, part: slice = slice(None), with_penalty: bool = True,
    autocast: bool = False, short: bool = False, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients and buffers after one plain step of one process."""
    images, labels = (t[part] for t in cells.data())
    if options:
        rr = cells.mirrored(cells.net(norm, short=short), reduction, **options)
    else:
        rr = cells.ready(reduction, norm=norm, short=short)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output, penalty = rr(images)
        loss = cross_entropy(output.float(), labels)
        (loss + penalty if with_penalty else loss).backward()
    found = {n: p.grad for n, p in rr.model.named_parameters()}
    if rr.decoder is not None:
        found |= {f"decoder.{n}": p.grad for n, p in rr.decoder.named_parameters() if p.grad is not None}
    return found | {f"buffer.{n}": b for n, b in rr.model.named_buffers()}


def difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest of what both have; all gradients have to be there."""
    common = left.keys() & right.keys()
    assert {k for k in left if not k.startswith("buffer.")} <= common
    return max(float((left[k] - right[k]).abs().max()) for k in common)


def relative(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """‖left − right‖ / ‖right‖ of all gradients together."""
    gap, size = (torch.stack([d.float().norm() for d in ds]).norm() for ds in (
        [left[k].float() - right[k].float() for k in left], [right[k] for k in left],
    ))  # fmt: skip
    return float(gap / size)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("norm", [False, True])
def test_the_penalty_matters_to_the_gradients_that_are_compared(cells, reduction, norm) -> None:
    whole, without = (one(cells, reduction, norm=norm, with_penalty=p) for p in (True, False))
    assert difference(whole, without) > 0.05
    assert difference(whole, one(cells, reduction, norm=norm, part=slice(4))) > 0.05


@pytest.mark.parametrize(
    ("cell", "reduction"),
    [
        *(("ddp_" + c, c.rpartition("_")[2]) for c in ("mean", "sum", "uneven_mean", "uneven_sum")),
        *(("ddp_accumulation_" + r, r) for r in ("mean", "sum")),
        *(("fsdp_" + r, r) for r in ("mean", "sum")),
        *(("fsdp_accumulation_" + r, r) for r in ("mean", "sum")),
        ("ddp_compile", "mean"),
        ("compile_ddp", "sum"),
        ("fsdp_compile", "mean"),
        ("fsdp_before", "mean"),
    ],
)
def test_gradients_are_those_of_one_process(cells, computed, cell, reduction) -> None:
    assert difference(computed(cell), one(cells, reduction, short="compile" in cell)) < 1e-5


def test_without_the_factor_a_sum_counts_half_as_much_in_two_processes(cells, computed) -> None:
    found, whole, without = (
        computed("ddp_sum_without_a_factor"), one(cells, "sum"), one(cells, "sum", with_penalty=False)
    )  # fmt: skip
    assert difference(found, {k: (whole[k] + without[k]) / 2 for k in whole}) < 1e-5
    assert difference(found, whole) > 0.02


def test_turns_without_a_reverse_pass(cells, computed) -> None:
    rr = cells.mirrored(cells.net(), every=2)
    for _ in range(3):
        cells.step(rr, *cells.data())
    assert difference(computed("ddp_every"), {n: p.grad for n, p in rr.model.named_parameters()}) < 1e-5


def test_a_process_without_data_left_is_not_waited_for(cells, computed) -> None:
    halves = [one(cells, part=p) for p in (slice(4), slice(4, 8))]
    # DDP shares what has been accumulated, and divides by both processes where the first one is alone too.
    expected = {k: ((halves[0][k] + halves[1][k]) / 2 + halves[0][k]) / 2 for k in halves[0]}
    assert difference(computed("ddp_join"), expected) < 1e-5


@pytest.mark.parametrize("cell", ["ddp_decoder", "fsdp_decoder"])
def test_an_untied_decoder(cells, computed, cell) -> None:
    found = computed(cell)
    assert any(k.startswith("decoder.") for k in found)
    assert difference(found, one(cells, decoder=cells.net())) < 1e-5


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulation_in_one_process(cells, reduction) -> None:
    rr = cells.mirrored(cells.net(), reduction)
    images, labels = cells.data()
    for part in (slice(4), slice(4, 8)):
        output, penalty = rr(images[part])
        loss = cross_entropy(output, labels[part]) / 2
        (loss + (penalty if reduction == "sum" else penalty / 2)).backward()
    assert difference({n: p.grad for n, p in rr.model.named_parameters()}, one(cells, reduction)) < 1e-5


# --- bfloat16 ---------------------------------------------------------------------------------------------------------
# Sums over a batch are rounded elsewhere when it is divided: as close to one process in bfloat16 as that is to float32.


@pytest.mark.parametrize(
    ("cell", "reduction", "norm"),
    [
        ("ddp_bf16", "mean", False),
        ("ddp_bf16_accumulation", "sum", False),
        ("ddp_bf16_compile", "mean", False),
        ("ddp_sync_batch_norm_bf16", "mean", True),
        ("fsdp_bf16", "mean", False),
        ("fsdp_bf16_parameters", "mean", False),
        ("fsdp_bf16_compile", "mean", False),
        ("fsdp_sync_batch_norm_bf16", "mean", True),
    ],
)
def test_bfloat16_differs_by_its_rounding_alone(cells, computed, cell, reduction, norm) -> None:
    found = {k: v for k, v in computed(cell).items() if not k.startswith("buffer.")}
    single, exact = (
        one(cells, reduction, norm=norm, autocast=a, short="compile" in cell) for a in (True, False)
    )  # fmt: skip
    assert relative(found, single) < 0.03
    assert relative(found, exact) < 0.03
    assert relative(found, exact) > 1e-4, "nothing was rounded"


# --- batch norm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["ddp_batch_norm", "fsdp_batch_norm", "ddp_sync_batch_norm_of_a_group"])
def test_plain_batch_norm_takes_each_processs_own_statistics(cells, computed, cell) -> None:
    found, halves = computed(cell), [one(cells, norm=True, part=p) for p in (slice(4), slice(4, 8))]
    assert difference(found, {k: (halves[0][k] + halves[1][k]) / 2 for k in found}) < 1e-5
    assert difference(found, one(cells, norm=True)) > 0.05


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("ddp_sync_batch_norm", {}),
        ("ddp_sync_batch_norm_uneven", {"reduction": "sum"}),
        ("ddp_sync_batch_norm_shared", {"norm_statistics": "shared", "input_range": "paper"}),
        ("ddp_sync_batch_norm_compile", {}),
        ("fsdp_sync_batch_norm", {}),
        ("fsdp_sync_batch_norm_compile", {}),
    ],
)
def test_synchronised_batch_norm_is_batch_norm_of_one_process(cells, computed, cell, options) -> None:
    assert difference(computed(cell), one(cells, norm=True, short="compile" in cell, **options)) < 1e-5


def test_synchronised_batch_norm_with_an_untied_decoder(cells, computed) -> None:
    found = computed("ddp_sync_batch_norm_decoder")
    assert difference(found, one(cells, norm=True, decoder=cells.net(norm=True))) < 1e-5


def test_one_process_reconstructs_alone_in_evaluation_mode(folder) -> None:
    assert (folder / "sync_batch_norm_alone-0.safetensors").exists()


def test_without_other_processes_synchronised_batch_norm_is_batch_norm(cells) -> None:
    plain, converted = cells.net(norm=True), nn.SyncBatchNorm.convert_sync_batchnorm(cells.net(norm=True))
    images, _ = cells.data()
    results = [cells.mirrored(model)(images) for model in (plain, converted)]
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)
    for left, right in zip(plain.buffers(), converted.buffers(), strict=True):
        assert torch.equal(left, right)
    assert "forward" not in vars(converted[1])  # deriving has left the layer as it was


def test_a_parametrised_synchronised_batch_norm(cells) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    plain, converted = cells.net(norm=True), nn.SyncBatchNorm.convert_sync_batchnorm(cells.net(norm=True))
    for model in (plain, converted):
        nn.utils.parametrize.register_parametrization(model[1], "weight", Doubled())
    images, _ = cells.data()
    for left, right in zip(cells.mirrored(plain)(images), cells.mirrored(converted)(images), strict=True):
        assert torch.equal(left, right)


# --- beside training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["ddp_reconstruct", "fsdp_reconstruct", "fsdp_reconstruct_unregistered"])
def test_reconstruction(cells, computed, cell) -> None:
    with torch.no_grad():
        found = cells.mirrored(cells.net()).reconstruct(cells.data()[0])
    pairs = {f"{name}.{i}": t for name, pair in found.items() for i, t in enumerate(pair)}
    assert difference(computed(cell), pairs) < 1e-5


@pytest.mark.parametrize("cell", ["ddp_evaluation", "fsdp_evaluation"])
def test_evaluation(cells, computed, cell) -> None:
    with torch.no_grad():
        assert difference(computed(cell), {"output": cells.net()(cells.data()[0])}) < 1e-5


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("ddp_turns_apart", ["0 calls behind", "another 1", "rr.calls"]),
        ("fsdp_turns_apart", ["0 calls behind", "another 1", "rr.calls"]),
        ("ddp_decoder_unfound", ["untied decoder", "find_unused_parameters=True"]),
        ("ddp_frozen_later", ["'0.weight' was frozen", "wrap again"]),
        ("ddp_join_and_sync_batch_norm", ["Join with SyncBatchNorm", "throw_on_early_termination"]),
        ("racecar_of_ddp", ["DistributedDataParallel(racecar.Racecar(model, ...))"]),
    ],
)
def test_what_cannot_work_is_one_clear_error(computed, cell, words) -> None:
    said = message(computed(cell))
    assert "\n" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize("cell", ["ddp_not_finite", "fsdp_not_finite"])
def test_what_is_not_finite_on_one_process_stops_all(computed, cell) -> None:
    assert computed(cell)["raised"] == 1


def test_data_parallel_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(racecar.ArgumentError, match="the model is a DataParallel"):
        racecar.Racecar(nn.DataParallel(model), torch.rand(2, 4))
    with pytest.raises(racecar.ArgumentError, match="start a process per GPU"):
        racecar.Racecar(model, torch.rand(2, 4))._replicate_for_data_parallel()  # what it calls first, on GPUs alone
