"""docs/distributed.md: its examples run, and every cell of its matrix names tests that are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
LAYERS = re.search(r"^\| \| two processes.*?\n\n", TEXT, re.DOTALL | re.MULTILINE)[0]
MATRIX = re.search(r"^\| \| one process.*?\n\n", TEXT, re.DOTALL | re.MULTILINE)[0]


@pytest.fixture(scope="module")
def collected() -> list[str]:
    files = [
        *(f"tests/distributed/test_{name}.py" for name in ("matrix", "layers")),
        *(f"tests/{name}.py" for name in ("reverse/test_palindrome", "test_module", "test_decoder", "test_every")),
    ]
    options = ["--collect-only", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return [line.partition("::")[2] for line in result.stdout.splitlines() if "::" in line]


def test_every_cell_names_tests_that_are_there(collected) -> None:
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in MATRIX.strip().splitlines()[2:]]
    assert len(rows) > 10
    for name, *cells in rows:
        assert len(cells) == 3
        assert any(cells), name
        for cell in filter(None, cells):
            cases = re.findall(r"`(\w+)`", cell)
            assert cases or cell == "what the others are compared with", (name, cell)
            for case in cases:
                assert any(re.search(rf"(\[|-){case}(\]|-)|^{case}", node) for node in collected), (name, case)


def test_every_case_of_layers_is_there_and_in_the_page(collected) -> None:
    named = set(re.findall(r"`(\d-\w+|bf16\w*)`", LAYERS))
    cases = {match[1] for node in collected if (match := re.search(r"\[([24]-\w+)\]", node))}
    assert {name for name in named if name[0].isdigit()} == cases
    assert {"bf16", "bf16_checkpoint", "bf16_weights"} <= named
    for test in re.findall(r"`(test_\w+)`", LAYERS):
        assert test in collected


def test_every_case_is_in_the_page(collected) -> None:
    cases = {match[1] for node in collected if (match := re.search(r"\[((?:ddp|fsdp|compile)_\w+)", node))}
    refused = {
        "ddp_turns_apart", "fsdp_turns_apart", "ddp_decoder_unfound", "ddp_frozen_later",
        "ddp_join_and_sync_batch_norm",
    }  # fmt: skip
    assert cases - refused <= set(re.findall(r"`(\w+)`", MATRIX))
    assert cases > refused


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", TEXT))))
def test_example_runs(number: int) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[number]
    exec(compile(code, f"distributed.md, example {number + 1}", "exec"), {"__name__": "page"})


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
