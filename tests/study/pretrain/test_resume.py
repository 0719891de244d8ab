"""A training stopped after any step and restored from its file ends with the same weights and history."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from racecar.study.classification.batches import InMemory, Normalisation
from racecar.study.classification.recipe import Recipe
from racecar.study.classification.training import Trainer
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.checkpoints import Progress
from racecar.study.core.files import read_tensors, write_tensors
from racecar.study.images.decoded import Images
from racecar.study.pretrain.mirror import Mirror


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_stopped_after_any_step(tmp_path: Path, optimiser, channels_last: bool) -> None:
    import small_nets

    draw = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (11, 3, 8, 8), generator=draw, dtype=torch.uint8), torch.arange(11) % 3, ("x", "y", "z")
    )
    normalisation = Normalisation.of(images)
    recipe = Recipe(epochs=2, batch_size=4, optimiser=optimiser, learning_rate=1e-2, augmentation="flip-crop")

    def trainer() -> Trainer:
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        model = small_nets.net(3).to(memory_format=layout)
        objective = Mirror().objective(model, normalisation(images.pixels[:4]))
        return Trainer(
            objective, recipe, InMemory(images, images, normalisation, channels_last), seed=0,
            accelerator=Accelerator(),
        )  # fmt: skip

    whole = trainer()
    assert whole.run()
    for steps in range(1, whole.total):
        first, second = trainer(), trainer()
        count = itertools.count(1)
        kept: list[Progress] = []
        assert not first.run(
            Callbacks(save=kept.append, save_every=1e9, stop=lambda: next(count) == steps)  # noqa: B023
        )
        assert len(kept) == 1
        write_tensors(tmp_path / "state.safetensors", kept[0].tensors)
        metadata = json.loads(json.dumps(kept[0].metadata))
        second.restore(Progress(read_tensors(tmp_path / "state.safetensors"), metadata))
        assert second.step == steps
        assert second.run()
        for name, value in whole.objective.model.state_dict().items():
            assert torch.equal(value, second.objective.model.state_dict()[name]), (steps, name)
        assert [replace(p, seconds=0) for p in second.history] == [replace(p, seconds=0) for p in whole.history]
