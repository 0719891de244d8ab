"""Training of many runs together: one ensemble per group of runs that take the same number of epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from racecar import Ensemble
from racecar.analysis import information_plane
from racecar.srip import spectral_distance
from racecar.study.core.callbacks import Callbacks, Timer
from racecar.study.core.checkpoints import Progress
from racecar.study.core.methods.srip import Ort
from racecar.study.core.variants import Run
from racecar.study.mutual_information.config import MutualInformationConfig, Training
from racecar.study.mutual_information.data import accuracy, labels, patterns, split
from racecar.study.mutual_information.network import WIDTHS, network
from racecar.study.mutual_information.saturation import saturation

LAYERS = len(WIDTHS) - 1
SAVE_EVERY = 10.0  # seconds at most: the whole study takes minutes


def snapshot_epochs(epochs: int, points: int) -> list[int]:
    """Epochs at which a run is measured: 0, then evenly on a logarithmic scale up to the last."""
    exponents = torch.linspace(0, 1, points - 1, dtype=torch.float64)
    return sorted({0, epochs, *(round(epochs**e) for e in exponents.tolist())})


@dataclass
class Group:
    """Runs in training, all at the same epoch; the first dimension of every tensor is the run.

    Attributes:
        runs: those with a reverse pass first.
        epochs: how many in all.
        weights: name → [runs, …].
        moments: Adam's ``exp_avg`` and ``exp_avg_sq``: ``"exp_avg/<name>"`` → [runs, …].
        steps: of Adam so far.
        epoch: how many are done.
        history: per snapshot: epoch, test accuracy [runs], training loss [runs], information [runs, 6, 2] in bits, and
            what :func:`.saturation` says of the outputs [runs].
    """

    runs: list[Run]
    epochs: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    epoch: int = 0
    history: list[dict[str, Tensor]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Everything as flat tensors, to be saved."""
        flat = {f"weights/{k}": v for k, v in self.weights.items()}
        flat |= {f"moments/{k}": v for k, v in self.moments.items()}
        for i, point in enumerate(self.history):
            flat |= {f"history/{i}/{k}": v for k, v in point.items()}
        return flat | {"counts": torch.tensor([self.epoch, self.steps, self.epochs, len(self.history)])}

    def progress(self) -> Progress:
        """The state to be saved, with the names of its runs."""
        return Progress(self.tensors(), {"runs": [r.key for r in self.runs]})

    @classmethod
    def restore(cls, state: Progress) -> Group:
        """The inverse of :meth:`progress`.

        Raises:
            StudyError: a state of something else, or one that lacks something.
        """
        flat = state.tensors

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}

        with state.restored():
            runs = [Run.parse(k) for k in state.metadata["runs"]]
            epoch, steps, epochs, points = flat["counts"].tolist()
            history = [part(f"history/{i}/") for i in range(points)]
            group = cls(runs, epochs, part("weights/"), part("moments/"), steps, epoch, history)
            group._check()
        return group

    def _check(self) -> None:
        """Whether a saved state is whole."""
        count, shapes = len(self.runs), {k: tuple(v.shape) for k, v in network().state_dict().items()}
        if not 0 <= self.epoch <= self.epochs or self.steps < 0:
            raise ValueError(f"epoch {self.epoch} of {self.epochs}")
        if {k: tuple(v.shape) for k, v in self.weights.items()} != {k: (count, *s) for k, s in shapes.items()}:
            raise ValueError("weights are missing, or those of another network")
        kinds = ("exp_avg", "exp_avg_sq") if self.steps else ()
        moments = {f"{kind}/{k}": (count, *s) for k, s in shapes.items() for kind in kinds}
        if {k: tuple(v.shape) for k, v in self.moments.items()} != moments:
            raise ValueError("moments are missing, or there are too many")
        for point in self.history:
            if any(len(point[k]) != count for k in ("accuracy", "loss", "information")) or point["epoch"].numel() != 1:
                raise ValueError("a snapshot is of other runs")

    def select(self, keep: Sequence[int]) -> Group:
        """The group's state for some of its runs alone."""
        rows = torch.tensor(list(keep), dtype=torch.long)
        points = [{k: v if k == "epoch" else v[rows] for k, v in point.items()} for point in self.history]
        return Group(
            [self.runs[i] for i in keep],
            self.epochs,
            {k: v[rows] for k, v in self.weights.items()},
            {k: v[rows] for k, v in self.moments.items()},
            self.steps,
            self.epoch,
            points,
        )


def criterion(softmax: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy of the tanh outputs [batch, 2] with one-hot targets [2, batch].

    The classes come first, so that the batch stays contiguous, and the targets are one-hot, which spares a gather.
    """

    def once(output: Tensor, target: Tensor) -> Tensor:
        return -(output.t().log_softmax(0) * target).sum(0).mean()

    def twice(output: Tensor, target: Tensor) -> Tensor:
        return -(output.t().softmax(0).log_softmax(0) * target).sum(0).mean()

    return twice if softmax == "twice" else once


class _Data:
    """What each run of a group sees, laid out with the patterns contiguous: [runs, 12, patterns] under the hood."""

    def __init__(self, runs: Sequence[Run], config: MutualInformationConfig) -> None:
        self.training = config.training
        seeds = sorted({r.seed for r in runs})
        bits = patterns() if config.training.coding == "01" else patterns() * 2 - 1
        self.all = bits
        self.row = torch.tensor([seeds.index(r.seed) for r in runs])
        parts = [split(config.protocol, s) for s in seeds]
        self.seeds = seeds
        self.train = torch.stack([p.train for p in parts])
        flipped = torch.tensor([r.task == "B" for r in runs]).unsqueeze(1)
        self.labels = torch.where(flipped, 1 - labels(), labels())  # [runs, 4096]
        self.test = torch.stack([p.test for p in parts])[self.row]
        self.bits_t = bits.t().contiguous()
        self._fixed: tuple[Tensor, Tensor] | None = None

    def epoch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs [runs, 3277, 12] and one-hot labels [runs, 2, 3277] in this epoch's order."""
        if self.training.order == "fixed":
            if self._fixed is None:
                self._fixed = self._gather(self.train)
            return self._fixed
        order = []
        for seed, train in zip(self.seeds, self.train, strict=True):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            order.append(train[torch.randperm(len(train), generator=generator)])
        return self._gather(torch.stack(order))

    def _gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.bits_t[:, index.flatten()].view(12, *index.shape).transpose(0, 1)  # [seeds, 12, patterns]
        labels = self.labels.gather(1, index[self.row])
        return inputs[self.row].transpose(1, 2), torch.stack([1 - labels, labels], 1).float()


class _Srip:
    """Eq. 2 for the Ort runs of a group: the six weight matrices padded to one size, one power iteration for all."""

    def __init__(self, runs: Sequence[Run], training: Training) -> None:
        self.training = training
        self.members = [i for i, r in enumerate(runs) if isinstance(r.variant.method, Ort) and r.path == "A"]
        self.seeds = [runs[i].seed for i in self.members]
        self.size = len(runs)
        self.mask = torch.zeros(LAYERS, max(WIDTHS))
        for m in range(LAYERS):
            self.mask[m, : WIDTHS[m]] = 1

    def starts(self, epoch: int, batches: int) -> Tensor:
        """Random start vectors of an epoch's power iterations, [batches, Ort runs, 6, 12]."""
        drawn = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch + 500_000)
            drawn.append(torch.randn(batches, LAYERS, max(WIDTHS), generator=generator))
        return torch.stack(drawn, 1) * self.mask

    def __call__(self, weights: dict[str, Tensor], start: Tensor) -> Tensor:
        first, last = self.members[0], self.members[-1] + 1
        padded = []
        for m in range(1, LAYERS + 1):
            w = weights[f"fc{m}.weight"][first:last]
            padded.append(F.pad(w, (0, max(WIDTHS) - w.shape[2], 0, max(WIDTHS[1:]) - w.shape[1])))
        sigma = spectral_distance(torch.stack(padded, 1), start)
        penalty = self.training.ort_weight * (sigma.square() if self.training.ort_squared else sigma).sum(1)
        return F.pad(penalty, (first, self.size - last))


def order_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs with a reverse pass first, then the Ort ones together: what the ensemble can share is contiguous."""

    def place(run: Run) -> tuple[object, ...]:
        method = run.variant.method
        return run.path != "A", not method.depth, not isinstance(method, Ort), run.variant, run.phase, run.seed

    return sorted(runs, key=place)


def train_group(group: Group, config: MutualInformationConfig, callbacks: Callbacks) -> Group:
    """Train a group to its last epoch, or until it is asked to stop.

    Args:
        group: the state to continue from; ``runs`` in the order of :func:`order_runs`.
        config: the study's.
        callbacks: ``advance`` is told of epochs × networks; ``stop`` is asked before every epoch.

    Returns:
        The group's last state; ``epoch < epochs`` if it was stopped.
    """
    training = config.training
    net = network()
    ensemble = Ensemble(
        [net] * len(group.runs),
        torch.zeros(2, 12),
        weights=[_lambdas(r, training.weight) for r in group.runs],
        layers="all",
        reduction="sum",
        input_range="paper",
    )
    parameters = {name: p for name, p in ensemble.stacked.items() if isinstance(p, torch.nn.Parameter)}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(group.weights[name])
    fused = next(iter(parameters.values())).device.type in ("cpu", "cuda")
    adam = torch.optim.Adam(parameters.values(), lr=training.learning_rate, eps=training.epsilon, fused=fused)
    for name, parameter in parameters.items():
        if group.moments:
            adam.state[parameter] = {
                "step": torch.tensor(float(group.steps)),
                "exp_avg": group.moments[f"exp_avg/{name}"].clone(),
                "exp_avg_sq": group.moments[f"exp_avg_sq/{name}"].clone(),
            }
    data = _Data(group.runs, config)
    srip = _Srip(group.runs, training)
    step = ensemble.gradients(criterion(training.softmax), srip if srip.members else None)
    points = set(snapshot_epochs(group.epochs, config.snapshots))
    history = list(group.history)

    def state(epoch: int) -> Group:
        moments = {
            f"{kind}/{name}": adam.state[p][kind].clone()
            for name, p in parameters.items()
            if p in adam.state
            for kind in ("exp_avg", "exp_avg_sq")
        }
        steps = int(next((s["step"] for s in adam.state.values()), group.steps))
        weights = {name: p.detach().clone() for name, p in parameters.items()}
        return Group(group.runs, group.epochs, weights, moments, steps, epoch, list(history))

    epoch = group.epoch
    if not history:  # a state stopped before its first epoch holds the point of epoch 0 already
        history.append(_measure(ensemble, data, config, 0, torch.full((len(group.runs),), float("nan"))))
    timer = Timer(min(callbacks.save_every, SAVE_EVERY))
    while epoch < group.epochs:
        if callbacks.stop():
            callbacks.save(state(epoch).progress())
            break
        inputs, targets = data.epoch(epoch)
        batches = list(zip(inputs.split(training.batch_size, 1), targets.split(training.batch_size, 2), strict=True))
        if training.remainder == "dropped" and len(batches) > 1 and batches[-1][0].shape[1] < training.batch_size:
            batches.pop()
        starts = srip.starts(epoch, len(batches)) if srip.members else None
        total = torch.zeros(len(group.runs))
        for i, (x, y) in enumerate(batches):
            losses = step(x, y, extras=() if starts is None else (starts[i],))
            adam.step()
            total += losses * x.shape[1]
        epoch += 1
        if epoch in points:
            seen = sum(x.shape[1] for x, _ in batches)
            history.append(_measure(ensemble, data, config, epoch, total / seen))
        callbacks.advance(len(group.runs))
        if timer.due:
            callbacks.save(state(epoch).progress())
            timer.restart()
    return state(epoch)


def _lambdas(run: Run, weight: float) -> list[float]:
    """λ_1 … λ_6: RR^s compares the first s inputs; plain runs have λ = 0 (phase II is always plain)."""
    depth = run.variant.depth if run.path == "A" else 0
    return [weight] * depth + [0.0] * (LAYERS - depth)


def _measure(
    ensemble: Ensemble, data: _Data, config: MutualInformationConfig, epoch: int, loss: Tensor
) -> dict[str, Tensor]:
    """A snapshot: test accuracy; over all 4096 patterns the information plane of every layer's output, saturation."""
    outputs, inputs = ensemble.activations(data.all.expand(ensemble.size, -1, -1))
    answers = outputs.argmax(-1)
    correct = (answers == data.labels).gather(1, data.test)
    planes = []
    for layer in (*inputs[1:], outputs):
        # Swapping the two classes changes no information, so task A's labels serve every run.
        planes.append(torch.stack(information_plane(layer, labels()), -1))
    return {
        "epoch": torch.tensor(epoch),
        "accuracy": accuracy(correct, config.protocol, config.training.batch_size),
        "loss": loss.double(),
        "information": torch.stack(planes, 1).double(),
        **saturation(outputs),
    }
