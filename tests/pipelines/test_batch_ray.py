"""The engine for Ray on a stand-in for Ray Data, which runs one actor in this process.

Ray itself is in tests/integrations/test_ray.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamprune.errors import ModelError, RecipeError
from streamprune.pipelines import batch_process, batch_ray
from tests.pipelines.test_batch import MADE_WORKER, ask, rows_of, write_jobs


class RayGaveUpError(Exception):
    """What stands for RayError."""


class Dataset:
    """Rows in order; what becomes of them is said ``times`` over, as after a lost block."""

    def __init__(self, rows: list[dict[str, str]], seen: dict[str, Any]) -> None:
        self.rows, self.seen = rows, seen

    def repartition(self, blocks: int) -> Dataset:
        self.seen["blocks"] = blocks
        return self

    def map_batches(self, actor: Any, **how: Any) -> Dataset:
        self.actor, self.how = actor, how
        return self

    def iter_rows(self) -> Iterator[Mapping[str, str]]:
        actor, size = self.actor(*self.how["fn_constructor_args"]), self.how["batch_size"]
        try:
            for start in range(0, len(self.rows), size):
                if self.seen.get("gives_up_at") == start:
                    raise RayGaveUpError("all nodes are gone\nand more lines")
                said = actor({"group": [row["group"] for row in self.rows[start : start + size]]})["said"]
                for one in said * self.seen.get("times", 1):
                    yield {"said": one}
                if self.seen.get("ends_early"):
                    return
        finally:
            actor._pool.close()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How the stand-in shall behave, and what it was told."""
    found: dict[str, Any] = {}
    stand_in = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 4.0},
        exceptions=SimpleNamespace(RayError=RayGaveUpError),
        data=SimpleNamespace(
            from_items=lambda rows: Dataset(rows, found),
            ActorPoolStrategy=lambda size: found.update(size=size),
        ),
    )
    monkeypatch.setattr(batch_ray, "_ray", lambda: stand_in)
    monkeypatch.setattr(batch_process, "COMMAND", MADE_WORKER)
    return found


def test_answers_are_those_of_the_local_engine(tmp_path: Path, seen: dict[str, Any]) -> None:
    jobs = write_jobs(tmp_path, *"abc", "once", "kill", "missing")
    local, _ = ask(jobs, "local.jsonl")
    seen["times"] = 2  # a block that is computed twice is answered once
    on_ray, _ = ask(jobs, engine="ray", workers=None)
    assert (tmp_path / "answers.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert on_ray.failed == local.failed
    assert (seen["size"], seen["blocks"]) == (2, 6), "a worker for two CPUs, small blocks"


def test_what_is_wrong_with_every_video_comes_back_from_an_actor(
    tmp_path: Path, seen: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match="with this recipe"):
        ask(write_jobs(tmp_path, "a", "fatal", questions=1), engine="ray")
    assert [row["id"] for row in rows_of(tmp_path / "answers.jsonl")] == ["a-0"]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [({"gives_up_at": 1}, "all nodes are gone; run again"), ({"ends_early": True}, "answer to 1 questions")],
)
def test_what_ray_loses_is_told_and_asked_by_the_next_run(
    tmp_path: Path, seen: dict[str, Any], trouble: dict[str, Any], told: str
) -> None:
    jobs = write_jobs(tmp_path, "a", "b", questions=1)
    seen.update(trouble)
    with pytest.raises(ModelError, match=told):
        ask(jobs, engine="ray")
    seen.clear()
    done, _ = ask(jobs, engine="ray")
    assert (done.found, done.work.questions, done.failed) == (1, 1, ())


def test_many_videos_come_in_blocks_that_a_kill_may_cost(tmp_path: Path, seen: dict[str, Any]) -> None:
    jobs = write_jobs(tmp_path, *map(str, range(130)), questions=1)
    done, rows = ask(jobs, engine="ray", workers=2)
    assert (len(rows), done.work.questions, seen["blocks"]) == (130, 130, 17)
