"""A reader of HTML that notices what is not well-formed, and a drawing to put into a page."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input"}

DRAWING = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="288pt" height="216pt" viewBox="0 0 288 216"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><creator>https://matplotlib.org/</creator></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style><clipPath id="p1"><rect width="9"/></clipPath>
 <pattern id="hatch"/><path id="glyph" d="M 0 0"/></defs>
 <g id="axes_1" clip-path="url(#p1)"><use xlink:href="#glyph" style="fill: url('#hatch'); opacity: 1"/></g>
</svg>"""


class Audit(HTMLParser):
    """Reads a document; notes what is open, the elements with their attributes, and the text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def with_class(self, name: str) -> list[tuple[str, dict[str, str]]]:
        return [(tag, a) for tag, a in self.elements if name in a.get("class", "").split()]
