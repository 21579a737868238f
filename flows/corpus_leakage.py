"""The flow `corpus-leakage` and the text form of its result."""

from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import LeakageRequest
from flows.common.progress import counted, metered
from flows.generate_corpus import ensure_corpus
from pipelines.split.leakage import HELD_OUT, LeakFound, differences, find_leaks
from storage.datasets.corpus import Corpus
from storage.workspace import Workspace


@flow(name="corpus-leakage", flow_run_name="leakage of {request.held_out} into {request.train}")
def corpus_leakage(request: LeakageRequest) -> dict[str, Any]:
    """Check that no train problem of one corpus is held out by another; raises `LeakFound` if one is."""
    if request.make_missing:
        for name in (request.train, request.held_out):
            ensure_corpus(request, name)
    train, held_out = (Corpus.open(name, request.workspace).dataset for name in (request.train, request.held_out))
    rows = train.manifest.split_rows["train"] + sum(held_out.manifest.split_rows[split] for split in HELD_OUT)
    title = f"leakage {request.train} {request.held_out}"
    root = Workspace.open(request.workspace).root
    with ray_session(request.ray, root) as cpus, metered("corpus-leakage", title, rows) as meter:
        leakage = find_leaks(train, held_out, in_flight=cpus, progress=meter.add)
    result = {
        "train": request.train,
        "held_out": request.held_out,
        **asdict(leakage),
        "differences": differences(train.manifest, held_out.manifest),
    }
    create_markdown_artifact(f"```\n{leakage_text(result)}\n```", key="corpus-leakage-result", description=title)
    if leakage.leaks:
        raise LeakFound(_error(result), result)
    return result


def leakage_text(result: dict[str, Any]) -> str:
    """The result as text: a summary line, example leaks, and notes on possible causes."""
    leaks = counted(result["leaks"], "leak") if result["leaks"] else "no leak"
    lines = [
        f"compared {result['train_rows']:,} train problems of {result['train']} with "
        f"{result['held_out_rows']:,} held-out problems of {result['held_out']}: {leaks}"
    ]
    for leak in result["examples"]:
        lines += [
            f"  {leak['train']} (train, {leak['train_shard']})",
            f"    is {leak['held_out']} ({leak['held_out_split']}, {leak['held_out_shard']})",
        ]
    if result["collisions"]:
        lines.append(f"{result['collisions']:,} more have equal hashes, but are different problems")
    return "\n".join([*lines, *(f"note: {difference}" for difference in result["differences"])])


def _error(result: dict[str, Any]) -> str:
    remedy = (
        "generate one of the corpora again with the split_key, validation and test of the other"
        if result["differences"]
        else "delete the listed shards and run the same 'numerate corpus generate' command again"
    )
    return (
        f"the train split of corpus {result['train']!r} contains {result['leaks']:,} of the problems that corpus "
        f"{result['held_out']!r} holds out: {remedy}"
    )
