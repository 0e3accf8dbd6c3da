"""RDT checked on paper B's own print."""

import pytest

from downstream.studies.rdt import check_printed_rdts, make_reference, relative_transferability


def test_rdt_has_the_sign_of_the_paper() -> None:
    # T2.10 of S.10; and the example of section 2.4.5: 70 and 65 % give -0.07.
    assert round(relative_transferability(0.610, 0.794), 3) == -0.232
    assert round(relative_transferability(0.65, 0.70), 2) == -0.07


def test_18_generalisation_rows_of_tables_3_and_4_are_reproduced_and_two_are_not() -> None:
    checks = check_printed_rdts().query("table in ('3', '4') and method == 'source_only'")
    assert len(checks) == 20
    wrong = checks[~checks.consistent]
    assert set(wrong.experiment) == {"T1.3", "T2.3"}
    # Both are of one model that is not the printed S.3 (78.7 %).
    assert wrong.implied_reference.tolist() == pytest.approx([0.767, 0.767], abs=0.0007)
    right = checks[checks.consistent]
    assert right.recomputed.tolist() == pytest.approx(right.value.tolist(), abs=0.0015)


def test_adaptation_rows_are_relative_to_s_10() -> None:
    checks = check_printed_rdts().set_index("experiment")
    for name, rdt in (("T1.11", 0.067), ("T2.11", -0.153), ("T3.1", -0.374), ("T3.2", -0.077)):
        assert checks.value[name] == rdt and checks.consistent[name]


def test_rdts_after_100_epochs_have_another_reference() -> None:
    late = check_printed_rdts().query("epochs == 100")
    assert late.set_index("experiment").implied_reference["T2.3"] == pytest.approx(0.746, abs=7e-4)
    assert len(late) == 9 and (late.implied_reference < 0.80).all()
    assert (late.recomputed < late.value).all()  # the printed reference is the better model


def test_a_reference_is_known_by_its_runs() -> None:
    one = make_reference({"b": 0.8, "a": 0.6})
    assert one.miou == pytest.approx(0.7) and one.run_ids == ("a", "b")
    assert one.id == make_reference({"a": 0.6, "b": 0.8}).id != make_reference({"a": 0.6}).id
