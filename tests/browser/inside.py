"""Takes the pictures of report pages for the documentation and writes them to model/pictures/.

`python -m tests.browser.inside PAGE [NAME ...]` takes the pictures with these names, or all pictures of the page.
A page of `numerate probe` gives the figures in `FIGURES`. A page of `numerate report` gives a picture of its top.
"""

import sys
from pathlib import Path

from tests.browser.pages import browser, chromium

PICTURES = Path(__file__).parents[2] / "model" / "pictures"
# Picture names by the heading of the figure. A picture whose figure is not in the page stays unchanged.
FIGURES = {
    "Digits and signs in the embedding": "digits",
    "Move a digit": "moved-digits",
    "Patch a carry": "carries",
    "Whole numbers as tokens": "numbers",
    "Learning curves": "units",
    "Edit the states of a step": "steps",
}


def main(page: str, *names: str) -> None:
    """Write the named pictures of one page, or all of them."""
    assert chromium(), "no chromium on this machine: run 'apt-get install chromium' as root"
    PICTURES.mkdir(exist_ok=True)
    with browser() as started:
        view = started.new_page(viewport={"width": 800, "height": 900}, device_scale_factor=1.5)
        view.goto(Path(page).absolute().as_uri())
        if view.locator("nav").count() and (not names or "run-page" in names):
            view.screenshot(path=PICTURES / "run-page.png")
        view.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        for title, name in FIGURES.items():
            figure = view.locator(f":is(h3, summary):has-text('{title}') + figure img").first
            if figure.count() and (not names or name in names):
                figure.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
