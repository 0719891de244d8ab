"""What the README and some pages of docs show runs, and what the README points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = [
    (name, number, code)
    for name in ("README.md", "docs/operations.md", "docs/recurrent.md", "docs/variants.md", "docs/images.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize(("name", "number", "code"), EXAMPLES, ids=[f"{n}-{i}" for n, i, _ in EXAMPLES])
def test_example_runs(name: str, number: int, code: str) -> None:
    exec(compile(code, f"{name}, example {number + 1}", "exec"), {"__name__": "readme"})


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link and not link.startswith("#")]
    assert links
    for link in links:
        assert (ROOT / link.split("#")[0]).exists(), link
