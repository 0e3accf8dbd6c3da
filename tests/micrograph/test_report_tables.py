"""A table is the same in Markdown and in CSV."""

from micrograph.confidence_intervals import NAN, Interval
from micrograph.report_tables import MeanStd, Percent, Table, page, to_csv, to_markdown

ROWS = [
    {"name": "a|b", "value": Percent(0.5, True, Interval(0.25, 0.75, "Student's t", 3))},
    {"name": "c", "n": 2, "score": MeanStd(0.61, NAN, 1, {"fold_std": 0.1})},
]


def test_markdown_is_in_percent() -> None:
    assert to_markdown(ROWS) == [
        "| name | value | n | score |",
        "| --- | --- | --- | --- |",
        "| a\\|b | +50.0 [+25.0, +75.0] |  |  |",
        "| c |  | 2 | 61.0 |",
    ]


def test_csv_states_method_and_n_of_an_interval() -> None:
    value = "value,value low,value high,value interval"
    assert to_csv(ROWS).splitlines() == [
        f"name,{value},n,score mean,score std,score fold_std,score n",
        'a|b,0.5,0.25,0.75,"Student\'s t, n 3",,,,,',
        "c,,,,,2,0.61,,0.1,1",
    ]


def test_a_note_that_tables_share_is_printed_once() -> None:
    text = page(
        "Title", ["Few."], [Table("x", "X", ROWS, ["A note."]), Table("y", "Y", ROWS, ["A note."])]
    )
    assert text.startswith("# Title\nFew.\n\n## X\n\n| name |")
    assert text.count("A note.") == 1
