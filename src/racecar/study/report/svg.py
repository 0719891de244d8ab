"""A drawing as it may stand in a page: its own ids, nothing but what draws, no script and nothing fetched."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from racecar.study.report.escaping import printable

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_XML = "{http://www.w3.org/XML/1998/namespace}"
# fmt: off
_DRAWS = {
    "svg", "g", "defs", "symbol", "use", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon",
    "text", "tspan", "textPath", "image", "clipPath", "mask", "pattern", "marker", "linearGradient",
    "radialGradient", "stop", "title", "desc",
}
# Classes and roles of the drawing would meet those of the page; the rest belongs to links.
_LEFT_OUT = {"class", "role", "tabindex", "target", "src", "type", "show", "actuate", "title"}
# fmt: on
_REFERENCE = re.compile(r"url\(\s*(['\"]?)(.*?)\1\s*\)", re.IGNORECASE | re.DOTALL)
_SMUGGLES = re.compile(r"\\|@|/\*|//|url\s*\(|image(-set)?\s*\(", re.IGNORECASE)
# Greys, black and white are of the paper and the ink, so they follow the page's scheme; colours stay.
_GREY = re.compile(
    r"((?:fill|stroke|stop-color)\s*:\s*)(?:(black|white)\b|#(?:([0-9a-f])\3\3|([0-9a-f]{2})\4\4)(?![0-9a-f]))",
    re.IGNORECASE,
)
_INLINE_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*")


@dataclass(frozen=True)
class Drawing:
    """An SVG element for a page.

    Attributes:
        markup: the element, without a size of its own.
        width: what it was made for, in CSS pixels; 0 where it does not say.
    """

    markup: str
    width: float


AS_DRAWN = "as-drawn"
"""Id of a group whose greys stay, such as white words over a picture."""


def check(svg: str) -> None:
    """Refuse what is no SVG document.

    Raises:
        ValueError: it is not well-formed, or its root is no ``<svg>``.
    """
    _parse(svg)


def clean(svg: str, place: str, label: str) -> Drawing:
    """Keep what draws of an SVG document.

    Args:
        svg: the document, such as matplotlib writes.
        place: where it stands in the page; put before its ids, so that several drawings can share one.
        label: what it shows, for readers who cannot see it.

    Raises:
        ValueError: it is no SVG document.
    """
    root = _parse(svg)
    _clean(root, prefix=f"{place}.")
    width = _fit(root)
    root.set("role", "img")
    root.set("aria-label", printable(label))
    return Drawing(ET.tostring(root, encoding="unicode"), width)


def _parse(svg: str) -> ET.Element:
    try:
        # A document that says "encoding=..." is text already: the prolog goes, and with it any quarrel.
        root = ET.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", svg.lstrip("\ufeff"), count=1, flags=re.DOTALL))
    except ET.ParseError as error:
        raise ValueError(f"the figure is not well-formed SVG: {error}") from error
    if root.tag not in (f"{_SVG}svg", "svg"):
        raise ValueError(f"the figure is not an SVG drawing: its root element is {root.tag!r}")
    return root


def _clean(element: ET.Element, prefix: str, greys: bool = True) -> None:
    """Keep what draws, without namespaces (HTML knows SVG by name), and put `prefix` before every id."""
    element.tag = element.tag.removeprefix(_SVG)
    if element.get("id") == AS_DRAWN:
        del element.attrib["id"]
        element.set("fill", "#000000")  # what names no colour of its own, as in any SVG
        greys = False
    attributes = list(element.attrib.items())
    element.attrib.clear()
    for name, value in attributes:
        kept = _attribute(name, value, prefix)
        if kept is not None:
            element.set(kept[0], _GREY.sub(_mixed, kept[1]) if greys and kept[0] == "style" else kept[1])
    for child in list(element):
        # Comments and processing instructions have a function for a tag.
        name = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if name == "a":  # a link around marks: the marks stay
            child.tag = "g"
        elif name not in _DRAWS:
            _drop(element, child)
            continue
        _clean(child, prefix, greys)


def _mixed(match: re.Match[str]) -> str:
    """A grey as so much ink on the card: ``#ffffff`` is the card itself."""
    name, digit, pair = match[2], match[3], match[4]
    level = {"black": 0, "white": 255}[name.lower()] if name else int(digit * 2 if digit else pair, 16)
    if level in (0, 255):
        return f"{match[1]}var(--{'card' if level else 'ink'})"
    return f"{match[1]}color-mix(in srgb, var(--ink) {100 * (1 - level / 255):.0f}%, var(--card))"


def _drop(parent: ET.Element, child: ET.Element) -> None:
    """Remove `child` but not the text that follows it, which ElementTree hangs on it."""
    siblings = list(parent)
    place = siblings.index(child)
    if child.tail and place:
        siblings[place - 1].tail = (siblings[place - 1].tail or "") + child.tail
    elif child.tail:
        parent.text = (parent.text or "") + child.tail
    parent.remove(child)


def _attribute(name: str, value: str, prefix: str) -> tuple[str, str] | None:
    """Return the attribute as it may stand in the page, or None where it may not."""
    if name.startswith(_XML):
        return f"xml:{name.removeprefix(_XML)}", value
    name = name.removeprefix(_XLINK)
    if name in _LEFT_OUT or name.startswith(("{", "on", "aria-")):  # "on...": event handlers
        return None
    if name == "id":
        return name, prefix + value
    if name == "href":
        if value.startswith("#"):
            return name, f"#{prefix}{value[1:]}"
        return (name, value) if _INLINE_IMAGE.fullmatch(value) else None

    def local(match: re.Match[str]) -> str:
        target = match[2]
        return f"url(#{prefix}{target[1:]})" if target.startswith("#") else "none"

    value = _REFERENCE.sub(local, value)
    # What could still smuggle an address in: an escape, a comment, an import, a bracket left open.
    return None if _SMUGGLES.search(value.replace(f"url(#{prefix}", "")) else (name, value)


def _fit(root: ET.Element) -> float:
    """Give the drawing over to the style sheet's width; return the one it was made for, in CSS pixels."""
    width, height = (_pixels(root.attrib.pop(side, "")) for side in ("width", "height"))
    if "viewBox" not in root.attrib and width and height:
        root.set("viewBox", f"0 0 {width:g} {height:g}")
    if not width:
        box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
        width = _pixels(box[2]) if len(box) == 4 else 0.0
    return width


def _pixels(length: str) -> float:
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:e[+-]?\d+)?)\s*(px|pt|pc|in|cm|mm|)\s*", length)
    scales = {"": 1, "px": 1, "pt": 96 / 72, "pc": 16, "in": 96, "cm": 96 / 2.54, "mm": 96 / 25.4}
    return float(match[1]) * scales[match[2]] if match else 0.0
