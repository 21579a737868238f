"""Common parts of all cards: YAML metadata for Hugging Face, followed by a description."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

UNKNOWN_LICENCE = "unknown"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False, undefined=jinja2.StrictUndefined
)


def rendered(template: str, head: dict[str, Any], licence: str, **values: Any) -> str:
    """Render the card of a template in this folder with its metadata and values."""
    licence_text = "No licence is stated." if licence == UNKNOWN_LICENCE else f"`{licence}`"
    head = {"license": licence, **head}
    return (
        _TEMPLATES.get_template(template).render(head=_yaml(head), licence_text=licence_text, **values).rstrip() + "\n"
    )


def unfinished_card(content: str) -> str:
    """The card of a repository during an upload; nothing can be loaded with it."""
    head = {"viewer": False, "configs": [{"config_name": "unfinished", "data_files": "upload-unfinished.parquet"}]}
    return f"---\n{_yaml(head)}---\n\nThis repository is incomplete: the upload of {content} has not finished.\n"


def _yaml(values: dict[str, Any]) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
