"""Settings that do nothing are named."""

from model.config.encoder import EncoderConfig
from model.config.training import TrainingSpec


def test_a_setting_without_effect_is_named_with_the_reason() -> None:
    spec = TrainingSpec(
        operand_share=0.5,
        optimizer="adamw",
        matrix_learning_rate=0.1,
        encoder=EncoderConfig(positions=("sinusoidal",), reach=2, far="hidden", random_offset=True, longest=9),
    )
    assert spec.ignored == [
        "operand_share 0.5 is ignored: objective is answer",
        "matrix_learning_rate 0.1 is ignored: optimizer is adamw",
        "encoder.reach 2 is ignored: positions do not include relative",
        "encoder.far hidden is ignored: positions do not include relative",
        "encoder.random_offset True is ignored: positions do not include place-value",
        "encoder.longest 9 is ignored: positions do not include learned",
    ]
    assert not TrainingSpec().ignored
