"""A user's actions in the Prefect UI, in a real browser, and the served workspace behind the UI."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from playwright.sync_api import Browser, Page, sync_playwright

from flows.server.settings import authorization
from tests.processes import command_environment, start_command, wait_for

_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_STOP_SECONDS = 180.0


def chromium() -> str:
    """Path of the browser; empty if none is installed."""
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
    """The server's password; empty if it has none."""

    @property
    def log(self) -> Path:
        """The file with the command's output."""
        return log_of(self.workspace)

    def call(self, path: str, values: dict[str, Any] | None = None) -> Any:
        """The response of Prefect's API; with `values`, the request is a POST."""
        data = None if values is None else json.dumps(values).encode()
        headers = {"Authorization": authorization(self.auth)} if self.auth else {}
        request = Request(f"{self.url}/api/{path}", data=data, headers={"content-type": "application/json", **headers})

        def response() -> tuple[Any] | None:
            """The response in a tuple, which is true even if the response is empty; None while SQLite is busy."""
            try:
                with urlopen(request, timeout=30) as reply:
                    return (json.load(reply),)
            except HTTPError as error:
                if error.code == 503:
                    return None
                raise

        return wait_for(response)[0]

    def state(self, run: str) -> tuple[str, str]:
        """Type and message of a flow run's state."""
        state = self.call(f"flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """A flow run's artifacts by their keys."""
        artifacts = self.call("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in artifacts}

    def start(self, deployment: str, **request: Any) -> str:
        """Start a run of a deployment as the form does; returns the run's id."""
        details = self.call(f"deployments/name/{deployment}/{deployment}")
        values = {**details["parameters"]["request"], **request}
        run = self.call(f"deployments/{details['id']}/create_flow_run", {"parameters": {"request": values}})
        return str(run["id"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the command with a signal; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(_STOP_SECONDS)


def log_of(workspace: Path) -> Path:
    """The file with the output of `numerate serve`."""
    return workspace.parent / f"{workspace.name}.serve.log"


def shell(workspace: Path, **settings: str) -> dict[str, str]:
    """The environment of a user of the workspace; of Prefect's settings it has only the given ones."""
    values = {f"PREFECT_{name}": value for name, value in settings.items()}
    return command_environment(HOME=str(workspace.parent), **values)


def start_serving(workspace: Path, *options: str, api: str = "", auth: str = "") -> Served:
    """Serve a workspace; with `api`, on this Prefect server, else on a new one with the password `auth`."""
    settings = {name: value for name, value in (("API_URL", api), ("SERVER_API_AUTH_STRING", auth)) if value}
    log = log_of(workspace)
    with open(log, "w") as file:
        arguments = ("serve", "--workspace", str(workspace), *options)
        process = start_command(*arguments, env=shell(workspace, **settings), stdout=file, stderr=file)

    def url() -> str:
        """The URL that the command prints once it serves the workspace."""
        assert process.poll() is None, log.read_text()
        served = re.search(r"is served: open (http://\S+)/v2/deployments", log.read_text())
        return served.group(1) if served else ""

    return Served(workspace, process, wait_for(url), auth)


class Visitor:
    """A user of the pages."""

    def __init__(self, page: Page, served: Served) -> None:
        self.page, self.served = page, served

    def open_form(self, deployment: str) -> None:
        """Go from the list of deployments to the form of a custom run."""
        self.page.goto(f"{self.served.url}/v2/deployments")
        self.page.locator("a[href*='/deployments/deployment/']", has_text=deployment).click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()

    def fill(self, label: str, value: str) -> None:
        """Fill in a field of the form."""
        self.page.get_by_label(re.compile(rf"^{label}\b")).first.fill(value)

    def submit(self) -> str:
        """Submit the form and open the page of the run; returns the run's id from the server's response."""
        with self.page.expect_response(re.compile("/create_flow_run$")) as response:
            self.page.get_by_role("button", name="Submit").click()
        assert response.value.ok, response.value.text()
        run = str(response.value.json()["id"])
        self.open_run(run)
        return run

    def open_run(self, run: str) -> None:
        """Open the page of a flow run."""
        self.page.goto(f"{self.served.url}/v2/runs/flow-run/{run}")

    def open_tab(self, name: str) -> None:
        """Open a tab of a flow run's page."""
        self.page.get_by_role("tab", name=name).click()

    def cancel(self, run: str) -> None:
        """Cancel a run through the menu and the dialog of its page."""
        self.open_run(run)
        self.page.locator("button[aria-haspopup=menu]").last.click()
        self.page.get_by_role("menuitem", name="Cancel").click()
        self.page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()

    def open_artifact(self, key: str) -> None:
        """Go from a flow run's page to one of its artifacts."""
        self.open_tab("Artifacts")
        self.page.locator(f"a[href*='/artifacts/key/{key}']").first.click()
        self.page.locator("a[href*='/artifacts/artifact/']").first.click()
