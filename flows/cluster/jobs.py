"""Submits a stage to a Ray cluster as a job. The same request again follows the existing job.

The job's id is derived from workspace, stage, request and the number of the attempt. The job survives its sender.
"""

import asyncio
import hashlib
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from flows.cluster.connect import TOKEN, code_environment
from model.config.training import STOP_SECONDS
from storage.errors import RunFailure, UserError

# Ray's client prefers these variables to its own argument.
_SERVER, _CLUSTER = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
_PORT = 8265
# Values of RAY_ADDRESS that are not addresses.
_NOT_ADDRESSES = ("auto", "local")
_CONNECT_SECONDS = 10.0
# How long to wait for a server that does not respond, and the interval of retries.
_LOST_SECONDS, _POLL_SECONDS = 300.0, 2.0
# Ray kills a stopped job after 3 s by default; a training needs time to write a checkpoint.
_STOP_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_SECONDS + 15:.0f}"}
# A job cannot be stopped while it waits for its environment.
_STOP_SECONDS = STOP_SECONDS + 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One attempt to run a stage, as reported by the cluster."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    exit_code: int | None
    """Exit code of the stage, as on a command line; None until it has ended."""
    address: str

    @classmethod
    def of(cls, details: JobDetails, address: str) -> "Job":
        """The job for the details that a cluster returns."""
        codes = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130, JobStatus.FAILED: details.driver_exit_code or 1}
        name, status = str(details.submission_id), details.status
        return cls(name, status.value, details.message or "", codes.get(status), address)

    @property
    def ended(self) -> bool:
        return self.exit_code is not None


def job_server(address: str) -> str:
    """URL of the job server: the given one, or that in RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or this machine's.

    Raises `UserError` if it is not a valid URL.
    """
    given = address or os.environ.get(_SERVER) or os.environ.get(_CLUSTER) or f"http://127.0.0.1:{_PORT}"
    if not address and given in _NOT_ADDRESSES:
        return f"http://127.0.0.1:{_PORT}"
    invalid = UserError(f"address {given!r} is not the URL of a job server: use one such as http://HEAD:{_PORT}")
    try:
        parts = urlsplit(given if "://" in given else f"//{given}")
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise invalid from error
    if parts.scheme in ("http", "https") and host:
        return given.rstrip("/")
    if address or not host:
        raise invalid
    # RAY_ADDRESS names the head, which uses another port.
    return f"http://{f'[{host}]' if ':' in host else host}:{_PORT}"


class Jobs:
    def __init__(self, address: str) -> None:
        """Raises `UserError` if the token is not accepted, and `RunFailure` if no job server responds."""
        self.address = job_server(address)
        os.environ[_SERVER] = self.address
        logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
        parts = urlsplit(self.address)
        with self._one_line_errors():
            # Ray's client would wait for minutes.
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((str(parts.hostname), port), timeout=_CONNECT_SECONDS).close()
            self._client = JobSubmissionClient(self.address)

    def attempts(self, name: str) -> list[Job]:
        """All attempts with a common job name, oldest first."""
        with self._one_line_errors():
            jobs = [Job.of(job, self.address) for job in self._client.list_jobs()]
        attempts = [job for job in jobs if job.id.rpartition("-")[0] == name]
        return sorted(attempts, key=lambda job: int(job.id.rpartition("-")[2]))

    def current(self, job: str) -> Job:
        with self._one_line_errors():
            return Job.of(self._client.get_job_info(job), self.address)

    def start(self, name: str, entrypoint: str, gpus: float) -> tuple[Job, bool]:
        """Return the running attempt, or start a new one, and whether it is new; concurrent calls share one attempt."""
        attempts = self.attempts(name)
        if attempts and not attempts[-1].ended:
            return attempts[-1], False
        job = f"{name}-{len(attempts) + 1}"
        try:
            with self._one_line_errors():
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env={**code_environment(), "env_vars": _STOP_ENVIRONMENT},
                    entrypoint_num_gpus=gpus or None,
                )
        except RunFailure:
            # Another process was faster. The cluster accepts each id only once.
            existing = next((attempt for attempt in self.attempts(name) if attempt.id == job), None)
            if existing is None:
                raise
            return existing, False
        return self.current(job), True

    def stop(self, job: str) -> Job:
        """Stop a job, as soon as it has begun if it is pending. Raises `RunFailure` if it does not end in time."""
        until = time.monotonic() + _STOP_SECONDS
        while not (state := self.current(job)).ended:
            if time.monotonic() > until:
                raise RunFailure(f"job {job} is still {state.status} after {_STOP_SECONDS:.0f} s: stop it again")
            with self._one_line_errors():
                self._client.stop_job(job)
            time.sleep(_POLL_SECONDS)
        return state

    def follow(self, job: str, write: Say, warn: Say) -> Job:
        """Write a job's log from its beginning until it ends; after a lost connection, writing continues."""
        log, lost_since = _Log(write), 0.0
        while True:
            try:
                asyncio.run(self._tail(job, log))
                state = self.current(job)
                if state.ended:
                    with self._one_line_errors():
                        log.add(self._client.get_job_logs(job), 0)
                    return state
                lost_since = 0.0
            except (RunFailure, RuntimeError, OSError, aiohttp.ClientError) as error:
                lost_since = lost_since or time.monotonic()
                if log.has_grown:
                    warn(f"the connection to {self.address} was lost, job {job} continues: reconnecting")
                log.has_grown = False
                if time.monotonic() - lost_since > _LOST_SECONDS:
                    raise RunFailure(
                        f"{self.address} has not responded for {_LOST_SECONDS / 60:.0f} minutes: run the same command "
                        f"again to follow job {job}"
                    ) from error
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job: str, log: "_Log") -> None:
        position = 0
        async for text in self._client.tail_job_logs(job):
            log.add(text, position)
            position += len(text)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Convert errors of the server to one-line errors."""
        try:
            yield
        except AuthenticationError as error:
            raise UserError(f"the job server at {self.address} rejects the token: {TOKEN}") from error
        except (OSError, requests.RequestException) as error:
            raise RunFailure(
                f"no job server responds at {self.address}: give its URL with --address, and start the head node with "
                "'ray start --head --include-dashboard=true'"
            ) from error
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise RunFailure(f"the job server at {self.address} rejected the request: {text[-300:]}") from error


class _Log:
    """A log that is read from the beginning several times but written only once."""

    def __init__(self, write: Say) -> None:
        self._write, self._written, self.has_grown = write, 0, True

    def add(self, text: str, position: int) -> None:
        """Write the new part of `text`, which begins at a position of the log."""
        if new := text[max(0, self._written - position) :]:
            self._write(new)
            self._written = position + len(text)
            self.has_grown = True


def job_name(stage: str, request: dict[str, Any]) -> str:
    """Common name of all attempts of a stage with one request, which includes the workspace."""
    text = json.dumps([stage, request], sort_keys=True)
    return f"numerate-{stage.replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def entrypoint_of(python: str, stage: str, request: dict[str, Any]) -> str:
    """Shell command that runs a stage on the cluster; it names the interpreter, because PATH may have another one."""
    return shlex.join([python, "-m", "flows", "submit", "execute", stage, json.dumps(request)])
