"""Named requests for `numerate run NAME` and `numerate corpus generate NAME`."""

from typing import Any

from flows.common.parameters import EndToEndRequest, GenerateRequest
from model.config.encoder import EncoderConfig
from model.config.presets import ENCODERS
from model.config.training import CurriculumStage, TrainingSpec
from pipelines.spec.presets import CORPORA

_SMALL_BATCHES: dict[str, Any] = {
    "batch_size": 256,
    "learning_rate": 5e-3,
    "matrix_learning_rate": 0.02,
    "checkpoint_every": 1_000,
}
_RARE_DIFFERENCES: dict[str, Any] = {
    "curriculum": (CurriculumStage(steps=4_500),),
    "where": "operators = '-' AND answer_digits < digits OR id % 50 = 0",
}

PRESETS: dict[str, EndToEndRequest] = {
    "notebook": EndToEndRequest(),
    # Two numbers 0–99, in a minute: a quick test of all stages, not of accuracy.
    "quick": EndToEndRequest(
        corpus=CORPORA["quick"],
        training=TrainingSpec(
            steps=600,
            batch_size=256,
            matrix_learning_rate=0.02,
            encoder=EncoderConfig(width=64, feedforward=256),
            validation_rows=256,
            validate_every=100,
            # All checkpoints are kept, for probing along training.
            checkpoint_every=50,
            keep=12,
        ),
    ),
    # Baseline: the notebook's own encoder, with the same problems and number of steps.
    "vanilla": EndToEndRequest(
        name="vanilla",
        training=TrainingSpec(encoder=ENCODERS["vanilla"], optimizer="adamw", learning_rate=1e-3),
    ),
    # + − × of numbers of any length, with brackets, by rewriting.
    "arithmetic": EndToEndRequest(
        name="arithmetic",
        corpus=CORPORA["rewriting"],
        training=TrainingSpec(
            encoder=ENCODERS["rewriting"],
            objective="rewriting",
            oversample="",
            steps=9_000,
            batch_size=256,
            matrix_learning_rate=0.02,
            learning_rate=5e-3,
            validate_every=500,
            validation_rows=4_096,
            checkpoint_every=1_000,
        ),
    ),
    # Larger encoders on the notebook's problems, for machines with a GPU.
    **{
        name: EndToEndRequest(name=name, training=TrainingSpec(encoder=ENCODERS[name], learning_rate=rate, **more))
        for name, rate, more in (
            ("small", 4e-3, {"matrix_learning_rate": 0.02}),
            ("base", 2e-3, {"matrix_learning_rate": 0.02}),
            ("paper", 3e-4, {"optimizer": "adamw"}),
        )
    },
    **{
        name: EndToEndRequest(
            name=name,
            corpus=CORPORA[corpus],
            training=TrainingSpec(encoder=encoder, steps=steps, **_SMALL_BATCHES, **more),
        )
        for name, corpus, encoder, steps, more in (
            # Sums of two numbers of up to ten digits, for evaluation on far longer ones.
            ("length", "addition-10", ENCODERS["local"], 2_500, {}),
            # Products of two numbers of up to three digits.
            ("products", "products-3", ENCODERS["mixing"], 9_000, {"running_sum": 1.0}),
            # Brackets, signs and all operators, up to four numbers of one digit.
            ("expressions", "expressions-4", ENCODERS["mixing"], 9_000, {}),
            # + and − of two numbers of up to five digits, negative results included.
            ("signed", "signed-5", ENCODERS["signed"], 6_000, {}),
            # The same up to twelve digits. The last steps train mostly on differences of numbers with equal leading
            # digits, which are rare by chance.
            ("signed-12", "signed-12", ENCODERS["signed"].model_copy(update={"loops": 4}), 7_000, _RARE_DIFFERENCES),
        )
    },
}

CORPUS_PRESETS = {name: GenerateRequest(**spec.model_dump(exclude_unset=True)) for name, spec in CORPORA.items()}
