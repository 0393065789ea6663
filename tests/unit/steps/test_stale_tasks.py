"""Task runs that a killed flow process has left."""

from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest

from tasks.steps import stale_tasks

_PAGE = 200


class _Server:
    """Answers with a page at a time, as Prefect does, and is slow to notice what was closed."""

    def __init__(self, num_left: int) -> None:
        self.left = [uuid4() for _ in range(num_left)]
        self.closed: list[UUID] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_task_runs(self, **_: object) -> list[Any]:
        late = self.closed[-1:]
        open_ = [one for one in self.left if one not in self.closed]
        return [SimpleNamespace(id=one) for one in [*late, *open_][:_PAGE]]

    def set_task_run_state(self, task_run_id: UUID, *_: object, **__: object) -> None:
        self.closed.append(task_run_id)


def test_all_of_them_are_closed_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study has more points than a page of the server."""
    server = _Server(450)
    monkeypatch.setattr(stale_tasks, "get_client", lambda **_: server)

    assert stale_tasks.close_stale_tasks(str(uuid4())) == 450
    assert sorted(server.closed) == sorted(server.left)


@pytest.mark.parametrize("num_tasks", [0, 1])
def test_a_flow_run_has_begun_tasks_once_prefect_knows_of_one(
    monkeypatch: pytest.MonkeyPatch, num_tasks: int
) -> None:
    """Whatever has become of it."""
    monkeypatch.setattr(stale_tasks, "get_client", lambda **_: _Server(num_tasks))

    assert stale_tasks.has_begun_tasks(str(uuid4())) == bool(num_tasks)
