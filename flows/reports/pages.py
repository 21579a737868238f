"""HTML pages from the templates beside this file; each is one file that needs nothing else and runs nothing.

Whatever lies in a workspace is data to a page: text is escaped, and a figure is an image, in which no script runs.
"""

import re
from base64 import b64encode
from html import unescape
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup
from pydantic import BaseModel, ValidationError

from storage.errors import RunFailure
from storage.places.place import Location

Data = TypeVar("Data", bound=BaseModel)

_LABEL = re.compile(r'aria-label="([^"]*)"')
# What a figure draws in the colour of the text around it has to be told that colour: an image has no text around it.
_COLORS = "<style>svg{color:#1c1f24}@media (prefers-color-scheme:dark){svg{color:#e6e8ec}}</style>"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def picture(svg: str) -> Markup:
    """A figure, which is SVG text, as an image of a page; nothing where it is empty."""
    if not svg:
        return Markup("")
    label = _LABEL.search(svg)
    head, end, rest = svg.partition(">")
    data = b64encode(f"{head}{end}{_COLORS}{rest}".encode()).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(
        unescape(label[1]) if label else "figure", data
    )


_TEMPLATES.filters["picture"] = picture


def rendered(template: str, **values: Any) -> Markup:
    """What `template` makes of the values, as HTML."""
    return Markup(_TEMPLATES.get_template(template).render(**values))


def stored(kind: type[Data], place: Location) -> Data | None:
    """The data of a part of a page, as it was written to `place`; None where there is none that can be read."""
    try:
        return kind.model_validate_json(place.read()) if place.exists() else None
    except (ValidationError, RunFailure):
        return None


def write_page(page: Location, template: str, **values: Any) -> None:
    """Write what `template` makes of the values to `page`."""
    page.write(rendered(template, **values).encode())
