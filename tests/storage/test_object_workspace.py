import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model.evaluation.predictor import TrainedEncoder
from model.runs.run_config import claim_run
from model.training.batches import Batches
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.build import build_corpus, build_tokens
from pipelines.generation.verify import check_bytes, examine, repair
from pipelines.tokens.vocabulary import train_tokenizer
from storage.datasets.corpus import Corpus
from storage.errors import RunFailure
from storage.places.disk import LocalLocation
from storage.places.opening import open_location
from storage.sql.catalog import refresh_catalog
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import SMALL, SMALL_TOKENIZER, TINY_TRAINING, Built
from tests.model.workers import Countdown
from tests.object_store import FaultyProxy, Request, objects_below, upload


def test_a_corpus_in_an_object_store_equals_one_on_a_disk_and_can_be_repaired(bucket: str, small: Built) -> None:
    workspace = Workspace.create(f"{bucket}/a/workspace")
    folder = workspace.corpus("small")
    corpus, made = build_corpus(SMALL, folder, in_flight=0)
    assert (made, corpus.manifest) == (True, small.corpus.manifest)
    assert not build_corpus(SMALL, folder, in_flight=0)[1]
    ours = {path.removeprefix(f"{folder.key}/"): data for path, data in objects_below(folder).items()}  # type: ignore[attr-defined]
    for path in ("manifest.json", corpus.manifest.list_name, *(shard.path for shard in small.corpus.shards)):
        assert ours[path] == (small.corpus.location / path).read()
    assert {path for path in ours if "/" not in path} == {"manifest.json", corpus.manifest.list_name, ".lock"}
    train_tokenizer(SMALL_TOKENIZER, corpus, workspace.tokenizer("small-digit"))
    tokens, _ = build_tokens(corpus, small.tokenizer, workspace.tokens("small", "small-digit"), in_flight=0)
    assert tokens.manifest == small.tokens.manifest
    for where in ("", "sum % 2 = 0"):
        spec = TINY_TRAINING
        # One rank's lanes stand for all.
        theirs, mine = (
            Batches.of(each, "train", spec.batch_size, 0, where).reader.batches(3, rank=5, ranks=8)
            for each in (small.tokens, tokens)
        )
        for _ in range(20):
            assert (next(theirs)[1] == next(mine)[1]).all()
    rows = sum(batch.num_rows for batch in Corpus.open("small", f"{bucket}/a/workspace").batches("test"))
    assert rows == corpus.manifest.split_rows["test"]

    shard = folder / corpus.shards[0].path
    flipped = bytearray(shard.read())
    flipped[len(flipped) // 2] ^= 1
    shard.write(bytes(flipped))
    (folder / "data" / "extra.parquet").write(b"x")
    found = examine(folder)
    check_bytes(found, in_flight=0, progress=lambda rows: None)
    assert [fault.path for fault in sorted(found.faults)] == ["data/extra.parquet", corpus.shards[0].path]
    with folder.exclusive("it"):
        assert repair(found, in_flight=0, progress=lambda rows: None).manifest == corpus.manifest
    again = examine(folder)
    check_bytes(again, in_flight=0, progress=lambda rows: None)
    assert not again.faults


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights_as_on_a_disk(bucket: str, small: Built, tmp_path: Path) -> None:
    workspace = Workspace(upload(small.workspace.root, bucket))
    far = replace(prepare(workspace, "run", "small", "small-digit", TINY_TRAINING)[0], threads=1)
    near = replace(far, run=LocalLocation(tmp_path / "run"), tokens=small.tokens.location)
    claim_run(near.run, near.config, small.tokenizer)
    assert train(near).finished
    assert train(far, stop=Countdown(0)).step == 10
    assert train(far).finished
    last = "checkpoints/step-000000012.safetensors"
    ours, theirs = (safetensors.torch.load((job.run / last).read()) for job in (far, near))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert TrainedEncoder.open(far.run).solve(["1+2"]) == TrainedEncoder.open(near.run).solve(["1+2"])
    refresh_catalog(workspace)
    with open_catalog(workspace) as connection:
        assert select(connection, "SELECT count(*), max(step) FROM metrics").fetchall() == [(12, 12)]


def test_failed_and_slow_requests_do_not_change_results(bucket: str, proxy: FaultyProxy, small: Built) -> None:
    proxy.slow_seconds = 0.05
    proxy.fault = lambda request: {0: "503", 3: "500", 5: "slow", 7: "cut"}.get(request.number % 10, "")
    workspace = Workspace.create(bucket)
    corpus, _ = build_corpus(SMALL, workspace.corpus("small"), in_flight=0)
    assert corpus.manifest == small.corpus.manifest
    assert all(corpus.verified(shard) for shard in corpus.shards)
    with open_catalog(workspace) as connection:
        assert select(connection, "SELECT count(*) FROM corpus_small").fetchall() == [(10_000,)]
    assert all(proxy.faults.get(fault, 0) > 3 for fault in ("500", "503", "slow", "cut")), proxy.faults


def test_an_interrupted_upload_is_continued_and_invisible_until_it_is_complete(bucket: str, proxy: FaultyProxy) -> None:
    place, data = open_location(bucket) / "large", os.urandom(20_000_000)
    shown = list[bool]()

    def fault(request: Request) -> str:
        if request.method == "PUT" and request.sent > 1_000_000:
            # The server is queried directly during the upload.
            shown.append(proxy.server_holds(f"/{bucket[5:]}/large"))
            return "cut" if len(shown) in (1, 3) else ""
        return ""

    proxy.fault = fault
    with place.staged() as path:
        path.write_bytes(data)
    assert proxy.faults == {"cut": 2}
    assert not any(shown)
    assert place.read() == data


def test_a_store_that_stops_responding_commits_nothing_and_the_next_run_continues(
    bucket: str, proxy: FaultyProxy, small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.places.stores._PATIENCE_SECONDS", 1)
    folder = Workspace.create(bucket).corpus("small")
    proxy.fault = lambda request: "503" if proxy.count("PUT", ".progress") > 1 else ""
    with pytest.raises(RunFailure, match=r"s3://.*keeps failing .SlowDown.: run the same command again"):
        build_corpus(SMALL, folder, in_flight=0)
    proxy.fault = lambda request: ""
    assert not (folder / "manifest.json").exists()
    begun = len(proxy.requests)
    corpus, _ = build_corpus(SMALL, folder, in_flight=0)
    assert corpus.manifest == small.corpus.manifest
    written = [
        request.path for request in proxy.requests[begun:] if request.method == "PUT" and "/data/" in request.path
    ]
    assert 0 < len(written) < len(corpus.shards)
