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
    started = {name: start(EXAMPLES / f"{name}.py", "--steps", str(STEPS), folder=folder) for name in LOOPS}
    found = {}
    for name, process in started.items():
        lines = finish(process).splitlines()  # transformers adds a line of its own
        found[name] = [float(line) for line in lines if re.fullmatch(r"\d+\.\d{8}", line)]
    return found


def test_every_script_of_the_folder_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {*LOOPS, "digits"}


def test_the_network_learns(losses) -> None:
    assert len(losses["plain"]) == STEPS
    assert losses["plain"][-1] < losses["plain"][0] / 2


@pytest.mark.parametrize("name", LOOPS[1:])
def test_all_loops_give_the_same_losses(losses, name) -> None:
    assert losses[name] == pytest.approx(losses["plain"], rel=0, abs=1e-6)
