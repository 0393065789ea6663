"""Shared chart views: what MLflow is told to show."""

import json
import re
from typing import Literal
from urllib.parse import parse_qs

import pytest

from tasks.tracking.views import (
    view_address,
    view_links,
    view_tags,
    views_by_run,
    without_views,
)

PARENT = "b03f22c57a1e4771a06a0bf116750d8b"


def test_both_views_show_the_points_of_one_study_run() -> None:
    """Each view filters by the parent run and groups by the first axis; the x-axes differ."""
    tags = view_tags(PARENT, ["algorithm", "arrivals"], "federated")

    views = {key.rsplit("-by-", 1)[-1]: json.loads(text) for key, text in tags.items()}
    assert set(views) == {"step", "virtual-time"}
    for view in views.values():
        assert PARENT in view["searchFilter"]
        assert [key["groupByData"] for key in view["groupBy"]["groupByKeys"]] == ["axis.algorithm"]
    assert views["step"]["globalLineChartConfig"]["xAxisKey"] == "step"
    assert views["virtual-time"]["globalLineChartConfig"]["selectedXAxisMetricKey"] == (
        "time/virtual_s"
    )


def test_trainings_are_compared_by_wall_time_and_by_tokens() -> None:
    """A study of trainings has no virtual time: its views have x-axes that it measures."""
    tags = view_tags(PARENT, ["partition"], "training")

    x_axes = {
        key.rsplit("-by-", 1)[-1]: json.loads(text)["globalLineChartConfig"]
        for key, text in tags.items()
    }
    assert {name: axis["selectedXAxisMetricKey"] for name, axis in x_axes.items()} == {
        "step": "",
        "wall-time": "time/wall_s",
        "tokens": "tokens/total",
    }


def test_the_address_names_a_view_that_is_kept() -> None:
    """The key in the address is the key of one of the tags."""
    address = view_address("7", PARENT)

    key = address.split("viewStateShareKey=")[1].split("&")[0]
    assert f"mlflow.sharedViewState.{key}" in view_tags(PARENT, [], "training")
    assert address.startswith("/#/experiments/7/runs?")


def test_the_grid_is_shown_in_parallel_coordinates_of_runs_that_are_not_grouped() -> None:
    """MLflow draws none of grouped runs with texts; sorted by a result, children are not folded."""
    tags = view_tags(PARENT, ["algorithm"], "federated", ["algorithm", "worker.lr"])

    view = json.loads(tags["mlflow.sharedViewState.b03f22c57a1e-by-grid"])
    (chart,) = view["compareRunCharts"]
    assert (chart["type"], view["groupBy"]) == ("PARALLEL", None)
    assert chart["selectedParams"] == ["algorithm", "worker.lr"]
    assert chart["metricSectionId"] == view["compareRunSections"][0]["uuid"]
    assert view["orderByKey"] == f"metrics.`{chart['selectedMetrics'][0]}`"


def test_views_name_axes_as_mlflow_does() -> None:
    """It refuses commas, parentheses and others, which are replaced in what runs have, too."""
    tags = view_tags(PARENT, ["step, size"], "training", ["step, size", "a[b]"])

    by_step = json.loads(tags["mlflow.sharedViewState.b03f22c57a1e-by-step"])
    (chart,) = json.loads(tags["mlflow.sharedViewState.b03f22c57a1e-by-grid"])["compareRunCharts"]
    assert [k["groupByData"] for k in by_step["groupBy"]["groupByKeys"]] == ["axis.step_ size"]
    assert chart["selectedParams"] == ["step_ size", "a_b_"]


def test_links_lead_to_views_that_are_kept() -> None:
    """Every key in the links is one of a tag."""
    links = view_links("7", PARENT, "training")

    tags = view_tags(PARENT, ["ranks"], "training", ["ranks"])
    keys = re.findall(r"viewStateShareKey=([\w-]+)", links)
    assert {f"mlflow.sharedViewState.{key}" for key in keys} == set(tags)


@pytest.mark.parametrize("kind", ["federated", "training"])
def test_a_description_without_views_has_one_link_that_needs_none(
    kind: Literal["federated", "training"],
) -> None:
    """It filters by the study's run, and orders by a result; all other words stay."""
    note = f"# s\n\nCompare the points by {view_links('7', PARENT, kind)}. In a chart view"

    plain = without_views(note, "7", PARENT)

    (link,) = re.findall(r"Compare the points by \[step\]\((\S+)\)\. In a chart view", plain)
    asked = parse_qs(link.partition("?")[2])
    assert asked["searchFilter"] == [f"tags.`mlflow.parentRunId` = '{PARENT}'"]
    assert asked["orderByKey"][0].startswith("metrics.`result/")
    assert "viewStateShareKey" not in plain
    assert without_views(plain, "7", PARENT) == plain


def test_views_of_persons_are_not_taken_for_ours() -> None:
    """Their keys are hashes."""
    ours = view_tags(PARENT, ["a"], "training", ["a"])
    theirs = {f"mlflow.sharedViewState.{'0a' * 32}": "{}", "mlflow.note.content": "by-step"}

    assert views_by_run({**ours, **theirs}) == {PARENT[:12]: list(ours)}
