import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import yaml

from flows.cli.verbs.publish import Target, publish_corpus, publish_model
from flows.hub.contents import corpus_publication
from flows.hub.upload import Sent, publish
from pipelines.generation.verify import check_bytes, examine
from pipelines.spec.corpus import CorpusSpec, MixturePart
from pipelines.spec.presets import CORPORA
from storage.datasets.corpus import Corpus
from storage.datasets.manifest import SPLITS, Dataset, hash_of
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import build_corpus_plainly
from tests.flows.conftest import Typed
from tests.flows.test_command import assert_one_line
from tests.hub import TOKEN, Hub

# Three families, whose columns differ, in some fifty files.
MIXED = CORPORA["arithmetic"].model_copy(update={"name": "mixed", "rows": 4_000, "rows_per_shard": 1_000})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A mixture; not to be changed by a test."""
    return _built(tmp_path_factory.mktemp("mixed"), MIXED)


def _built(folder: Path, spec: CorpusSpec) -> Dataset:
    return build_corpus_plainly(spec, Workspace.create(str(folder)).corpus(spec.name))


def push(corpus: Dataset, to: str = "ada/mixed", commit_files: int = 20, **more: Any) -> Sent:
    workspace = Workspace.open(str(corpus.location.path.parents[1]))
    publication = corpus_publication(workspace, corpus.manifest.name, to, **more)
    return publish(publication, to, commit_files=commit_files)


def numerate(*arguments: str, hub: Hub | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the hub and its token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    if hub:
        kept |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    kept |= {"PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    command = [sys.executable, "-m", "flows", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=kept)


def downloaded(hub: Hub, name: str, folder: Path) -> Path:
    """What a repository of the hub holds, as a folder."""
    for path, data in hub[name].files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def loaded(folder: Path, cache: Path) -> dict[str, datasets.DatasetDict]:
    """All configurations of a dataset, as strangers load them."""
    names = datasets.get_dataset_config_names(str(folder))
    return {name: datasets.load_dataset(str(folder), name, cache_dir=str(cache)) for name in names}


def assert_holds(found: dict[str, datasets.DatasetDict], corpus: Dataset) -> None:
    """The configurations hold the corpus's rows, each once, with its values and types, and splits that have rows."""
    opened = Corpus.open(str(corpus.location))
    for split, rows in corpus.manifest.split_rows.items():
        parts = [each[split] for each in found.values() if split in each]
        assert sum(part.num_rows for part in parts) == rows
        by_id = {row["id"]: row for part in parts for row in part}
        expected = opened.relation(split).to_arrow_table() if rows else None
        assert len(by_id) == rows
        for row in expected.to_pylist() if expected else []:
            mine = by_id[row["id"]]
            assert mine == {name: row[name] for name in mine}
            # What a configuration has no column for is null in the view over all, or told by the folder's name.
            rest = {name for name in row.keys() - mine.keys() if row[name] is not None}
            assert rest <= {"split", "family", "width"}
        for part in parts:
            for name, feature in part.features.items():
                kind = str(expected.schema.field(name).type) if expected else ""
                assert feature.dtype == kind or kind.startswith("dictionary")


def card_of(text: str) -> tuple[dict[str, Any], str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_published_mixture_loads_by_configuration(mixed: Dataset, hub: Hub, tmp_path: Path) -> None:
    sent = push(mixed, licence="cc0-1.0")
    repository = hub["dataset:ada/mixed"]
    assert (sent.files, sent.existing) == (len(mixed.shards) + 3, 0)
    for shard in mixed.shards:
        assert repository.files[shard.path] == (mixed.location / shard.path).read()
    folder = downloaded(hub, "dataset:ada/mixed", tmp_path / "copy")
    found = loaded(folder, tmp_path / "cache")
    assert set(found) == {"digits", "grid", "expression"}
    assert_holds(found, mixed)
    # A copy is a whole corpus, whatever its folder is called.
    again = examine(LocalLocation(folder))
    check_bytes(again, in_flight=0, progress=lambda rows: None)
    assert again.faults == []


def test_different_columns_in_a_family_and_empty_splits_can_be_loaded(hub: Hub, tmp_path: Path) -> None:
    pairs = {"family": "grid", "operators": ("+",), "terms": 2}
    spec = CorpusSpec(
        name="asked",
        mixture=(MixturePart(**pairs), MixturePart(**{**pairs, "terms": 3, "high": 30, "operators": ("*",)})),
        rows=3_000,
        rows_per_shard=1_000,
        test=0.3,
        only_test=True,
    )
    corpus = _built(tmp_path, spec)
    push(corpus, "ada/asked")
    found = loaded(downloaded(hub, "dataset:ada/asked", tmp_path / "copy"), tmp_path / "cache")
    assert {name: list(each) for name, each in found.items()} == {"grid-1": ["test"], "grid-2": ["test"]}
    assert "sum" in found["grid-1"]["test"].features
    assert "value" in found["grid-2"]["test"].features
    assert_holds(found, corpus)


def test_card_agrees_with_the_manifest_and_regenerates_the_corpus(mixed: Dataset) -> None:
    workspace = Workspace.open(str(mixed.location.path.parents[1]))
    publication = corpus_publication(workspace, "mixed", "ada/mixed", "mit")
    head, body = card_of(publication.card)
    assert (head["license"], head["size_categories"]) == ("mit", ["1K<n<10K"])
    told = dict.fromkeys(SPLITS, 0)
    for info in head["dataset_info"]:
        for split in info["splits"]:
            told[split["name"]] += split["num_examples"]
    assert told == mixed.manifest.split_rows
    assert mixed.manifest.identity in body
    assert hash_of(mixed.manifest.spec) in body
    written = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert CorpusSpec(**written).identity() == MIXED.identity()
    assert "ada/mixed" in body
    assert f"{mixed.manifest.rows:,} problems" in body
    assert "no licence" in " ".join(corpus_publication(workspace, "mixed", "ada/mixed").remarks)


def test_dry_run_lists_all_files_and_sends_nothing(
    mixed: Dataset, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    before = sorted(mixed.location.path.rglob("*"))
    publish_corpus(str(mixed.location), target=Target(to="ada/mixed", dry_run=True))
    shown = capsys.readouterr()
    publish_corpus(str(mixed.location), target=Target(to="ada/mixed", dry_run=True, as_json=True))
    found = json.loads(capsys.readouterr().out)
    own = sum((mixed.location / name).size() for name in ("manifest.json", mixed.manifest.list_name))
    assert found["bytes"] == mixed.manifest.bytes + own + len(found["card"].encode())
    lines = [line.strip() for line in shown.out.splitlines()]
    assert all(f"{file['bytes']:,}  {file['path']}" in lines for file in found["files"])
    assert {shard.path for shard in mixed.shards} < {file["path"] for file in found["files"]}
    assert f"{found['bytes']:,}  bytes in {len(found['files'])} files for the dataset ada/mixed" in lines
    assert shown.out.endswith(found["card"])
    assert shown.err == "remark: no licence is stated: state one with --license, such as cc0-1.0\n"
    assert hub.counts.total() == 0
    assert sorted(mixed.location.path.rglob("*")) == before


def test_repeated_publication_is_up_to_date(mixed: Dataset, hub: Hub, typed: Typed, tmp_path: Path) -> None:
    arguments = ["publish", "corpus", str(mixed.location), "--to", "ada/mixed", "--private", "--json"]
    # The client itself tries once more what was cut.
    hub.fail("upload", 3)
    first = numerate(*arguments, hub=hub, HF_HOME=str(tmp_path))
    assert first.returncode == 0, first.stderr
    repository, uploads = hub["dataset:ada/mixed"], hub.counts["upload"]
    assert json.loads(first.stdout)["files"] == len(mixed.shards) + 3
    assert repository.private
    assert len(repository.commits) == 1
    assert {"manifest.json", mixed.manifest.list_name, "README.md"} < set(repository.files)
    second = typed(*arguments)
    assert json.loads(second.stdout)["files"] == 0
    assert json.loads(second.stdout)["existing"] == len(mixed.shards) + 3
    assert (len(repository.commits), hub.counts["upload"]) == (1, uploads)
    assert TOKEN not in first.stdout + first.stderr + second.stdout + second.stderr


@pytest.mark.parametrize("status", [500, 0])
def test_interrupted_upload_is_marked_unfinished_and_continues(
    mixed: Dataset, hub: Hub, tmp_path: Path, status: int
) -> None:
    hub.fail("commit", 2, status)
    with pytest.raises(RunFailure, match=r"500|connection was lost") as failure:
        push(mixed)
    assert "sends only missing files" in str(failure.value)
    assert TOKEN not in str(failure.value)
    repository = hub["dataset:ada/mixed"]
    assert len(repository.commits) == 1
    assert "manifest.json" not in repository.files
    assert b"has not finished" in repository.files["README.md"]
    folder = downloaded(hub, "dataset:ada/mixed", tmp_path / "half")
    with pytest.raises(FileNotFoundError):
        datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    committed, uploads = set(repository.files), hub.counts["upload"]
    sent = push(mixed)
    again = {path for commit in repository.commits[1:] for path in commit}
    assert again & committed == {"README.md"}
    assert sent.existing == 20
    # The second commit's files had been uploaded; the rest is sent now, with the list of shards.
    assert hub.counts["upload"] - uploads == len(mixed.shards) - 40 + 1
    assert repository.files["manifest.json"] == (mixed.location / "manifest.json").read()
    assert b"has not finished" not in repository.files["README.md"]


def test_new_licence_changes_only_the_card(mixed: Dataset, hub: Hub) -> None:
    push(mixed)
    hub["dataset:ada/mixed"].files["figure.png"] = b"added by hand"
    assert push(mixed, licence="mit").files == 1
    assert hub["dataset:ada/mixed"].commits[-1] == ["README.md"]
    assert "figure.png" in hub["dataset:ada/mixed"].files


def test_repository_with_other_content_stays_unchanged(mixed: Dataset, hub: Hub, tmp_path: Path) -> None:
    other = _built(tmp_path, MIXED.model_copy(update={"seed": 1, "rows": 2_000}))
    push(other)
    before = dict(hub["dataset:ada/mixed"].files)
    with pytest.raises(UserError, match=r"contains something other than corpus 'mixed' \(manifest.json differs\)"):
        push(mixed)
    del hub["dataset:ada/mixed"].files["manifest.json"]
    with pytest.raises(UserError, match=r"\(data/split=.* differs\): choose another repository"):
        push(mixed)
    assert {**hub["dataset:ada/mixed"].files, "manifest.json": before["manifest.json"]} == before


def test_damaged_shard_is_never_sent(hub: Hub, tmp_path: Path) -> None:
    corpus = _built(tmp_path, MIXED)
    place = corpus.location / corpus.shards[25].path
    data = place.read()
    place.write(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunFailure, match="is damaged: run 'numerate corpus verify mixed --repair'"):
        push(corpus)
    assert "manifest.json" not in hub["dataset:ada/mixed"].files
    assert corpus.shards[25].path not in hub["dataset:ada/mixed"].files
    requests = hub.counts.total()
    place.remove()
    with pytest.raises(RunFailure, match="is missing"):
        push(corpus)
    assert hub.counts.total() == requests


@pytest.mark.parametrize(
    ("more", "environment", "words"),
    [
        ({"to": "mixed"}, {}, "--to 'mixed' is not ORG/REPO"),
        ({"to": "https://huggingface.co/ada/mixed"}, {}, "is not ORG/REPO"),
        ({"licence": "My Own"}, {}, "--license 'My Own' is not a licence name of the hub"),
        ({"licence": "nonsense"}, {}, 'the hub rejects the card ("license" must be one of the list): use a licence'),
        ({}, {"HF_TOKEN": "hf_other secret"}, "contains invalid characters"),
        ({}, {"HF_TOKEN": "hf_other"}, "127.0.0.1 rejects the token: set HF_TOKEN"),
        ({"to": "bob/mixed"}, {}, "127.0.0.1 does not let this token write to bob/mixed"),
    ],
)
def test_invalid_request_is_one_line_before_anything_is_sent(
    mixed: Dataset,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, str],
    environment: dict[str, str],
    words: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        publish_corpus(str(mixed.location), target=Target(**{"to": "ada/mixed", **more}))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "hf_" not in str(error.value)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("token", "endpoint", "code", "words"),
    [
        ("", "", 2, ["no token", "HF_TOKEN"]),
        (TOKEN, "http://u:hf_in_url@127.0.0.1:9", 1, ["127.0.0.1 cannot be reached", "check the network"]),
    ],
)
def test_missing_token_or_hub_is_a_one_line_error(
    mixed: Dataset,
    hub: Hub,
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    endpoint: str,
    code: int,
    words: list[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint or hub.url)
    result = typed("publish", "corpus", str(mixed.location), "--to", "ada/mixed")
    assert_one_line(result, code, *words)
    assert "hf_" not in result.stderr
    assert hub.counts.total() == 0


def test_offline_mode_is_a_one_line_error(mixed: Dataset, hub: Hub, tmp_path: Path) -> None:
    arguments = ["publish", "corpus", str(mixed.location), "--to", "ada/mixed"]
    result = numerate(*arguments, hub=hub, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert_one_line(result, 2, "HF_HUB_OFFLINE is set")
    assert "hf_" not in result.stderr
    assert hub.counts.total() == 0


def test_missing_corpus_or_run_is_rejected(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="corpus 'none' does not exist"):
        publish_corpus("none", target=Target(to="ada/none", workspace=str(tmp_path)))
    with pytest.raises(UserError, match="run 'none' does not exist"):
        publish_model("none", target=Target(to="ada/none", workspace=str(tmp_path)))
    assert hub.counts.total() == 0
