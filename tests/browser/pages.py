"""A person's way through the Prefect UI, in a real browser, and a workspace that is served for it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from playwright.sync_api import Browser, Page, sync_playwright

from flows.server.settings import authorization

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WAIT_SECONDS = 180.0


def chromium() -> str:
    """Path of the browser; empty where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=_OPTIONS)
        yield started
        started.close()


@dataclass
class Served:
    """`numerate serve` of a workspace."""

    workspace: Path
    process: "subprocess.Popen[str]"
    url: str
    auth: str = ""
    """The server's password; empty where it has none."""

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.workspace.parent / f"{self.workspace.name}.serve.log"

    def ask(self, path: str, values: dict[str, Any] | None = None) -> Any:
        """What Prefect's API answers."""
        data = None if values is None else json.dumps(values).encode()
        headers = {"Authorization": authorization(self.auth)} if self.auth else {}
        asked = Request(f"{self.url}/api/{path}", data=data, headers={"content-type": "application/json", **headers})

        def answered() -> tuple[Any] | None:
            """The answer; None while SQLite is busy."""
            try:
                with urlopen(asked, timeout=30) as answer:
                    return (json.load(answer),)
            except HTTPError as error:
                if error.code == 503:
                    return None
                raise

        return wait_for(answered)[0]

    def state(self, run: str) -> tuple[str, str]:
        """Type and message of a flow run's state."""
        state = self.ask(f"flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """A flow run's artifacts by their keys."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in found}

    def start(self, deployment: str, **request: Any) -> str:
        """Start a run of a deployment as the form would; returns its id."""
        found = self.ask(f"deployments/name/{deployment}/{deployment}")
        values = {**found["parameters"]["request"], **request}
        made = self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": {"request": values}})
        return str(made["id"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(_WAIT_SECONDS)


def wait_for(what: Callable[[], Any], seconds: float = _WAIT_SECONDS) -> Any:
    """The first answer that counts as true; fails when there is none in time."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"nothing came in {seconds:.0f} s"
        time.sleep(0.2)
    return found


def shell(workspace: Path, **settings: str) -> dict[str, str]:
    """The environment of a person who works with the workspace, with these settings of Prefect alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "HOME": str(workspace.parent), **{f"PREFECT_{name}": value for name, value in settings.items()}}


def start_serving(workspace: Path, *options: str, api: str = "", auth: str = "") -> Served:
    """Serve a workspace, as a person would in a shell; where there is an `api`, on its server, else with a password."""
    settings = {name: value for name, value in (("API_URL", api), ("SERVER_API_AUTH_STRING", auth)) if value}
    log = workspace.parent / f"{workspace.name}.serve.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--workspace", str(workspace), *options],
            env=shell(workspace, **settings),
            stderr=file,
            stdout=file,
            text=True,
        )

    def link() -> str:
        """Where it says that it is served."""
        assert process.poll() is None, log.read_text()
        found = re.search(r"is served: open (http://\S+)/v2/deployments", log.read_text())
        return found.group(1) if found else ""

    return Served(workspace, process, wait_for(link), auth)


class Visitor:
    """What a person does on the pages."""

    def __init__(self, page: Page, served: Served) -> None:
        self.page, self.served = page, served

    def open_form(self, deployment: str) -> None:
        """From the list of deployments to the form of a custom run."""
        self.page.goto(f"{self.served.url}/v2/deployments")
        self.page.locator("a[href*='/deployments/deployment/']", has_text=deployment).click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()

    def fill(self, label: str, value: str) -> None:
        """Write into a field of the form."""
        self.page.get_by_label(re.compile(rf"^{label}\b")).first.fill(value)

    def submit(self) -> str:
        """Send the form off, and go to the page of the run; returns its id, as the server answered it."""
        with self.page.expect_response(re.compile("/create_flow_run$")) as answer:
            self.page.get_by_role("button", name="Submit").click()
        assert answer.value.ok, answer.value.text()
        run = str(answer.value.json()["id"])
        self.open_run(run)
        return run

    def open_run(self, run: str) -> None:
        """The page of a flow run."""
        self.page.goto(f"{self.served.url}/v2/runs/flow-run/{run}")

    def open_tab(self, name: str) -> None:
        """Of a flow run's page."""
        self.page.get_by_role("tab", name=name).click()

    def cancel(self, run: str) -> None:
        """Cancel a run on its page, by the menu, as the dialog asks."""
        self.open_run(run)
        self.page.locator("button[aria-haspopup=menu]").last.click()
        self.page.get_by_role("menuitem", name="Cancel").click()
        self.page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()

    def open_artifact(self, key: str) -> None:
        """From a flow run's page to one of its artifacts."""
        self.open_tab("Artifacts")
        self.page.locator(f"a[href*='/artifacts/key/{key}']").first.click()
        self.page.locator("a[href*='/artifacts/artifact/']").first.click()
