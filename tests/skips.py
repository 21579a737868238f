"""Unexpected skips fail a run in CI: a missing browser or disk would otherwise hide its tests permanently."""

import pytest

# CI runs as root, can mount disks and has a browser, but no GPU.
EXPECTED = ("mounts without a namespace of its own", "no GPU")


class UnexpectedSkips:
    """A pytest plugin that lists the skips whose reason is not in `EXPECTED`, and fails the run if there are any."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._record(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.lines and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.lines:
            terminalreporter.write_line(f"unexpected skip: {line}")

    def _record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if not any(expected in reason for expected in EXPECTED):
                self.lines.append(f"{report.nodeid}: {reason}")
