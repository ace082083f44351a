"""MVBench: twenty tasks on short clips of eleven older sets.

Source: the set's release (OpenGVLab/MVBench): a json file for each task, the videos in the folders of the
sets they come from, and which tasks ask about a part of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_of_text
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import Record, read_records

_IMAGES_FPS = 3.0


@dataclass(frozen=True)
class _Task:
    """Where the videos of a task are, and whether its start and end count."""

    folder: str
    part: bool = False
    images: bool = False


_CHARADES, _CLEVRER, _PERCEPTION = "star/Charades_v1_480", "clevrer/video_validation", "perception/videos"
_TASKS = {
    "action_sequence": _Task(_CHARADES, part=True),
    "action_prediction": _Task(_CHARADES, part=True),
    "action_antonym": _Task("ssv2_video"),
    "fine_grained_action": _Task("Moments_in_Time_Raw/videos"),
    "unexpected_action": _Task("FunQA_test/test"),
    "object_existence": _Task(_CLEVRER),
    "object_interaction": _Task(_CHARADES, part=True),
    "object_shuffle": _Task(_PERCEPTION),
    "moving_direction": _Task(_CLEVRER),
    "action_localization": _Task("sta/sta_video", part=True),
    "scene_transition": _Task("scene_qa/video"),
    "action_count": _Task(_PERCEPTION),
    "moving_count": _Task(_CLEVRER),
    "moving_attribute": _Task(_CLEVRER),
    "state_change": _Task(_PERCEPTION),
    "fine_grained_pose": _Task("nturgbd"),
    "character_order": _Task(_PERCEPTION),
    "egocentric_navigation": _Task("vlnqa"),
    "episodic_reasoning": _Task("tvqa/frames_fps3_hq", part=True, images=True),
    "counterfactual_inference": _Task(_CLEVRER),
}


class MVBench(Benchmark):
    """Subsets are the tasks. Episodic reasoning is on folders of images at 3 frames per second."""

    name = "mvbench"
    title = "MVBench"
    question_files = tuple(f"json/{task}.json" for task in _TASKS)
    columns = ("video", "question", "candidates", "answer")
    layout = "json/TASK.json, video/ with star, ssv2_video, clevrer, perception, sta, tvqa/frames_fps3_hq ..."
    subsets = tuple(_TASKS)

    def paths(self, folder: SetFolder) -> list[Path]:
        """The files of the wanted tasks that are there."""
        names = [f"json/{folder.subset}.json"] if folder.subset else self.question_files
        return [folder.path / name for name in names if (folder.path / name).is_file()]

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """Items task by task; seconds where the task asks about a part of the video."""
        for path in self.required_paths(folder):
            task = _TASKS[path.stem]
            under = (f"video/{task.folder}", task.folder, f"video/{path.stem}", path.stem)
            for number, record in enumerate(read_records(path)):
                options = record.texts("candidates")
                name = record.text("video")
                start, end = _part(folder, record) if task.part else (None, None)
                yield Item(
                    id=f"{path.stem}_{number}",
                    video=folder.images(name, *under) if task.images else folder.video(name, *under),
                    question=record.text("question"),
                    options=options,
                    answer=letter_of_text(record, "answer", options),
                    category=path.stem,
                    start_seconds=start,
                    end_seconds=end,
                    fps=_IMAGES_FPS if task.images else None,
                )
        missing = [name for name in self.question_files if not (folder.path / name).is_file()]
        if missing and not folder.subset:
            folder.notes.append(f"{len(missing)} of {len(_TASKS)} tasks are not there: {', '.join(missing)}")


def _part(folder: SetFolder, record: Record) -> tuple[float | None, float | None]:
    """Start and end in seconds; a few of the release are none, and then the whole video is shown."""
    start, end = record.number("start"), record.number("end")
    if not 0 <= start < end:
        folder.notes.append(
            f"{record.place}: start {start:g} and end {end:g} are no part; the whole video is shown"
        )
        return None, None
    return start, end
