"""The flow `generate-corpus`."""

import time
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import GenerateRequest, InWorkspace
from flows.common.presets import CORPUS_PRESETS
from flows.common.progress import human, metered, say
from flows.common.timing import note_seconds
from flows.hub.contents import CARD
from flows.hub.dataset_card import corpus_card
from flows.reports.artifacts import show_corpus
from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import committed
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@flow(name="generate-corpus", flow_run_name="generate {request.name}")
def generate_corpus(request: GenerateRequest) -> dict[str, Any]:
    """Generate a corpus of arithmetic problems unless it is up to date; `seconds` include the start of Ray."""
    workspace, spec = Workspace.create(request.workspace), request.spec(CorpusSpec)
    folder = workspace.corpus(spec.name)
    began = time.monotonic()
    session = ray_session(request.ray, workspace.root)
    with session as cpus, metered("generate-corpus", f"corpus {spec.name}", spec.total_rows) as meter:
        dataset, made = build_corpus(spec, folder, in_flight=cpus, progress=meter.add, finished=meter.add_finished)
    seconds = time.monotonic() - began
    rows, size = dataset.manifest.rows, dataset.manifest.bytes
    headline = f"corpus {spec.name}: up to date, {rows:,} rows"
    if made:
        note_seconds(folder, seconds, add=True)
        headline = (
            f"corpus {spec.name}: {rows:,} rows in {seconds:.1f} s, {human(rows / seconds)} rows/s, "
            f"{size / rows:.2f} bytes a row"
        )
    # A generation that was killed after its commit has no card.
    if made or (not (folder / CARD).exists() and folder.can_be_written()):
        (folder / CARD).write(corpus_card(dataset).encode())
        refresh_catalog(workspace)
    say(headline)
    show_corpus(workspace, dataset, headline)
    return {
        "corpus": spec.name,
        "location": str(folder),
        "identity": dataset.manifest.identity,
        "rows": rows,
        "bytes": size,
        "seconds": seconds,
    }


def ensure_corpus(request: InWorkspace, name: str) -> None:
    """Generate a corpus that is missing in the request's workspace, if it has the name of a preset."""
    if name in CORPUS_PRESETS and not committed(Workspace.open(request.workspace).corpus(name)):
        generate_corpus(CORPUS_PRESETS[name].model_copy(update=request.workspace_and_ray))
