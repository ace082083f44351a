"""Tiny folders laid out exactly as each set is released, with its column names."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Release:
    """What a folder holds.

    Args:
        files: contents by path: a list or dict becomes JSON (or CSV for a .csv), a text is written as it is.
        videos: files that are links to one clip.
        images: folders of three pictures.
    """

    files: Mapping[str, Any]
    videos: tuple[str, ...]
    images: tuple[str, ...] = ()

    @property
    def first_file(self) -> str:
        """The question file whose first record tests damage."""
        return next(iter(self.files))

    def changed(self, file: str, contents: Any) -> Release:
        """The same release with one file replaced."""
        return Release({**self.files, file: contents}, self.videos, self.images)

    def with_column(self, column: str, value: Any) -> Release:
        """The same release with another value in the first record; Ellipsis takes the column out."""
        contents = copy.deepcopy(self.files[self.first_file])
        record = _holder(contents, column)
        if value is ...:
            del record[column]
        else:
            record[column] = value
        return self.changed(self.first_file, contents)

    def write(self, root: Path, clip: Path) -> Path:
        """Lay it out below ``root``."""
        for name, contents in self.files.items():
            _place(root, name).write_text(_text(name, contents), encoding="utf-8")
        for name in self.videos:
            os.link(clip, _place(root, name))
        for name in self.images:
            for number in range(3):
                os.link(clip.with_suffix(".png"), _place(root, f"{name}/{number:05d}.png"))
        return root


def _holder(contents: Any, column: str) -> dict[str, Any]:
    """The first record, at any depth, that has ``column``."""
    if isinstance(contents, dict):
        if column in contents:
            return contents
        contents = list(contents.values())
    for inner in contents if isinstance(contents, list) else []:
        if isinstance(inner, list | dict):
            try:
                return _holder(inner, column)
            except KeyError:
                continue
    raise KeyError(column)


def _place(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _text(name: str, contents: Any) -> str:
    if isinstance(contents, str):
        return contents
    if name.endswith(".csv"):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(contents[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(contents)
        return out.getvalue()
    return json.dumps(contents)


def _video_mme(number: int, duration: str, video: str, answer: str) -> dict[str, Any]:
    return {
        "video_id": f"{number:03d}",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://www.youtube.com/watch?v=" + video,
        "videoID": video,
        "question_id": f"{number:03d}-1",
        "task_type": "Counting Problem",
        "question": "How many lanterns hang in the yard?",
        "options": ["A. Two.", "B. Three.", "C. A dozen.", "D. None."],
        "answer": answer,
    }


def _mlvu(task: str, video: str, answer: str | None) -> dict[str, Any]:
    record = {
        "video": video,
        "duration": 480.5,
        "question": "What does the man carry?",
        "answer": answer or "A man carries water up a hill.",
        "question_type": task,
    }
    return {**record, "candidates": ["A sack", "A bucket", "A ladder"]} if answer else record


def _long_video_bench(name: str, choice: int | None) -> dict[str, Any]:
    record = {
        "video_id": name,
        "question": "What happens after the bell?",
        "question_wo_referring_query": "What happens?",
        "candidates": ["A door opens", "It rains", "Nobody moves"],
        "topic_category": "KH-Knowledge-History",
        "question_category": "T2E",
        "level": "L1-Perception",
        "id": f"{name}_0",
        "video_path": f"{name}.mp4",
        "subtitle_path": f"{name}_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 30,
        "duration": 10.0,
    }
    return record if choice is None else {**record, "correct_choice": choice}


def _egoschema(uid: str) -> dict[str, Any]:
    options = {f"option {index}": f"C does thing {index}" for index in range(5)}
    return {"q_uid": uid, "google_drive_id": "x", "question": "What does C do?", **options}


def _mvbench(video: str, **part: float) -> dict[str, Any]:
    candidates = ["Opened the box.", "Closed the box.", "Threw the box."]
    return {
        "video": video,
        "question": "What happened?",
        "candidates": candidates,
        "answer": candidates[1],
        **part,
    }


def _nextqa(video: int, qid: int, answer: int, kind: str) -> dict[str, Any]:
    question = {
        "video": video,
        "frame_count": 369,
        "width": 640,
        "height": 480,
        "question": "why does he wave",
    }
    options = {
        f"a{index}": text for index, text in enumerate(("greet", "dance", "swim", "fall", "say no, thanks"))
    }
    return {**question, "answer": answer, "qid": qid, "type": kind, **options}


def _streaming(video: str, time_stamp: str, question: str, options: list[str], answer: str) -> dict[str, Any]:
    return {
        "time": "[0:00:00 - 0:01:00]",
        "questions": [
            {
                "task_type": "Object Recognition",
                "question": question,
                "time_stamp": time_stamp,
                "answer": answer,
                "options": options,
                "required_ability": "working memory",
            }
        ],
        "video_categories": "table_tennis",
        "video_path": f"./videos/{video}",
    }


_FOUR = ["A. A map.", "B. A lamp.", "C.A radio.", "D. A cup."]
_PROACTIVE = {
    "time": "[0:00:00 - 0:00:30]",
    "questions": [
        {
            "task_type": "Proactive Output",
            "question": "When the board shows 3, output 3.",
            "time_stamp": "00:00:20",
            "ground_truth_time_stamp": "00:00:29",
            "ground_truth_output": "3",
            "required_ability": "working memory",
        }
    ],
    "video_categories": "basketball",
    "video_path": "./videos/sample_3_proactive.mp4",
}


def _vnbench(number: int, options: list[Any], letter: str) -> dict[str, Any]:
    return {
        "video": "/VNBench_new/10_cnt_edit1.mp4",
        "question": "How many times does the apple appear?",
        "options": options,
        "gt": 3,
        "gt_option": letter,
        "length": 54.2,
        "type": "cnt_edit1",
        "try": number,
        "needle_time": [4.5, 20, 41.0],
    }


def _cgbench(qid: int) -> dict[str, Any]:
    return {
        "qid": qid,
        "video_uid": "7f3",
        "question": "What is in the drawer?",
        "choices": ["A key", "A pen", "A map"],
        "right_answer": "C",
        "answer": "A map",
        "clue_intervals": [[12.0, 15.5], [80, 81]],
        "duration": 1625,
        "domain": "Life Record",
        "sub_category": "Object Perception",
    }


_SRT = """1
00:00:01,000 --> 00:00:02,500
<font color="white" size=".72c">Good &amp; bad</font>

2
00:00:03,000 --> 00:00:04,000
<font color="white" size=".72c">lanterns</font>
"""
_SPOKEN = [
    {"timestamp": [20.0, 29.5], "text": "before the clip"},
    {"timestamp": [31.0, None], "text": "the bell <i>rings</i>"},
    {"start": "00:00:39.000", "end": "00:00:41.500", "line": "and the door opens"},
    {"start": "00:00:40.500", "end": "00:00:44.000", "line": "after the clip"},
]

RELEASES = {
    "video-mme": Release(
        {
            "Video-MME.json": [
                _video_mme(1, "short", "fFjv93ACGo8", "C"),
                _video_mme(2, "long", "N1cdUjctpG8", "B"),
            ],
            "subtitle/fFjv93ACGo8.srt": _SRT,
        },
        ("data/fFjv93ACGo8.mp4", "data/N1cdUjctpG8.MP4"),
    ),
    "mlvu": Release(
        {
            "json/1_plotQA.json": [_mlvu("plotQA", "movie_1.mp4", "A bucket")],
            "json/4_count.json": [
                _mlvu("count", "movie_1.mp4", "A ladder"),
                _mlvu("count", "c_2.mp4", "A sack"),
            ],
            "json/9_summary.json": [_mlvu("summary", "s_1.mp4", None)],
        },
        (
            "video/1_plotQA/movie_1.mp4",
            "video/count/movie_1.mp4",
            "video/count/c_2.mp4",
            "video/9_summary/s_1.mp4",
        ),
    ),
    "longvideobench": Release(
        {
            "lvb_val.json": [_long_video_bench("86CxyhFV9MI", 1)],
            "lvb_test_wo_gt.json": [_long_video_bench("test0", None)],
            "subtitles/86CxyhFV9MI_en.json": _SPOKEN,
        },
        ("videos/86CxyhFV9MI.mp4", "videos/test0.mp4"),
    ),
    "egoschema": Release(
        {
            "questions.json": [_egoschema("001934bb-81bd"), _egoschema("00aa7247-9a4b")],
            "subset_answers.json": {"001934bb-81bd": 3},
        },
        ("videos/001934bb-81bd.mp4", "videos/00aa7247-9a4b.mp4"),
    ),
    "mvbench": Release(
        {
            "json/action_sequence.json": [_mvbench("ZS9XR.mp4", start=11.1, end=18.2)],
            "json/action_antonym.json": [_mvbench("166583.webm")],
            "json/episodic_reasoning.json": [
                _mvbench("friends_s03e09_seg02_clip_07_ep", start=0.2, end=0.9),
                _mvbench("friends_s03e09_seg02_clip_07_ep", start=9.0, end=2.0),
            ],
        },
        ("video/star/Charades_v1_480/ZS9XR.mp4", "video/ssv2_video/166583.webm"),
        ("video/tvqa/frames_fps3_hq/friends_s03e09_seg02_clip_07_ep",),
    ),
    "next-qa": Release(
        {
            "val.csv": [_nextqa(4010069381, 6, 0, "CH"), _nextqa(4010069381, 7, 4, "TN")],
            "map_vid_vidorID.json": {"4010069381": "1164/6233408665"},
        },
        ("NExTVideo/1164/6233408665.mp4",),
    ),
    "streamingbench": Release(
        {
            "questions_real.json": [
                _streaming("sample_1_real.mp4", "00:01:31", "What is on the desk?", _FOUR, "C")
            ],
            "questions_sqa.json": [
                [
                    _streaming(
                        "sample_2_sqa.mp4", "00:00:36", "Who serves?", ["Wang.", "Fan.", "Xu.", "Ma."], "B"
                    ),
                    _streaming(
                        "sample_2_sqa.mp4", "01:03:02", "What is his score?", ["2.", "6.", "7.", "4."], "A"
                    ),
                ]
            ],
            "questions_proactive.json": [_PROACTIVE],
        },
        ("videos/sample_1_real.mp4", "videos/sample_2_sqa.mp4"),
    ),
    "ovo-bench": Release(
        {
            "ovo_bench_new.json": [
                {
                    "id": 0,
                    "task": "EPM",
                    "video": "Ego4D/clips/ec4a3ba3.mp4",
                    "realtime": 215,
                    "question": "What did I drop?",
                    "answer": "eggplant",
                    "options": ["meat", "onion", "eggplant"],
                    "gt": 2,
                },
                {
                    "id": 7,
                    "task": "REC",
                    "video": "perception_test/video_1.mp4",
                    "activity": "jump over the rope",
                    "test_info": [{"realtime": 4.5, "count": 0}, {"realtime": 9, "count": 3}],
                },
                {
                    "id": 8,
                    "task": "SSR",
                    "video": "COIN/x.mp4",
                    "test_info": [{"realtime": 12, "step": "pump up the tire", "type": 1}],
                },
                {
                    "id": 9,
                    "task": "CRR",
                    "video": "MovieNet/tt0048028.mp4",
                    "question": "What does she do with the car?",
                    "answer": "She walks past it.",
                    "ask_time": 297,
                    "clue_time": 308,
                    "test_info": [{"realtime": 297, "type": 0}],
                },
            ]
        },
        (
            "chunked_videos/0.mp4",
            "chunked_videos/7_0.mp4",
            "chunked_videos/7_1.mp4",
            "chunked_videos/8_0.mp4",
            "src_videos/MovieNet/tt0048028.mp4",
        ),
    ),
    "vnbench": Release(
        {
            "VNBench-main-4try.json": [
                _vnbench(0, [1, 2, 3, 4], "C"),
                _vnbench(1, [4, 1, 2, 3], "D"),
                _vnbench(2, [3, 4, 1, 2], "A"),
                _vnbench(3, [2, 3, 4, 1], "B"),
            ]
        },
        ("VNBench_new/10_cnt_edit1.mp4",),
    ),
    "cg-bench": Release(
        {"cgbench_mini.json": [_cgbench(5), _cgbench(6)], "cg_subtitles/7f3.srt": _SRT},
        ("cg_videos_720p/7f3.mp4",),
    ),
    "conversations": Release(
        {
            "test_mc.json": [
                {
                    "video_id": "v1",
                    "video_path": "data/qaego4d/videos/v1.mp4",
                    "duration": 480,
                    "conversations": [
                        {
                            "question": "Where did I put the knife?",
                            "choices": ["sink", "table"],
                            "answer": "table",
                            "temporal_windows": [[5.0, 9.0]],
                        },
                        {"question": "Who was there?", "choices": ["nobody", "a man"], "answer": "nobody"},
                    ],
                }
            ]
        },
        ("videos/v1.mp4",),
    ),
}
