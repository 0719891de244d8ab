"""What two processes compute for the cells of docs/distributed.md: a script of its own, which forks.

Every cell gives gradients (or other tensors) by name; both processes write theirs: ``rank0.safetensors``, …
"""

import contextlib
import copy
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch._export
import torch.distributed as dist
import torch.fx.experimental.symbolic_shapes
from processes import together
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import racecar

CELLS: dict[str, Callable[[], dict[str, Tensor]]] = {}
WEIGHT = {"mean": 2.0, "sum": 1e-3}  # both make the penalty's gradient as large as the cross entropy's
BATCH = 8


def cell(function: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    CELLS[function.__name__] = function
    return function


def net(norm: bool = False, *, short: bool = False) -> nn.Sequential:
    """Table 9's shape, small; with ``norm`` with batch norm; ``short`` by a layer, for what is compiled."""
    torch.manual_seed(0)
    blocks = [
        [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
        for i, o in ((1, 4), (4, 6), (6, 6))
    ]
    model = nn.Sequential(
        *blocks[0], nn.MaxPool2d(2), *blocks[1], *([] if short else blocks[2]), nn.Flatten(), nn.Linear(6 * 16, 3)
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def data() -> tuple[Tensor, Tensor]:
    """The whole batch; its halves differ in mean and contrast, so that statistics of one are not those of both."""
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 1, 8, 8, generator=draw)
    images[BATCH // 2 :] = images[BATCH // 2 :] * 2 + 1
    return images, torch.arange(BATCH) % 3


def share(*sizes: int) -> tuple[Tensor, Tensor]:
    """This process's part of the batch: half, or of these sizes."""
    images, labels = data()
    parts = list(sizes) or [BATCH // 2] * 2
    rank = dist.get_rank()
    return images.split(parts)[rank], labels.split(parts)[rank]


def mirrored(model: nn.Module, reduction: Any = "mean", **options: Any) -> racecar.Racecar:
    return racecar.Racecar(model, data()[0][:2], weight=WEIGHT[reduction], reduction=reduction, **options)


@functools.cache
def derived(reduction: str, norm: bool, short: bool) -> racecar.Racecar:
    return mirrored(net(norm, short=short), reduction)


def ready(reduction: str = "mean", *, norm: bool = False, short: bool = False) -> racecar.Racecar:
    """A new one without deriving it again."""
    return copy.deepcopy(derived(reduction, norm, short))


def whole(gradient: Tensor) -> Tensor:
    return (gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone()


def gradients(rr: nn.Module) -> dict[str, Tensor]:
    """Of the plain model, all of them."""
    found = {}
    for name, p in rr.model.named_parameters():
        assert p.grad is not None, name
        found[name] = whole(p.grad)
    return found


def decoder_gradients(rr: nn.Module) -> dict[str, Tensor]:
    """Of an untied decoder, whose biases and last layer the reverse pass does not use."""
    return {f"decoder.{n}": whole(p.grad) for n, p in rr.decoder.named_parameters() if p.grad is not None}


def step(called: nn.Module, images: Tensor, labels: Tensor, factor: float = 1.0, divisor: float = 1.0) -> Tensor:
    output, penalty = called(images)
    (cross_entropy(output.float(), labels) / divisor + penalty * factor / divisor).backward()
    return penalty.detach()


@contextlib.contextmanager
def bf16() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


# --- DDP --------------------------------------------------------------------------------------------------------------


@cell
def ddp_mean() -> dict[str, Tensor]:
    rr = ready()
    step(DistributedDataParallel(rr), *share())
    return gradients(rr)


@cell
def ddp_sum() -> dict[str, Tensor]:
    rr = ready("sum")
    step(DistributedDataParallel(rr), *share(), factor=dist.get_world_size())
    return gradients(rr)


@cell
def ddp_sum_without_a_factor() -> dict[str, Tensor]:
    rr = ready("sum")
    step(DistributedDataParallel(rr), *share())
    return gradients(rr)


def uneven(reduction: str) -> dict[str, Tensor]:
    rr = ready(reduction)
    images, labels = share(5, 3)
    part = len(images) * dist.get_world_size() / BATCH
    parallel = DistributedDataParallel(rr)
    output, penalty = parallel(images)
    factor = part if reduction == "mean" else dist.get_world_size()
    (cross_entropy(output, labels) * part + penalty * factor).backward()
    return gradients(rr)


@cell
def ddp_uneven_mean() -> dict[str, Tensor]:
    return uneven("mean")


@cell
def ddp_uneven_sum() -> dict[str, Tensor]:
    return uneven("sum")


def ddp_accumulated(reduction: str) -> dict[str, Tensor]:
    rr = ready(reduction)
    parallel = DistributedDataParallel(rr)
    images, labels = share()
    steps = 2
    factor = steps * dist.get_world_size() if reduction == "sum" else 1
    with parallel.no_sync():
        step(parallel, images[:2], labels[:2], factor, steps)
    step(parallel, images[2:], labels[2:], factor, steps)
    return gradients(rr)


@cell
def ddp_accumulation_mean() -> dict[str, Tensor]:
    return ddp_accumulated("mean")


@cell
def ddp_accumulation_sum() -> dict[str, Tensor]:
    return ddp_accumulated("sum")


@cell
def ddp_bf16() -> dict[str, Tensor]:
    rr = ready()
    with bf16():
        penalty = step(DistributedDataParallel(rr), *share())
    assert penalty.dtype is torch.float32
    return gradients(rr)


@cell
def ddp_bf16_accumulation() -> dict[str, Tensor]:
    with bf16():
        return ddp_accumulated("sum")


@cell
def ddp_compile() -> dict[str, Tensor]:
    rr = ready(short=True)
    step(DistributedDataParallel(torch.compile(rr, backend="aot_eager", fullgraph=True)), *share())
    return gradients(rr)


@cell
def compile_ddp() -> dict[str, Tensor]:
    rr = ready("sum", short=True)
    step(torch.compile(DistributedDataParallel(rr), backend="aot_eager"), *share(), factor=dist.get_world_size())
    return gradients(rr)


@cell
def ddp_bf16_compile() -> dict[str, Tensor]:
    rr = ready(short=True)
    with bf16():
        step(DistributedDataParallel(torch.compile(rr, backend="aot_eager", fullgraph=True)), *share())
    return gradients(rr)


@cell
def ddp_decoder() -> dict[str, Tensor]:
    rr = mirrored(net(), decoder=net())
    step(DistributedDataParallel(rr, find_unused_parameters=True), *share())
    return gradients(rr) | decoder_gradients(rr)


@cell
def ddp_reconstruct() -> dict[str, Tensor]:
    rr = ready()
    step(DistributedDataParallel(rr), *share())
    with torch.no_grad():
        pairs = rr.reconstruct(data()[0])
    return {f"{name}.{i}": t for name, pair in pairs.items() for i, t in enumerate(pair)}


@cell
def ddp_join() -> dict[str, Tensor]:
    """The first process has two batches, the second one: it is asked no more than DDP asks it."""
    rr = mirrored(net(), every=1)
    parallel = DistributedDataParallel(rr)
    images, labels = share()
    with Join([parallel]):
        for _ in range(2 - dist.get_rank()):
            step(parallel, images, labels)
    found = gradients(rr)
    for gradient in found.values():
        dist.broadcast(gradient, 0)  # the other process has none of the last step
    return found


@cell
def ddp_every() -> dict[str, Tensor]:
    rr = mirrored(net(), every=2)
    parallel = DistributedDataParallel(rr)
    for _ in range(3):
        step(parallel, *share())
    return gradients(rr)


@cell
def ddp_evaluation() -> dict[str, Tensor]:
    parallel = DistributedDataParallel(ready()).eval()
    return {"output": parallel(data()[0]).detach()}


# --- batch norm -------------------------------------------------------------------------------------------------------


@cell
def ddp_batch_norm() -> dict[str, Tensor]:
    rr = ready(norm=True)
    step(DistributedDataParallel(rr), *share())
    return gradients(rr)


def synchronised(rr: racecar.Racecar) -> racecar.Racecar:
    """The same with SyncBatchNorm: after DDP was made, which takes such layers on GPUs alone."""
    nn.SyncBatchNorm.convert_sync_batchnorm(rr.model)
    return rr


def state(rr: nn.Module) -> dict[str, Tensor]:
    return gradients(rr) | {f"buffer.{n}": b.clone() for n, b in rr.model.named_buffers()}


def ddp_synchronised(**options: Any) -> dict[str, Tensor]:
    rr = mirrored(net(norm=True), **options)
    parallel = DistributedDataParallel(rr)
    synchronised(rr)
    step(parallel, *share())
    return state(rr)


@cell
def ddp_sync_batch_norm() -> dict[str, Tensor]:
    return ddp_synchronised()


@cell
def ddp_sync_batch_norm_shared() -> dict[str, Tensor]:
    return ddp_synchronised(norm_statistics="shared", input_range="paper")


@cell
def ddp_sync_batch_norm_decoder() -> dict[str, Tensor]:
    rr = mirrored(net(norm=True), decoder=net(norm=True))
    parallel = DistributedDataParallel(rr, find_unused_parameters=True)
    synchronised(rr)
    step(parallel, *share())
    return state(rr)


@cell
def ddp_sync_batch_norm_uneven() -> dict[str, Tensor]:
    rr = ready("sum", norm=True)
    parallel = DistributedDataParallel(rr)
    synchronised(rr)
    images, labels = share(5, 3)
    world = dist.get_world_size()
    output, penalty = parallel(images)
    (cross_entropy(output, labels, reduction="sum") * world / BATCH + penalty * world).backward()
    return state(rr)


@cell
def ddp_sync_batch_norm_bf16() -> dict[str, Tensor]:
    with bf16():
        return ddp_synchronised()


@cell
def ddp_sync_batch_norm_compile() -> dict[str, Tensor]:
    rr = ready(norm=True, short=True)
    parallel = DistributedDataParallel(torch.compile(rr, backend="aot_eager", fullgraph=True))
    synchronised(rr)
    with torch.no_grad():
        rr(share()[0])  # compiled code goes on with the palindrome of the last plain call
    step(parallel, *share())
    return gradients(rr)


@cell
def ddp_sync_batch_norm_of_a_group() -> dict[str, Tensor]:
    """Each process is a group of its own: statistics are not shared, gradients are."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    rr = ready(norm=True)
    parallel = DistributedDataParallel(rr)
    nn.SyncBatchNorm.convert_sync_batchnorm(rr.model, groups[dist.get_rank()])
    step(parallel, *share())
    return gradients(rr)


@cell
def sync_batch_norm_alone() -> dict[str, Tensor]:
    """Reconstruction in evaluation mode by one process: nobody waits for the other."""
    rr = synchronised(ready(norm=True))
    rr.eval()
    if dist.get_rank() == 0:
        rr.reconstruct(data()[0])
    return {}


# --- FSDP2 ------------------------------------------------------------------------------------------------------------


def sharded(rr: nn.Module, **options: Any) -> Any:
    fully_shard(rr, **options)
    assert all(isinstance(p, DTensor) for p in rr.parameters())
    return rr


@cell
def fsdp_mean() -> dict[str, Tensor]:
    rr = sharded(ready())
    step(rr, *share())
    return gradients(rr)


@cell
def fsdp_sum() -> dict[str, Tensor]:
    rr = sharded(ready("sum"))
    step(rr, *share(), factor=dist.get_world_size())
    return gradients(rr)


def fsdp_accumulated(reduction: str) -> dict[str, Tensor]:
    rr = sharded(ready(reduction))
    images, labels = share()
    factor = 2 * dist.get_world_size() if reduction == "sum" else 1
    rr.set_requires_gradient_sync(False)
    step(rr, images[:2], labels[:2], factor, 2)
    rr.set_requires_gradient_sync(True)
    step(rr, images[2:], labels[2:], factor, 2)
    return gradients(rr)


@cell
def fsdp_accumulation_mean() -> dict[str, Tensor]:
    return fsdp_accumulated("mean")


@cell
def fsdp_accumulation_sum() -> dict[str, Tensor]:
    return fsdp_accumulated("sum")


@cell
def fsdp_bf16() -> dict[str, Tensor]:
    rr = sharded(ready())
    with bf16():
        step(rr, *share())
    return gradients(rr)


@cell
def fsdp_bf16_parameters() -> dict[str, Tensor]:
    rr = sharded(ready(), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    penalty = step(rr, *share())
    assert penalty.dtype is torch.float32
    return gradients(rr)


@cell
def fsdp_compile() -> dict[str, Tensor]:
    rr = sharded(ready(short=True))
    step(torch.compile(rr, backend="aot_eager"), *share())
    return gradients(rr)


@cell
def fsdp_bf16_compile() -> dict[str, Tensor]:
    rr = sharded(ready(short=True))
    with bf16():
        step(torch.compile(rr, backend="aot_eager"), *share())
    return gradients(rr)


@cell
def fsdp_decoder() -> dict[str, Tensor]:
    rr = sharded(mirrored(net(), decoder=net()))
    step(rr, *share())
    return gradients(rr) | decoder_gradients(rr)


@cell
def fsdp_batch_norm() -> dict[str, Tensor]:
    rr = sharded(ready(norm=True))
    step(rr, *share())
    return gradients(rr)


@cell
def fsdp_sync_batch_norm() -> dict[str, Tensor]:
    rr = sharded(synchronised(ready(norm=True)))
    step(rr, *share())
    return state(rr)


@cell
def fsdp_sync_batch_norm_bf16() -> dict[str, Tensor]:
    rr = sharded(synchronised(ready(norm=True)))
    with bf16():
        step(rr, *share())
    return gradients(rr)


@cell
def fsdp_sync_batch_norm_compile() -> dict[str, Tensor]:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net(norm=True, short=True))
    rr = sharded(mirrored(model))
    step(torch.compile(rr, backend="aot_eager"), *share())
    return state(rr)


@cell
def fsdp_reconstruct() -> dict[str, Tensor]:
    rr = sharded(ready())
    register_fsdp_forward_method(rr, "reconstruct")
    return {f"{name}.{i}": t.detach() for name, pair in rr.reconstruct(data()[0]).items() for i, t in enumerate(pair)}


@cell
def fsdp_reconstruct_unregistered() -> dict[str, Tensor]:
    rr = sharded(ready())
    return {f"{name}.{i}": t.detach() for name, pair in rr.reconstruct(data()[0]).items() for i, t in enumerate(pair)}


@cell
def fsdp_evaluation() -> dict[str, Tensor]:
    rr = sharded(ready()).eval()
    return {"output": rr(data()[0]).detach()}


@cell
def fsdp_before() -> dict[str, Tensor]:
    model = net()
    fully_shard(model[3])
    rr = sharded(mirrored(model))
    step(rr, *share())
    return gradients(rr)


@cell
def ddp_turns_apart() -> dict[str, Tensor]:
    rr = mirrored(net(), every=3)
    rr.calls = dist.get_rank()
    return refused(lambda: step(DistributedDataParallel(rr), *share()))


@cell
def fsdp_turns_apart() -> dict[str, Tensor]:
    rr = sharded(mirrored(net(), every=3))
    rr.calls = dist.get_rank()
    return refused(lambda: step(rr, *share()))


@cell
def ddp_decoder_unfound() -> dict[str, Tensor]:
    rr = mirrored(net(), decoder=net(), every=2)
    return refused(lambda: step(DistributedDataParallel(rr), *share()))


@cell
def ddp_frozen_later() -> dict[str, Tensor]:
    rr = ready()
    parallel = DistributedDataParallel(rr)
    step(parallel, *share())
    rr.model[0].requires_grad_(False)
    return refused(lambda: step(parallel, *share()))


@cell
def ddp_join_and_sync_batch_norm() -> dict[str, Tensor]:
    rr = ready(norm=True)
    parallel = DistributedDataParallel(rr)
    synchronised(rr)

    def do() -> None:
        with Join([parallel]):
            step(parallel, *share())

    return refused(do)


def not_finite_on_the_second(called: nn.Module) -> dict[str, Tensor]:
    """Both processes stop, and the second says why."""
    images, labels = share()
    if dist.get_rank():
        images[0] = float("nan")
    found = ""
    try:
        step(called, images, labels)
    except racecar.NonFiniteError as error:
        found = str(error)
    assert found, "not reported"
    assert ("another process" in found) == (dist.get_rank() == 0), found
    return {"raised": torch.ones(1)}


@cell
def ddp_not_finite() -> dict[str, Tensor]:
    rr = ready()
    return not_finite_on_the_second(DistributedDataParallel(rr))


@cell
def fsdp_not_finite() -> dict[str, Tensor]:
    rr = ready()
    for layer in (rr.model[0], rr.model[3]):
        fully_shard(layer)
    return not_finite_on_the_second(sharded(rr))


@cell
def racecar_of_ddp() -> dict[str, Tensor]:
    return refused(lambda: mirrored(DistributedDataParallel(net())))


# --- both processes ---------------------------------------------------------------------------------------------------


def run(rank: int) -> None:
    warnings.simplefilter("error")
    # torch.compile makes an instance of an autograd.Function that it traces, and is told not to.
    warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
    dist.init_process_group("gloo")
    for name, compute in CELLS.items():
        save_file({k: v.contiguous() for k, v in compute().items()}, f"{name}-{rank}.safetensors")
        dist.barrier()
        torch._dynamo.reset()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)  # so that there are no threads that would not survive the fork
    for options in itertools.product(WEIGHT, (False, True), (False, True)):
        derived(*options)  # once, before the processes part
    with torch.no_grad():
        torch.compile(nn.Identity(), backend="aot_eager")(torch.ones(1))  # imports what compiling needs
    torch._dynamo.reset()
    raise SystemExit(max(map(abs, together(2, run))))
