"""The site of docs: it builds without a warning, every public name is in it, and so is every page."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPHINX = all(
    importlib.util.find_spec(name) for name in ("sphinx", "furo", "myst_nb", "sphinx_design", "sphinx_copybutton")
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not SPHINX:
        pytest.skip('the site needs pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    words = ("--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", "docs", "--builder", "html", ".", str(out))
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("module", ["racecar", "racecar.analysis", "racecar.study"])
def test_every_public_name_is_described(site: Path, module: str) -> None:
    page = (site / "docs" / "api" / f"{module.rpartition('.')[2]}.html").read_text(encoding="utf-8")
    for name in importlib.import_module(module).__all__:
        assert f'id="{module}.{name}"' in page, name


@pytest.mark.slow
def test_every_page_is_built(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT).with_suffix(".html")).exists(), page


def test_every_public_name_is_on_a_page() -> None:
    for module in ("racecar", "racecar.study"):
        page = (ROOT / "docs" / "api" / f"{module.rpartition('.')[2]}.md").read_text(encoding="utf-8")
        named = re.findall(rf"^\.\. auto\w+:: {re.escape(module)}\.(\w+)$", page, re.MULTILINE)
        assert sorted(named) == sorted(importlib.import_module(module).__all__)


def test_no_property_begins_with_what_is_read_as_its_type() -> None:
    """Napoleon takes what stands before a colon in the first line of a property's docstring for its type."""
    for name in ("racecar", "racecar.analysis", "racecar.study"):
        module = importlib.import_module(name)
        for public in (getattr(module, each) for each in module.__all__):
            for attribute, value in vars(public).items() if isinstance(public, type) else ():
                if isinstance(value, property):
                    first = (value.__doc__ or "").partition("\n")[0]
                    assert ": " not in re.sub(r"``.*?``", "", first), f"{public.__name__}.{attribute}"
