"""What pyproject.toml cannot say: the README as a package index shows it, where relative links lead nowhere."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)  # stays as it is
IMAGE = re.compile(r"!\[([^]]*)\]\((?!https?:)([^)]*)\)")
LINK = re.compile(r"\[([^]]+)\]\((?!https?:|mailto:)([^)]*)\)")
TAG = re.compile(r"<img\b(?![^>]*\bsrc=\"https?:)[^>]*>")


def shown(text: str, source: str | None) -> str:
    """The README with links that work anywhere.

    Args:
        text: as it lies in the repository.
        source: the repository's public address, where links and images then lead; None: they become plain text, images
            are left out.
    """
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    text = CODE.sub(keep, text)
    if source:
        text = IMAGE.sub(rf"![\1]({source}/raw/main/\2)", text)
        text = LINK.sub(lambda m: m[0] if m[2].startswith("#") else f"[{m[1]}]({source}/blob/main/{m[2]})", text)
    else:
        text = LINK.sub(r"\1", TAG.sub("", IMAGE.sub("", text)))
    text = re.sub(r"\n{3,}", "\n\n", text)
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)


if __name__ == "__main__":
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    setup(
        long_description=shown((ROOT / "README.md").read_text(encoding="utf-8"), urls.get("Source")),
        long_description_content_type="text/markdown",
    )
