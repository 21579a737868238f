"""HTML pages from the templates beside this file; each is one file that needs nothing else."""

from pathlib import Path
from typing import Any

import jinja2

from storage.location import Location

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
)


def rendered(template: str, **values: Any) -> str:
    """What `template` makes of the values, as HTML."""
    return _TEMPLATES.get_template(template).render(**values)


def write_page(page: Location, template: str, **values: Any) -> None:
    """Write what `template` makes of the values to `page`."""
    page.write(rendered(template, **values).encode())
