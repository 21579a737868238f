"""The flow `generate-corpus`, apart from the generated rows."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows import generate_corpus as corpus
from flows.common.parameters import GenerateRequest, LeakageRequest, VerifyRequest
from flows.corpus_leakage import corpus_leakage
from flows.registry import FLOWS
from flows.verify_corpus import verify_corpus
from storage.datasets.manifest import committed
from storage.workspace import Workspace
from tests.builders import SMALL


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, without Ray and Prefect."""

    @contextmanager
    def no_ray(*place: Any) -> Iterator[int]:
        yield 0

    monkeypatch.setattr(corpus, "ray_session", no_ray)
    monkeypatch.setattr(corpus, "show_corpus", lambda *shown: None)


@pytest.mark.usefixtures("alone")
def test_generation_killed_after_its_commit_gets_its_card_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate: Any = corpus.generate_corpus.fn.__wrapped__  # type: ignore[attr-defined]
    request = GenerateRequest(workspace=str(tmp_path / "w"), **SMALL.model_dump())
    workspace = Workspace.open(request.workspace)
    folder = workspace.corpus("small")

    def killed(*what: Any, **how: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(corpus, "note_seconds", killed)
        with pytest.raises(KilledError):
            generate(request)
    assert committed(folder)
    assert not (folder / "README.md").exists()
    generate(request)
    card = (folder / "README.md").read().decode()
    assert "small" in card
    assert "10,000" in card
    assert workspace.catalog.exists()
    # One that is there stays, whatever a person wrote into it.
    (folder / "README.md").write(b"mine")
    generate(request)
    assert (folder / "README.md").read() == b"mine"
    # What can only be read is left as it is.
    (folder / "README.md").remove()
    monkeypatch.setattr(type(folder), "can_be_written", lambda self: False)
    generate(request)
    assert "README.md" not in os.listdir(str(folder))


@pytest.mark.usefixtures("recorded", "ray_instance")
def test_quick_runs_of_verification_and_leakage_work_in_an_empty_workspace(tmp_path: Path) -> None:
    forms = {each.name: each.form.model_dump() for each in FLOWS}
    # The default corpus has 10⁸ rows.
    verified = VerifyRequest(**{**forms["verify-corpus"], "workspace": str(tmp_path / "one"), "corpus": "quick"})
    assert verify_corpus.fn(verified)["repaired"] == []
    names = {"train": "quick", "held_out": "quick"}
    compared = LeakageRequest(**{**forms["corpus-leakage"], "workspace": str(tmp_path / "other"), **names})
    assert corpus_leakage.fn(compared)["leaks"] == 0
