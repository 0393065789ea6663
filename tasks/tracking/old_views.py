"""Takes the chart views of older studies back, which would grow without end as tags.

Views are tags of the experiment (``views``), and a study that runs every night would leave more
than a thousand a year, which MLflow sends with every page. The description of a study that loses
its views leads to its points without one, so that none of its links is dead.
"""

from tasks.tracking.store import Store
from tasks.tracking.stored import StoredRun
from tasks.tracking.views import views_by_run, without_views

MOST_STUDIES = 20
"""Studies of an experiment that keep their views: the newest."""
_MOST_AT_ONCE = 5
"""Studies that lose them when another begins: it is not to wait long for an old experiment."""
_STUDIES = "tags.`watershed.study_directory` LIKE '%'"
_NOTE = "mlflow.note.content"


def retire_views(
    store: Store, experiment_id: str, run_id: str, *, most: int = MOST_STUDIES
) -> None:
    """Delete the views of older studies of an experiment, a few at a time.

    Those of studies that still run stay, and so do views that a person shares.

    Args:
        store: Where.
        experiment_id: The experiment.
        run_id: Of the study that begins, or goes on; it keeps its views however old it is.
        most: Studies that keep their views.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    views = views_by_run(store.experiment_tags(experiment_id))
    if len(views) <= most:
        return
    num_left = _MOST_AT_ONCE
    for number, run in enumerate(store.runs(experiment_id, _STUDIES)):
        keys = views.pop(run.run_id[:12], [])
        is_kept = number < most or run.status == "RUNNING" or run.run_id == run_id
        if not keys or is_kept:
            continue
        _forget(store, experiment_id, run)
        store.untag_experiment(experiment_id, keys)
        num_left -= 1
        if not num_left:
            return
    for keys in list(views.values())[:num_left]:  # of runs that were deleted in MLflow
        store.untag_experiment(experiment_id, keys)


def _forget(store: Store, experiment_id: str, run: StoredRun) -> None:
    """Let a study's description lead to its points without a view."""
    note = run.tags.get(_NOTE, "")
    plain = without_views(note, experiment_id, run.run_id)
    if plain != note:
        store.log_tags(run.run_id, {_NOTE: plain})
