"""The flow `train-encoder` on a finished run, and the documented query on a resumed one."""

import re
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows.common.parameters import TrainRequest
from flows.train_encoder import train_encoder
from model.runs.checkpoints import Checkpoints
from model.training.preflight import prepare
from model.training.trainer import train
from storage.sql.query import open_catalog
from tests.builders import TINY_TRAINING, Built
from tests.model.workers import Countdown

_README = (Path(__file__).parents[2] / "storage" / "README.md").read_text()


@pytest.mark.usefixtures("recorded")
def test_finished_run_is_reported_with_its_exact_match(own_small: Built, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = own_small.workspace
    (job,) = prepare(workspace, "one", "small", "small-digit", TINY_TRAINING)
    train(job)
    # A share that no untrained encoder reaches.
    index = Checkpoints(job.run / "checkpoints").index()
    last = index.entries[-1].model_copy(update={"exact_match": 0.75})
    index = index.model_copy(update={"entries": (*index.entries[:-1], last)})
    (job.run / "checkpoints" / "index.json").write(index.model_dump_json().encode())
    request = TrainRequest(
        workspace=str(workspace.root), name="one", corpus="small", tokenizer="small-digit", **TINY_TRAINING.model_dump()
    )
    result = train_encoder.fn(request)
    assert (result["steps"], result["exact_match"]) == (12, 0.75)
    assert "run one: up to date, 12 steps, exact match on validation 75.00%" in capsys.readouterr().err


def test_documented_share_of_waiting_counts_the_time_before_a_resume(own_small: Built) -> None:
    workspace = own_small.workspace
    (job,) = prepare(workspace, "notebook", "small", "small-digit", TINY_TRAINING.model_copy(update={"steps": 30}))
    train(job, stop=Countdown(1))
    (*_, last) = (name for name in (job.run / "metrics").children())
    place = Path(str(job.run / "metrics" / last))
    table = pq.read_table(place)
    # As if the first steps had taken an hour more, and had waited half an hour for data.
    for name, more in (("seconds", 3_600.0), ("data_seconds", 1_800.0 / len(table))):
        table = table.set_column(table.schema.get_field_index(name), name, pc.add(table.column(name), more))
    pq.write_table(table, place)
    train(job)
    (query,) = re.findall(r'numerate sql "(SELECT round\(100 \* sum\(data_seconds\).*)"', _README)
    with open_catalog(workspace) as connection:
        ((percent,),) = connection.sql(query).fetchall()
    # Half of an hour, and some seconds.
    assert 40 < percent < 51
