"""Every framework in one process and in two, with accumulation: the step of a plain loop with the whole batch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import TESTS, finish, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loops")
    process = start(TESTS / "integrations" / "loops.py", folder=folder)
    process.wait(timeout=300)
    finish(process, said="\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in folder.glob("*.txt")))
    return folder


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("loop", ["accelerate", "lightning", "trainer", "trainer-loss"])
def test_a_divided_batch_gives_the_step_of_the_whole(folder, loop, processes) -> None:
    whole = load_file(folder / "whole.safetensors")
    for rank in range(processes):
        found = load_file(folder / f"{loop}-{processes}-rank{rank}.safetensors")
        assert found.keys() == whole.keys()
        for name in whole:
            torch.testing.assert_close(found[name], whole[name], rtol=0, atol=1e-6)


def test_the_step_is_not_that_of_the_loss_without_the_penalty(folder) -> None:
    without, whole = load_file(folder / "without.safetensors"), load_file(folder / "whole.safetensors")
    assert max(float((without[name] - whole[name]).abs().max()) for name in whole) > 0.01
