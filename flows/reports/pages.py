"""HTML pages from the templates in `templates`; each page is a single self-contained file without scripts.

Content of a workspace is untrusted: text is escaped, and figures are images, in which scripts do not run.
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
# Figures use the surrounding text colour. An image does not inherit one, so it is defined here.
_COLORS = "<style>svg{color:#1c1f24}@media (prefers-color-scheme:dark){svg{color:#e6e8ec}}</style>"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def picture(svg: str) -> Markup:
    """A figure (SVG text) as an image element; empty for an empty figure."""
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
    """Render `template` with the values as HTML."""
    return Markup(_TEMPLATES.get_template(template).render(**values))


def stored(kind: type[Data], file: Location) -> Data | None:
    """The stored data of a page's section; None if it is missing or invalid."""
    try:
        return kind.model_validate_json(file.read()) if file.exists() else None
    except (ValidationError, RunFailure):
        return None


def write_page(page: Location, template: str, **values: Any) -> None:
    """Render `template` with the values and write it to `page`."""
    page.write(rendered(template, **values).encode())
