"""Descriptions in MLflow: the report with its figures, cut where it has no room."""

from configs.study import Study
from tasks.tracking.descriptions import MAX_NOTE, point_note, report_note, study_note
from tasks.tracking.rows import collect_rows
from tests.unit.tracking.conftest import BuildStudy

_STUDY = Study.model_validate(
    {"name": "s", "description": "Why?", "experiment": {"kind": "federated", "data": "digits"}}
)


def test_figures_are_addresses_of_the_runs_artifacts() -> None:
    """MLflow's own server answers them; what is no file of the run stays as it was."""
    report = "# s\n\n![Curves of s](curves.png)\n\n![else](https://example.org/a.png)"
    report += "\n\nInteractive: [scaling.html](scaling.html)."

    note = report_note(_STUDY, report, "7", "abc")

    assert "![Curves of s](get-artifact?path=curves.png&run_uuid=abc)" in note
    assert "![else](https://example.org/a.png)" in note
    assert "[scaling.html](get-artifact?path=scaling.html&run_uuid=abc)" in note
    assert "viewStateShareKey=abc-by-grid" in note


def test_a_long_report_loses_whole_sections_and_says_so() -> None:
    """No table is cut in two, and what comes after it has room."""
    table = "\n".join(f"| {number} | x |" for number in range(2000))
    report = f"# s\n\nfirst\n\n{table}\n\n![c](curves.png)"

    note = report_note(_STUDY, report, "7", "abc")

    assert len(note) <= MAX_NOTE
    assert "| 0 | x |" not in note
    assert note.startswith("# s\n\nfirst")
    assert "path=curves.png" in note
    assert "`report.md` among the artifacts has all" in note


def test_a_study_that_has_begun_says_what_it_asks() -> None:
    """And by what its points can be compared."""
    note = study_note(_STUDY)

    assert note.startswith("Why?")
    assert "`time/virtual_s`" in note


def test_a_point_says_what_it_came_to(build_study: BuildStudy) -> None:
    """One line, and where its configuration is."""
    study = build_study({"seed": [0]})
    (row,) = collect_rows(study.path)

    note = point_note(row)

    assert note.startswith("**finished** at round 300: training loss 0.4")
    assert "`config.yaml`" in note
