"""What the README and the pages of docs show runs and prints that, and what they point to is there."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
ELSEWHERE = (
    "docs/adversarial.md",  # tests/test_adversarial.py
    "docs/distributed.md",  # tests/distributed/test_page.py
    "docs/images-walkthrough.md",  # tests/study/use/test_walkthrough.py
)
# Code, and what stands below it in a block of text: what it prints.
EXAMPLES = [
    pytest.param(name, code, printed, id=f"{name}-{number}")
    for name, text in PAGES.items()
    if name not in ELSEWHERE
    for number, (code, printed) in enumerate(
        re.findall(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.parametrize(("name", "code", "printed"), EXAMPLES)
def test_example_runs(name: str, code: str, printed: str, capsys) -> None:
    for library in ("timm", "torchvision"):
        if re.search(rf"^import .*\b{library}\b", code, re.MULTILINE) and not importlib.util.find_spec(library):
            pytest.skip(f"{library} is not installed")
    exec(compile(code, name, "exec"), {"__name__": "readme"})
    if printed:
        assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == printed.splitlines()


def test_the_readme_is_short_and_prints() -> None:
    assert len(PAGES["README.md"].split()) <= 900
    assert [example.values[2] for example in EXAMPLES if example.values[0] == "README.md"] != [""]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", PAGES[name], flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target.read_text(encoding="utf-8")), link


def headings(text: str) -> list[str]:
    """The anchors that GitHub gives to a page's headings."""
    return [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    ]
