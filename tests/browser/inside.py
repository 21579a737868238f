"""Takes the pictures of pages that the documents show: `python -m tests.browser.inside PAGE [NAME ...]` writes those of
these names, or all that the page has, to model/pictures/.

Of a page of `numerate probe` its figures that are named below, of one of `numerate report` how it begins.
"""

import sys
from pathlib import Path

from tests.browser.pages import browser, chromium

PICTURES = Path(__file__).parents[2] / "model" / "pictures"
# By the heading of each figure; a page that lacks one leaves that picture as it is.
FIGURES = {
    "Digits and signs in the embedding": "digits",
    "Move a digit": "moved-digits",
    "Patch a carry": "carries",
    "Whole numbers as tokens": "numbers",
    "Learning curves": "units",
}


def main(page: str, *names: str) -> None:
    """Write the pictures of one page, of these names or all."""
    assert chromium(), "no chromium on this machine: 'apt-get install chromium' as root brings it"
    PICTURES.mkdir(exist_ok=True)
    with browser() as started:
        view = started.new_page(viewport={"width": 800, "height": 900}, device_scale_factor=1.5)
        view.goto(Path(page).absolute().as_uri())
        if view.locator("nav").count() and (not names or "run-page" in names):
            view.screenshot(path=PICTURES / "run-page.png")
        view.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        for title, name in FIGURES.items():
            figure = view.locator(f":is(h3, summary):has-text('{title}') + figure img").first
            if figure.count() and (not names or name in names):
                figure.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
