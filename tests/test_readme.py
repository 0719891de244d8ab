"""What the README shows runs, and what it points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", TEXT))))
def test_example_runs(number: int) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[number]
    exec(compile(code, f"README.md, example {number + 1}", "exec"), {"__name__": "readme"})


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link and not link.startswith("#")]
    assert links
    for link in links:
        assert (ROOT / link.split("#")[0]).exists(), link
