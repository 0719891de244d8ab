r"""Text from outside, made harmless: it brings neither HTML nor Markdown of its own into a page or a results file.

Names of classes, models and folders and messages of errors reach a report. In both forms `code` in backticks and
**bold** are the only marks; everything else is shown as it is written, but for how names and numbers are set
(:mod:`.typography`).
"""

from __future__ import annotations

import html
import re

from racecar.study.report import typography

# Characters that HTML forbids, and lone surrogates, which UTF-8 cannot hold: both reach a report through
# file names and environment variables.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: object) -> str:
    """``str(text)``, with U+FFFD for what no file can hold."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


def paragraphs(text: str) -> list[str]:
    """The parts of a text between its empty lines."""
    parts = (p.strip() for p in re.split(r"\n\s*\n", text))
    return [p for p in parts if p]


# --- HTML -------------------------------------------------------------------------------------------------------------


def html_text(text: object) -> str:
    """A text for an element or an attribute, without marks."""
    return html.escape(printable(text), quote=True)


def html_words(text: object) -> str:
    """A text for an element, names and numbers set as :mod:`.typography` does."""
    return typography.html(html_text(text))


def html_inline(text: str) -> str:
    """As :func:`html_words`, with `code` and **bold** as elements; what is left unpaired stays as written."""
    pieces = re.split(r"`([^`\n]+)`", text)
    # re.split with one group alternates: prose, code, prose, ...
    return "".join(
        f"<code>{html_text(piece)}</code>"
        if i % 2
        else re.sub(r"\*\*(?=\S)(.+?)(?<=\S)\*\*", r"<strong>\1</strong>", html_words(piece), flags=re.DOTALL)
        for i, piece in enumerate(pieces)
    )


def html_label(text: str) -> str:
    """Escape `text` for an attribute, without the marks of :func:`html_inline`."""
    return html_text(typography.plain(re.sub(r"`|\*\*", "", text)))


# --- Markdown ---------------------------------------------------------------------------------------------------------

# As on the page, but for what holds a backslash: in a table it would not do to what follows it what it does in prose.
_CODE = re.compile(r"`([^`\\\n]+)`")
# What would start a tag, an entity or, after a link's text, its address.
_STARTS = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)|\](?=[(\[:])")
_SAFE = {"<": "&lt;", "&": "&amp;", "]": "\\]"}
# What at the start of a line would make it a heading, an item of a list, a quotation, a fence or a rule.
_BLOCK = re.compile(r"\d{1,9}(?=[.)](?:\s|$))|(?=#{1,6}(?:\s|$)|[-+*](?:\s|$)|>|~~~|[-_*][-_*\s]*$)")


def markdown_inline(text: object) -> str:
    """A text for one line of Markdown: no tags, links, images or line breaks come with it."""
    line = re.sub(r"\s*[\r\n]+\s*", " ", printable(text))
    pieces = _CODE.split(line)
    return "".join(f"`{piece}`" if i % 2 else _prose(piece) for i, piece in enumerate(pieces))


def _prose(text: str) -> str:
    text = typography.plain(text).replace("\\", "\\\\").replace("`", "\\`")
    return _STARTS.sub(lambda match: _SAFE[match[0]], text)


def markdown_cell(text: object) -> str:
    """A text for a cell of a Markdown table."""
    return markdown_inline(text).replace("|", "\\|")


def markdown_line(text: object) -> str:
    """A text for a line of its own: a paragraph, whatever it starts with."""
    line = markdown_inline(text).strip()
    start = _BLOCK.match(line)
    return line if start is None else f"{start[0]}\\{line[start.end() :]}"
