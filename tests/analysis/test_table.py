"""Reading loss tables: what is inferred, what is refused, and that nothing is lost."""

import numpy as np
import pandas as pd
import pytest

from analysis.table import COLUMNS, TableError, cluster_levels, read_rows


def small(**columns):
    base = {
        "params_matmul": [1e6, 2e6, 4e6],
        "tokens": [4e7, 2e7, 1e7],
        "loss": [3.0, 2.9, 3.1],
    }
    return pd.DataFrame({**base, **columns})


def faults_of(frame, **options):
    with pytest.raises(TableError) as caught:
        read_rows(frame, **options)
    return caught.value.faults


def test_three_columns_are_enough_and_compute_is_6nd():
    table = read_rows(small())
    np.testing.assert_array_equal(table.flops, 6 * table.params * table.tokens)
    assert table.n_points == 3
    assert any("C = 6 N D" in note for note in table.notes)


def test_columns_come_out_in_the_documented_order():
    table = read_rows(small(seed=[0, 0, 0], note=["a", "b", "c"]))
    known = [c for c in table.frame.columns if c in COLUMNS]
    assert known == [c for c in COLUMNS if c in known]
    assert table.frame.columns[-1] == "note"


def test_integer_columns_do_not_overflow_6nd():
    frame = pd.DataFrame({"params": [7 * 10**10], "tokens": [10**13], "loss": [2.0]})
    assert read_rows(frame).flops[0] == pytest.approx(4.2e24)


def test_one_letter_names_of_the_field_are_read_and_noted():
    frame = pd.DataFrame({"N": [1e6, 2e6], "D": [1e7, 1e7], "C": [6e13, 1.2e14], "loss": [3, 2.9]})
    table = read_rows(frame)
    assert table.convention == "params"
    assert "column 'N' was read as 'params'" in table.notes


def test_tokens_come_from_compute_when_only_compute_is_given():
    frame = pd.DataFrame({"params": [1e6], "flops": [6e13], "loss": [3.0]})
    assert read_rows(frame).tokens[0] == pytest.approx(1e7)


def test_a_missing_column_names_what_was_found_and_the_remedy():
    faults = faults_of(pd.DataFrame({"model_size": [1.0], "token": [1.0], "Loss": [1.0]}))
    assert {f.rule for f in faults} == {"missing-column"}
    assert len(faults) == 3
    text = "\n".join(str(f) for f in faults)
    assert "found: model_size, token, Loss" in text
    assert "nearest name is 'token'" in text
    assert "--map tokens=token" in text


def test_a_mapping_renames_and_a_bad_mapping_is_explained():
    frame = small().rename(columns={"loss": "val_loss"})
    assert read_rows(frame, mapping={"loss": "val_loss"}).n_points == 3
    (fault,) = [f for f in faults_of(frame, mapping={"loss": "valloss"}) if "--map" in f.place]
    assert "did you mean 'val_loss'" in fault.message
    (fault,) = [f for f in faults_of(frame, mapping={"los": "val_loss"}) if "--map" in f.place]
    assert "did you mean 'loss'" in fault.message


def test_every_bad_cell_is_reported_in_one_pass_with_row_and_column():
    frame = pd.DataFrame(
        {
            "params": ["1e6", "abc", "2e6", "3e6"],
            "tokens": [1e7, 2e7, -5.0, 2e7],
            "loss": ["3.1", "3.0", "2,9", "inf"],
        }
    )
    faults = faults_of(frame)
    assert [(f.rule, f.place) for f in faults] == [
        ("not-a-number", "row 2, column params"),
        ("not-positive", "row 3, column tokens"),
        ("not-a-number", "row 3, column loss"),
        ("not-a-number", "row 4, column loss"),
    ]
    assert "comma" in faults[2].remedy
    assert "'abc'" in faults[0].message


def test_a_number_too_long_for_a_float_is_a_bad_cell_beside_good_ones():
    (fault,) = faults_of(small(params_matmul=["1e6", "9" * 400, "4e6"]))
    assert (fault.rule, fault.place) == ("not-a-number", "row 2, column params_matmul")


def test_blank_optional_cells_are_fine_and_blank_losses_are_not():
    table = read_rows(small(loss_sd=[0.01, np.nan, 0.02]))
    assert not table.has("loss_sd")
    (fault,) = faults_of(small(loss=[3.0, np.nan, 2.9]))
    assert "an empty cell" in fault.message


def test_excluded_rows_stay_with_their_reason_and_may_hold_anything():
    frame = small(loss=[3.0, np.nan, 2.9], excluded=["", "diverged", None])
    table = read_rows(frame)
    assert table.n_points == 2
    assert list(table.frame["excluded"]) == ["", "diverged", ""]


@pytest.mark.parametrize("flags", [[0, 1, 0], [False, True, False], ["0", "1", "0"]])
def test_truthy_flags_become_the_columns_name(flags):
    table = read_rows(small(outlier=flags), mapping={"excluded": "outlier"})
    assert list(table.frame["excluded"]) == ["", "outlier", ""]


def test_a_column_named_excluded_by_someone_is_followed():
    table = read_rows(small(excluded_by_epoch=[0, 0, 1]))
    assert table.n_points == 2
    assert list(table.frame["excluded"]) == ["", "", "excluded_by_epoch"]


def test_numbers_in_billions_are_a_fault_of_units():
    faults = faults_of(small(tokens=[0.04, 0.02, 0.01]))
    assert [f.rule for f in faults] == ["mixed-units"]
    assert "millions or billions" in faults[0].message


def test_two_units_in_one_column_are_a_fault():
    faults = faults_of(small(tokens=[4e10, 2e10, 20.0]))
    assert faults[0].rule == "mixed-units"
    assert faults[0].place.startswith("row 3")


def test_a_trial_listed_twice_is_a_fault():
    (fault,) = faults_of(small(trial_id=["a", "b", "a"]))
    assert fault.rule == "duplicate-trial"
    assert fault.place.startswith("rows 1, 3")


def test_an_exact_copy_of_a_row_is_excluded_and_said():
    frame = pd.concat([small(), small().iloc[:1]])
    table = read_rows(frame)
    assert table.n_points == 3
    assert any("repeat an earlier row" in note for note in table.notes)


def test_the_same_point_with_another_seed_is_a_replicate_not_a_copy():
    frame = pd.concat([small(seed=[0, 0, 0]), small(seed=[1, 1, 1])])
    assert read_rows(frame).n_points == 6


def test_an_empty_table_is_a_fault():
    faults = faults_of(small().iloc[:0])
    assert any(f.rule == "empty-table" for f in faults)


def test_the_default_convention_falls_back_to_what_the_table_has():
    table = read_rows(small().rename(columns={"params_matmul": "params_body"}))
    assert table.convention == "body"
    assert any("'params_body'" in note for note in table.notes)


def test_conventions_list_what_every_row_carries():
    table = read_rows(small(params_total=[2e6, 3e6, 5e6], params_body=[1e6, np.nan, 1e6]))
    assert table.conventions == ("matmul", "total")
    np.testing.assert_array_equal(table.with_convention("total").params, [2e6, 3e6, 5e6])
    with pytest.raises(KeyError, match="params_body"):
        table.with_convention("body")


def test_one_source_column_may_feed_two_of_ours():
    frame = pd.DataFrame({"n": [1e6, 2e6], "d": [1e7, 2e7], "loss": [3.0, 2.9]})
    table = read_rows(frame, mapping={"params_total": "n", "params_body": "n", "tokens": "d"})
    assert table.conventions == ("total", "body")


def test_levels_are_found_from_compute():
    compute = np.array([1e18, 1.01e18, 0.99e18, 3e18, 3.02e18, 2.98e18, 1e20])
    labels = cluster_levels(compute)
    assert len(set(labels[:3])) == 1
    assert len(set(labels[3:6])) == 1
    assert labels[6] == ""


def test_scattered_compute_makes_no_levels():
    assert set(cluster_levels(np.geomspace(1e18, 1e21, 60))) == {""}


def test_level_column_is_kept_as_text():
    assert list(read_rows(small(level=[0, 0, 1])).levels) == ["0", "0", "1"]


def test_selecting_rows_excludes_the_rest_with_the_reason():
    table = read_rows(small()).select(np.array([True, False, True]), reason="held out")
    assert table.n_points == 2
    assert list(table.frame["excluded"]) == ["", "held out", ""]
