"""Probing of the encoder that rewrites: labels and edits against Python's integers, and the tables of a run."""

import random
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedRewriter, open_trained
from model.network.rewriting.encoder import CARRIES, EQUAL, GREATER, LESS
from model.probing.hooks import State
from model.probing.probe_run import probe
from model.probing.rewriting.edits import _carrying, _consuming, carried, consumed_digit, precedence
from model.probing.rewriting.operations import drawn_operations, exact_result, examples_of_places
from model.probing.rewriting.reads import hub_reads, operator_reads, slot_reads
from model.probing.rewriting.study import RewritingStudy
from model.probing.token_dataset import UNKNOWN
from model.runs.pretrained import resolve_run, shipped_runs
from model.tokenizer import REGISTER
from storage.errors import UserError
from storage.workspace import Workspace


@pytest.fixture(scope="module")
def model() -> TrainedRewriter:
    model = open_trained(shipped_runs()["arithmetic"])
    assert isinstance(model, TrainedRewriter)
    return model


def test_labels_are_those_of_written_arithmetic(model: TrainedRewriter) -> None:
    texts = drawn_operations(300, range(1, 7), 1)
    assert len({*texts}) == 300
    operations = model.operations(texts)
    examples = examples_of_places(texts, operations)
    for index, (problem, place) in enumerate(zip(examples.problem, examples.column - 1, strict=True)):
        text = texts[problem]
        first, second, *register = map(int, re.split(rf"[-+*{REGISTER}]", text))
        found = {name: int(values[index]) for name, values in examples.labels.items()}
        power = 10**place
        assert found["digit"] == int(exact_result(text)) // power % 10
        below = [number % power for number in (first, second)]
        if "-" in text:
            order = EQUAL if below[0] == below[1] else LESS if below[0] < below[1] else GREATER
            assert (found["comparison"], found["carry in"], found["consumed digit"]) == (order, UNKNOWN, UNKNOWN)
            continue
        assert found["comparison"] == UNKNOWN
        if "+" in text:
            assert found["carry in"] == sum(below) // power
            assert found["consumed digit"] == UNKNOWN
            continue
        digit = int(str(second)[0])
        assert found["consumed digit"] == digit
        # Each column has the units of its own product, the tens of the lower one, and a digit of the register.
        units = [int(each) * digit for each in reversed(f"{first:020d}")]
        columns = [
            units[at] % 10 + (units[at - 1] // 10 if at else 0) + (10 * register[0] // 10**at % 10) for at in range(20)
        ]
        assert found["column sum"] == columns[place]
        assert found["carry in"] == sum(column * 10**at for at, column in enumerate(columns[:place])) // power
        assert found["carry in"] < CARRIES


def test_donors_differ_only_in_what_the_edit_names() -> None:
    draw = random.Random(3)
    for _ in range(200):
        pair = _consuming(draw)
        steps = [re.split(rf"[*{REGISTER}]", text) for text in (pair.text, pair.donor, pair.control)]
        (a, b, r), (donor_a, donor_b, donor_r), (_, control_b, _) = steps
        assert (a, b[1:], r) == (donor_a, donor_b[1:], donor_r)
        assert b[0] != donor_b[0]
        assert control_b == b
        assert [len(part) for part in steps[0]] == [len(part) for part in steps[2]]
        pair = _carrying(draw)
        sums = [[int(number) for number in text.split("+")] for text in (pair.text, pair.donor, pair.control)]
        power = 10**pair.place
        assert len({tuple(number // (power // 10) for number in numbers) for numbers in sums}) == 1
        assert sum(number // (power // 10) % 10 for number in sums[0]) == 9
        carries = [sum(number % power for number in numbers) // power for numbers in sums]
        assert carries[0] == carries[2] != carries[1]


def test_results_and_marks_follow_the_donor_and_not_the_control(model: TrainedRewriter) -> None:
    outcomes = [outcome for edit in (consumed_digit, carried, precedence) for outcome in edit(model, 100, 1)]
    by_way = {(each.experiment, each.site, each.state, each.way): each for each in outcomes}
    digit = by_way["consumed digit", "hub", State(0, 1), "consumed digit"]
    assert digit.predicted > 0.8
    assert by_way["consumed digit", "hub", State(0, 1), "same digit"].unchanged > 0.8
    carry = by_way["carry between places", "lower slot", State(0, 1), "carry between places"]
    assert carry.predicted > 0.8
    assert carry.spilt == 0
    assert by_way["carry between places", "lower slot", State(0, 1), "same carry"].unchanged > 0.8
    assert max(each.predicted for each in outcomes if each.way == "next operator") > 0.8
    assert min(each.unchanged for each in outcomes if each.way == "same operator") > 0.9


def test_weights_of_a_head_add_up_to_one(model: TrainedRewriter) -> None:
    texts = drawn_operations(60, range(1, 9), 2)
    operations = model.operations(texts)
    for reads in (hub_reads, slot_reads):
        totals: dict[tuple[State, int], float] = {}
        for each in reads(model.encoder, operations, 4):
            totals[each.state, each.head] = totals.get((each.state, each.head), 0.0) + each.weight
            assert each.even
        assert totals.keys() == {(State(loop, 1), head) for loop in range(1, 5) for head in range(4)}
        # Sums of up to 30 float32 means; a role that is missing or counted twice changes them by 0.01 and more.
        assert all(total == pytest.approx(1, abs=1e-3) for total in totals.values())
    units = model.units(["12+3*45"] * 2)
    assert {(each.state.loop, each.difference) for each in operator_reads(model.encoder, units, [2, 2])} == {
        (loop, away) for loop in (1, 2) for away in range(-3, 4)
    }


def test_a_run_is_probed_and_a_second_time_nothing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.probing.probes._ITERATIONS", 10)
    workspace = Workspace.create(str(tmp_path))
    run = workspace.run(resolve_run(workspace, "arithmetic"))
    spec = ProbingSpec(problems=200, edited=90, loops=(6,))
    model, up_to_date = probe(run, spec)
    assert isinstance(model, TrainedRewriter)
    assert not up_to_date
    folder = tmp_path / "runs" / "shipped-arithmetic" / "probes"
    tables = {name: pq.read_table(folder / f"{name}.best.parquet") for name in RewritingStudy.parts()}
    rows = tables["probes"].to_pylist()
    kappas = {(row["label"], row["loop"], row["control"]): row["kappa"] for row in rows if row["split"] == "numbers"}
    assert kappas["consumed digit", 6, "trained"] > 0.8 > kappas["consumed digit", 6, "untrained"] + 0.3
    assert kappas["carry in", 6, "trained"] > 0.8 > kappas["carry in", 6, "untrained"] + 0.3
    assert probe(run, spec)[1]
    with pytest.raises(UserError, match="loop 9 does not exist: run 'shipped-arithmetic' has loops 1 to 8"):
        probe(run, ProbingSpec(loops=(9,)))
