import json
import sys
from pathlib import Path

import pytest
import torch

from model.config.training import CurriculumStage
from model.network.compilation import compiles
from model.tokenizer import TokenLayout
from model.training.__main__ import main
from model.training.preflight import prepare
from storage.errors import RunFailure, UserError
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import job_of


@pytest.mark.parametrize("change", [{"objective": "anywhere"}, {}])
def test_carries_are_waited_for_in_answers_of_sums_alone(
    operations: Built, small: Built, change: dict[str, str]
) -> None:
    encoder = TINY_TRAINING.encoder.model_copy(update={"carry_loops": 1})
    spec = TINY_TRAINING.model_copy(update={"encoder": encoder, **change})
    built = small if change else operations
    name = built.corpus.manifest.name
    with pytest.raises(
        UserError, match=r"carry_loops is 1, but it requires objective answer and a corpus of sums without brackets"
    ):
        prepare(built.workspace, "never", name, f"{name}-digit", spec)


def test_running_sums_of_a_corpus_without_products_are_refused(small: Built) -> None:
    with pytest.raises(UserError, match=r"running_sum is 0.5, but corpus 'small' has no products: set it to 0"):
        prepare(small.workspace, "never", "small", "small-digit", TINY_TRAINING.model_copy(update={"running_sum": 0.5}))
    assert not small.workspace.run("never").exists()


def test_compiling_without_a_compiler_is_refused_and_left_to_itself_never_fails(
    small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for choice, device in (("auto", "cpu"), ("auto", "cuda"), ("off", "cpu")):
        assert not compiles(TINY_TRAINING.model_copy(update={"compile": choice}), torch.device(device))
    with pytest.raises(UserError, match=r"compile is on, but no C.. compiler was found .*: install g"):
        prepare(small.workspace, "never", "small", "small-digit", TINY_TRAINING.model_copy(update={"compile": "on"}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"where": "digits <"}, "is not a valid condition over"),
        ({"curriculum": (CurriculumStage(where="oops > 1", steps=3),)}, "is not a valid condition over"),
        ({"where": "digits > 99"}, "the split has 0 rows"),
    ],
)
def test_a_bad_where_is_refused_before_any_work(longer: Built, values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(longer.workspace, "never", "longer", "longer-digit", TINY_TRAINING.model_copy(update=values))
    assert not longer.workspace.run("never").exists()


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"places": 9}, r"encoder.places is 9, 10 is needed for this corpus"),
        ({"operands": 2, "positions": ("learned",), "longest": 16}, r"encoder.longest is 16, 19 is needed"),
    ],
)
def test_an_encoder_whose_positions_are_too_few_is_refused(
    longer: Built, encoder: dict[str, object], message: str
) -> None:
    spec = TINY_TRAINING.model_copy(update={"encoder": TINY_TRAINING.encoder.model_copy(update=encoder)})
    with pytest.raises(UserError, match=message):
        prepare(longer.workspace, "never", "longer", "longer-digit", spec)
    assert not longer.workspace.run("never").exists()


def test_a_split_that_is_too_small_is_refused_before_any_work(small: Built) -> None:
    spec = TINY_TRAINING.model_copy(update={"batch_size": 1 << 14})
    with pytest.raises(UserError, match="less than one batch of 16,384"):
        prepare(small.workspace, "never", "small", "small-digit", spec)
    assert not small.workspace.run("never").exists()


def test_a_flipped_byte_in_the_tokens_is_refused_before_any_work(own_small: Built) -> None:
    place = own_small.tokens.checked(own_small.tokens.of_split("train")[0])
    data = bytearray(place.read())
    data[200] ^= 1
    place.write(bytes(data))
    with pytest.raises(RunFailure, match=r"shard .* is damaged: delete it and run the same 'numerate encode' command"):
        prepare(own_small.workspace, "never", "small", "small-digit", TINY_TRAINING)
    assert not own_small.workspace.run("never").exists()


def test_a_run_name_in_use_with_another_configuration_is_refused(small: Built, tmp_path: Path) -> None:
    job_of(small, tmp_path, TINY_TRAINING)
    with pytest.raises(UserError, match=r"training.seed: 0 in the run, 5 requested.*choose another name"):
        job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"seed": 5}))
    job_of(small, tmp_path, TINY_TRAINING.model_copy(update={"workers": 2}))


def test_rows_that_are_in_no_batch_are_reported_with_their_numbers(
    longer: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layouts with fewer rows than a batch: once, though every stage leaves them out."""
    held: dict[int, int] = {}
    for shard in longer.tokens.of_split("train"):
        width = TokenLayout(**longer.tokens.manifest.spec["layouts"][shard.stratum]).width
        held[width] = held.get(width, 0) + shard.rows
    few, many = sorted(held.values())
    size = (few // 64 + 1) * 64
    assert few < size <= many

    def left_out(**values: object) -> tuple[str, ...]:
        spec = TINY_TRAINING.model_copy(update=values)
        (job,) = prepare(longer.workspace, "incomplete", "longer", "longer-digit", spec)
        longer.workspace.run("incomplete").remove()
        return tuple(line for line in job.left_out if "rows of train" in line)

    (width,) = (width for width, rows in held.items() if rows == few)
    assert left_out(batch_size=64) == ()
    assert left_out(batch_size=size) == (
        f"{few:,} of {few + many:,} rows of train are left out: {few:,} rows of {width} tokens; a batch needs {size:,} "
        "rows of one width: lower batch_size or use a larger corpus",
    )
    job = {
        "workspace": str(longer.workspace.root),
        "corpus": "longer",
        "name": "incomplete",
        "training": TINY_TRAINING.model_copy(update={"batch_size": size, "steps": 1}).model_dump(mode="json"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["model.training", str(tmp_path / "job.json")])
    assert main() == 0
    longer.workspace.run("incomplete").remove()
    assert f"warning: {few:,} of {few + many:,} rows of train are left out" in capsys.readouterr().err
    (first,) = left_out(batch_size=size, curriculum=(CurriculumStage(where="true", steps=3),), where="true")
    assert f"rows of train where true are left out: {few:,} rows of {width} tokens" in first
    # Nobody has to do anything about few rows.
    monkeypatch.setattr("model.training.batches._FEW", 1.0)
    assert left_out(batch_size=size)[0].endswith(f"a batch needs {size:,} rows of one width")
