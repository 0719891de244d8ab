"""The examples run as scripts, and one task gives one sequence of losses in every loop."""

import re

import pytest

from .conftest import TESTS, finish, start

EXAMPLES = TESTS.parent / "examples"
LOOPS = ["plain", "accelerate_loop", "lightning_module", "trainer"]
STEPS = 12


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("examples")
    scripts = [str(EXAMPLES / f"{name}.py") for name in LOOPS]
    process = start(TESTS / "integrations" / "scripts.py", "--steps", str(STEPS), "--", *scripts, folder=folder)
    process.wait(timeout=300)
    said = {name: (folder / f"{name}.txt").read_text() for name in LOOPS if (folder / f"{name}.txt").exists()}
    finish(process, said="\n".join(f"{name}:\n{text[-3000:]}" for name, text in said.items()))
    # transformers adds a line of its own
    return {n: [float(line) for line in re.findall(r"^\d+\.\d{8}$", text, re.M)] for n, text in said.items()}


def test_every_script_of_the_folder_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {*LOOPS, "digits"}


def test_the_network_learns(losses) -> None:
    assert len(losses["plain"]) == STEPS
    assert losses["plain"][-1] < losses["plain"][0] / 2


@pytest.mark.parametrize("name", LOOPS[1:])
def test_all_loops_give_the_same_losses(losses, name) -> None:
    assert losses[name] == pytest.approx(losses["plain"], rel=0, abs=1e-6)
