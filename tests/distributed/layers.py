"""What processes compute with layers that are sharded each for itself: a script of its own, which forks.

Each cell runs in two processes, some in four too; ``2/NAME-RANK.safetensors`` holds whole gradients by name.
"""

import contextlib
import copy
import functools
import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._export
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.fx.experimental.symbolic_shapes
import transformers
from processes import together
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import racecar
from racecar import sharded

BATCH = 8
Layers = Callable[[nn.Module], list[Any]]  # what is sharded for itself: modules, or lists of modules


# --- models, their batches, and what is sharded -----------------------------------------------------------------------


def mlp() -> nn.Module:
    sizes = (12, 16, 13, 16, 5)  # 13 and 5 are divided unevenly
    pairs = [[nn.Linear(i, o), nn.Tanh()] for i, o in itertools.pairwise(sizes)]
    return nn.Sequential(*[layer for pair in pairs for layer in pair])


def conv() -> nn.Module:
    blocks = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        for i, o in ((1, 4), (4, 6), (6, 6))
    ]
    model = nn.Sequential(*blocks[:1], nn.MaxPool2d(2), *blocks[1:], nn.Flatten(), nn.Linear(96, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=1, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def gpt2() -> nn.Module:
    """The head is tied to the embedding: both stay at the root."""
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=8, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def tied() -> nn.Module:
    """One layer twice, sharded for itself."""
    layer = nn.Linear(12, 12)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(12, 5))


def _each(model: nn.Module) -> list[Any]:
    return [m for m in model.children() if next(m.parameters(), None) is not None]


def _encoder(model: nn.Module) -> list[Any]:
    return list(next(m for m in model.modules() if isinstance(m, nn.ModuleList)))


VECTORS, IMAGES, TOKENS = (BATCH, 12), (BATCH, 1, 8, 8), (BATCH, 8)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Layers]] = {
    "mlp": (mlp, VECTORS, _each),
    "conv": (conv, IMAGES, _each),
    "vit": (vit, IMAGES, _encoder),
    "gpt2": (gpt2, TOKENS, _encoder),
    "tied": (tied, VECTORS, lambda model: [model[0]]),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]()


def data(name: str) -> Tensor:
    shape = MODELS[name][1]
    draw = torch.Generator().manual_seed(1)
    if name == "gpt2":
        return torch.randint(0, 20, shape, generator=draw)
    x = torch.rand(shape, generator=draw)
    x[BATCH // 2 :] = 2 * x[BATCH // 2 :] + 1  # the halves differ
    return x


def mirrored(name: str, options: tuple[tuple[str, Any], ...] = ()) -> racecar.Racecar:
    more = dict(options)
    if more.pop("decoder", False):
        more["decoder"] = made(name)
    return racecar.Racecar(made(name), data(name)[:2], weight=2.0, **more)


@functools.cache
def _derived(name: str, options: tuple[tuple[str, Any], ...]) -> racecar.Racecar:
    return mirrored(name, options)


def ready(name: str, **options: Any) -> racecar.Racecar:
    """A new one without deriving it again."""
    return copy.deepcopy(_derived(name, tuple(sorted(options.items()))))


def loss(output: Any, penalty: Tensor) -> Tensor:
    logits = getattr(output, "logits", output)
    return logits.float().square().mean() + penalty


def gradients(rr: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in rr.named_parameters() if p.grad is not None}
    return {n: (g.full_tensor() if isinstance(g, DTensor) else g).clone() for n, g in found.items()}


# --- cells ------------------------------------------------------------------------------------------------------------


CELLS: dict[str, dict[str, Any]] = {
    **{name: {"model": name} for name in MODELS},
    "checkpoint": {"model": "vit", "checkpoint": True},
    "both": {"model": "vit", "checkpoint": "both"},
    "every": {"model": "mlp", "every": 2},
    "subset": {"model": "mlp", "subset": 2},
    "layerwise": {"model": "mlp", "layerwise": True},
    "decoder": {"model": "mlp", "decoder": True},
    "accumulation": {"model": "gpt2"},
    "frozen": {"model": "mlp"},
    "bf16": {"model": "vit"},
    "bf16_checkpoint": {"model": "vit", "checkpoint": True},
    "bf16_weights": {"model": "mlp"},
    "hsdp": {"model": "vit"},
    "whole_model": {"model": "mlp"},
}


def options_of(cell: str) -> dict[str, Any]:
    return {k: v for k, v in CELLS[cell].items() if k != "model"}


def prepared(cell: str) -> racecar.Racecar:
    """As the cell begins, in one process or in several."""
    rr = ready(CELLS[cell]["model"], **options_of(cell))
    if cell == "frozen":
        rr.model[2].requires_grad_(False)
    return rr


def autocast(cell: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=cell in ("bf16", "bf16_checkpoint"))


def steps(cell: str, rr: nn.Module, x: Tensor) -> None:
    """Forward and backward as the cell has it."""
    for part in x.chunk(2) if cell == "accumulation" else [x] * (3 if cell in ("every", "subset") else 1):
        with autocast(cell):
            total = loss(*rr(part))
        (total / 2 if cell == "accumulation" else total).backward()


def shard(cell: str, rr: racecar.Racecar) -> None:
    more: dict[str, Any] = {}
    if cell == "hsdp":
        more["mesh"] = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copies", "parts"))
    if cell == "bf16_weights":
        more["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = MODELS[CELLS[cell]["model"]][2]
    for model in filter(None, (rr.model, rr.decoder)):
        for layer in [model] if cell == "whole_model" else layers(model):
            fully_shard(layer, **more)
    if cell != "whole_model":
        fully_shard(rr, **more)


def compute(cell: str) -> dict[str, Tensor]:
    rr = prepared(cell)
    shard(cell, rr)
    x = data(CELLS[cell]["model"]).chunk(dist.get_world_size())[dist.get_rank()]
    if cell == "accumulation":  # each process its part of either half
        halves = data(CELLS[cell]["model"]).chunk(2)
        x = torch.cat([h.chunk(dist.get_world_size())[dist.get_rank()] for h in halves])
    steps(cell, rr, x)
    return gradients(rr)


# --- beside gradients -------------------------------------------------------------------------------------------------


def reconstruct() -> dict[str, Tensor]:
    rr = ready("mlp")
    shard("mlp", rr)
    return {f"{n}.{i}": t.detach() for n, pair in rr.reconstruct(data("mlp")).items() for i, t in enumerate(pair)}


def evaluation() -> dict[str, Tensor]:
    rr = ready("mlp").eval()
    shard("mlp", rr)
    return {"output": rr(data("mlp")).detach()}


def other_sizes() -> dict[str, Tensor]:
    """A sequence of another length, for which another program is needed."""
    rr = ready("gpt2")
    shard("gpt2", rr)
    x = data("gpt2").chunk(dist.get_world_size())[dist.get_rank()]
    loss(*rr(x[:, :5])).backward()
    return gradients(rr)


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
    """How many bytes of whole weights are there at once: the number at every gathering."""
    alive: dict[int, tuple[Any, int]] = {}
    seen: list[int] = []
    begun = sharded._Gathered.begun

    def watched(self: Any) -> Any:
        coming = begun(self)
        whole = coming.arrived()
        alive[id(whole)] = (weakref.ref(whole), whole.nbytes)
        seen.append(sum(size for ref, size in alive.values() if ref() is not None))
        return coming

    sharded._Gathered.begun = watched  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        sharded._Gathered.begun = begun  # type: ignore[method-assign]


MEMORY: dict[str, dict[str, Any]] = {"plain": {}, "checkpoint": {"checkpoint": True}, "bf16": {}}


@functools.cache
def eight_layers(**options: Any) -> racecar.Racecar:
    """Of one size."""
    model = nn.Sequential(*[m for _ in range(8) for m in (nn.Linear(16, 16), nn.Tanh())])
    return racecar.Racecar(model, torch.rand(4, 16), **options)


def memory() -> dict[str, Tensor]:
    """Eight layers of one size: bytes of whole weights at once, over those of one layer."""
    found = {}
    for name, options in MEMORY.items():
        rr = copy.deepcopy(eight_layers(**options))
        of_one = sum(p.nbytes for p in rr.model[0].parameters())
        for layer in _each(rr.model):
            fully_shard(layer)
        fully_shard(rr)
        with counting() as seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                total = loss(*rr(torch.rand(4, 16)))
            total.backward()
        found[name] = torch.tensor(max(seen) / of_one)
    return found


def gatherings() -> dict[str, Tensor]:
    """How many whole weights the forward and the backward pass of a transformer ask for."""
    rr = ready("vit")
    shard("vit", rr)
    with counting() as seen:
        total = loss(*rr(data("vit")))
        forward = len(seen)
        total.backward()
    return {"forward": torch.tensor(forward), "backward": torch.tensor(len(seen) - forward)}


def saved() -> dict[str, Tensor]:
    """After a step: written here, to be read by another number of processes."""
    rr = ready("mlp")
    shard("mlp", rr)
    optimizer = torch.optim.SGD(rr.parameters(), 0.1)
    steps("mlp", rr, data("mlp").chunk(dist.get_world_size())[dist.get_rank()])
    optimizer.step()
    dcp.save(get_model_state_dict(rr.model), checkpoint_id="checkpoint", no_dist=False)
    return {n: p.full_tensor().detach().clone() for n, p in rr.model.named_parameters()}


def loaded() -> dict[str, Tensor]:
    """What was written by another number of processes."""
    rr = ready("mlp")
    shard("mlp", rr)
    state = get_model_state_dict(rr.model)
    dcp.load(state, checkpoint_id="../2/checkpoint")
    set_model_state_dict(rr.model, state)
    return {n: p.full_tensor().detach().clone() for n, p in rr.model.named_parameters()}


# --- refused ----------------------------------------------------------------------------------------------------------


def without_a_root() -> dict[str, Tensor]:
    rr = ready("mlp")
    fully_shard(rr.model[0])
    return refused(lambda: steps("mlp", rr, data("mlp")))


def tensor_parallel() -> dict[str, Tensor]:
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    rr = ready("mlp")
    parallelize_module(rr.model, init_device_mesh("cpu", (dist.get_world_size(),)), {"0": ColwiseParallel()})
    return refused(lambda: steps("mlp", rr, data("mlp")))


def compiled() -> dict[str, Tensor]:
    rr = ready("mlp")
    shard("mlp", rr)
    return refused(lambda: steps("mlp", torch.compile(rr, backend="eager"), data("mlp")))


BESIDE: dict[int, list[Callable[[], dict[str, Tensor]]]] = {
    2: [reconstruct, evaluation, other_sizes, memory, gatherings, saved, without_a_root, tensor_parallel, compiled],
    4: [loaded],
}
OF_FOUR = ("mlp", "conv", "vit", "gpt2", "hsdp")


def cells_of(processes: int) -> list[str]:
    return [c for c in CELLS if c != "hsdp"] if processes == 2 else list(OF_FOUR)


def run(rank: int) -> None:
    dist.init_process_group("gloo")
    processes = dist.get_world_size()
    work: dict[str, Callable[[], dict[str, Tensor]]] = {c.__name__: c for c in BESIDE[processes]}
    work |= {name: functools.partial(compute, name) for name in cells_of(processes)}
    for name, do in work.items():
        save_file({k: v.contiguous() for k, v in do().items()}, f"{name}-{rank}.safetensors")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)  # so that there are no threads that would not survive the fork
    for cell in CELLS:
        prepared(cell)  # derived once, before the processes part
    for options in MEMORY.values():
        eight_layers(**options)
    with torch.no_grad():
        torch.compile(nn.Identity(), backend="eager")(torch.ones(1))  # imports what compiling needs
    for processes in (2, 4):
        os.mkdir(str(processes))
        os.chdir(str(processes))
        codes = together(processes, run)
        os.chdir("..")
        if any(codes):
            raise SystemExit(f"{processes} processes: {codes}")
