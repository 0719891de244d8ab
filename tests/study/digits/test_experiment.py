"""Table 9's network and Table 10's hyper-parameters; MNIST itself where it is at hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import racecar
from racecar.study.classification.experiment import ClassificationConfig
from racecar.study.coarse_to_fine import idx
from racecar.study.commands.study import preset
from racecar.study.core.variants import Variant
from racecar.study.digits.experiment import Digits, network


def test_table_9_has_38645_weights_and_a_racecar_step_one_and_a_half_times_the_flops() -> None:
    net = network()
    assert sum(p.numel() for p in net.parameters()) == 38_645
    x, y = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.long)
    rr = racecar.Racecar(net, x, layers=3, input_range="paper")
    counts = []
    for call in (lambda: (net(x), 0.0), lambda: rr(x)):
        with FlopCounterMode(display=False) as counter:
            output, penalty = call()
            (F.cross_entropy(output, y) + penalty).backward()
        counts.append(counter.get_total_flops())
    conv1, conv2, conv3 = 2 * 4 * 9 * 64 * 784, 2 * 4 * 9 * 64 * 64 * 196, 2 * 4 * 9 * 64 * 49
    # Forward, and backward for weights and inputs; the network's input needs no gradient. The reverse pass is as much
    # again with all its gradients, but what is pooled by exactly two is upsampled and transposed in one (4/9 of it).
    plain = 3 * (conv1 + conv2 + conv3) - conv1 + 3 * 2 * 4 * 490
    assert counts == [plain, plain + 3 * (4 * (conv1 + conv2) // 9 + conv3)]
    assert counts[1] / counts[0] == pytest.approx(1.455, abs=0.005)


def test_the_paper_preset_is_table_10() -> None:
    found = preset("digits")
    phases = {"a": found.a, "aa": found.aa, "ab": found.ab, "b": found.b}
    assert {p: (recipe.epochs, recipe.learning_rate) for p, recipe in phases.items()} == {
        "a": (100, 1e-3),
        "aa": (400, 1e-4),
        "ab": (700, 1e-4),
        "b": (700, 1e-4),
    }
    assert found.weight == 1e-5
    assert found.seeds == 5


def test_seeds_give_different_weights_and_the_same_seed_the_same() -> None:
    config = ClassificationConfig()
    first, again, other = (Digits().network(config, 1, 28, 10, s).conv2.weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (Digits().network(config, 1, 28, 10, 0).fc.bias == 0).all()


MNIST = Path(__file__).parents[4] / "shared" / "data" / "mnist"


@pytest.mark.skipif(not MNIST.exists(), reason="needs ../shared/data beside the checkout")
def test_mnist_is_divided_as_in_the_paper_and_blurred_for_task_b(monkeypatch) -> None:
    """Read from its own files, which is done in a second; as parquet `make demo` reads it."""
    monkeypatch.setattr("racecar.study.digits.experiment.train_and_validation", lambda *_, **__: idx.read(MNIST))
    tasks, words = Digits().load("hub", ClassificationConfig(), None)
    whole, _ = idx.read(MNIST)
    assert {n: (len(t.train), len(t.test)) for n, t in tasks.items()} == {"A": (55_000, 10_000), "B": (60_000, 10_000)}
    assert torch.equal(tasks["A"].train.pixels, whole.pixels[5_000:])
    assert torch.equal(tasks["A"].train.labels, whole.labels[5_000:])
    assert tasks["A"].test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.equal(tasks["A"].test.labels, tasks["B"].test.labels)
    assert "made from MNIST" in words["B"]
    # Motion blur takes away contrast along the line and little light.
    assert tasks["B"].test.pixels.float().mean() == pytest.approx(
        tasks["A"].test.pixels.float().mean().item(), rel=0.01
    )
    assert tasks["B"].test.pixels.float().std() < 0.95 * tasks["A"].test.pixels.float().std()


@pytest.mark.parametrize(
    ("variant", "said"),
    [("RR4", "RR4: the network of this study has 3 layers"), ("RR2-subset3", "RR2-subset3: of 2 compared layers no 3")],
)
def test_variants_that_need_more_layers_are_refused(variant: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Digits().check(ClassificationConfig(variants=["Std", variant]))


def test_a_cheaper_variant_is_the_exact_one_with_arguments_of_racecar() -> None:
    config = ClassificationConfig(variants=["RR3", "RR3-every4-layerwise"])
    exact, cheaper = (
        Digits().objective(config, Variant(v), network(width=4), torch.rand(2, 1, 28, 28)).rr.options.as_dict()
        for v in config.variants
    )
    assert cheaper == exact | {"every": 4, "layerwise": True}
    assert exact["layers"] == 3
