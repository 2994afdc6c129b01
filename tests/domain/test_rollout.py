from trivium.domain.inference import Arm
from trivium.domain.rollout import choose_arm, choose_variant


def test_the_flag_decides_the_arm() -> None:
    assert choose_arm(enabled=True) is Arm.TREATMENT
    assert choose_arm(enabled=False) is Arm.CONTROL


def test_treatment_gets_the_whole_chain_in_its_order() -> None:
    assert choose_variant(Arm.TREATMENT, ["served", "fallback", "static"]) == ["served", "fallback", "static"]


def test_control_gets_nothing_but_the_non_ai_version() -> None:
    assert choose_variant(Arm.CONTROL, ["served", "fallback", "static"]) == ["static"]
    assert choose_variant(Arm.CONTROL, ["static"]) == ["static"]
