"""A picture as SVG that can be put into a page beside others, in the page's fonts and colours."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from equipoise.report.drawing import COLOURS, Picture, figure_of

__all__ = ["inline_svg"]

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
REFERENCE = re.compile(r"url\(#([^)]*)\)")
FAMILY = re.compile(r"font-family:[^;]*;?\s*|(?<=px )'[^;]*")
VARIABLES = {value: f"var(--{name})" for name, value in COLOURS.items()}


def inline_svg(picture: Picture) -> str:
    """An `<svg>` element.

    Its ids begin with the picture's name, so that those of several pictures do not clash, and only
    those that are referred to are kept. Colours are the page's variables, text stays text.
    """
    import matplotlib

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    style = {"svg.fonttype": "none", "svg.hashsalt": "equipoise"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts of its own
        figure_of(picture, title=False).savefig(
            buffer, format="svg", metadata=no_metadata, transparent=True
        )
    root = ElementTree.fromstring(buffer.getvalue())
    prefix = f"{picture.name}-"
    parents = {child: parent for parent in root.iter() for child in parent}
    for element in list(root.iter()):
        if element.tag == f"{{{SVG}}}style":  # it would hold for the whole page
            parents[element].remove(element)
            continue
        attributes = element.attrib
        if HREF in attributes:
            attributes["href"] = "#" + prefix + attributes.pop(HREF)[1:]
        if element.tag.endswith(("}path", "}clipPath")) and "id" in attributes:
            attributes["id"] = prefix + attributes["id"]
        else:
            attributes.pop("id", None)
        for name in ("clip-path", "style"):
            if name in attributes:
                value = REFERENCE.sub(rf"url(#{prefix}\1)", attributes[name])
                attributes[name] = _themed(FAMILY.sub("", value))
        if "d" in attributes:
            attributes["d"] = " ".join(attributes["d"].split())
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", f"{picture.title}. {picture.alt}")
    ElementTree.register_namespace("", SVG)
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text)


def _themed(style: str) -> str:
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    return style
