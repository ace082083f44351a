"""The class that lmms-eval makes and asks; imported by lmms-eval alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError, UnsupportedModelError
from streamprune.integrations.lmms_eval_requests import Asked, Shown, answer_settings
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.offline import load
from streamprune.pipelines.request import read_recipe
from streamprune.pipelines.together import Videos

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance

    from streamprune.pipelines.answers import Answer
    from streamprune.pipelines.encoding import EncodedVideo

_ARGUMENTS = (
    "pretrained", "recipe", "keep_ratio", "keep_tokens", "num_frames", "fps", "device", "dtype",
    "attn_implementation", "batch_size", "max_new_tokens", "seed", "cache",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One request: where its answer belongs, what it asks, and how it is answered."""

    number: int
    request: Instance
    asked: Asked
    settings: dict[str, Any]

    @property
    def alone(self) -> bool:
        """Whether it cannot go through the model beside others."""
        return bool(self.asked.turns) or len(self.asked.shown) > 1

    @property
    def order(self) -> tuple[str, bool, str]:
        """Rows that are answered together, and of these those about one video, stand side by side."""
        return (repr(self.settings), self.alone, str([shown.key for shown in self.asked.shown]))


class StreampruneModel(lmms):  # type: ignore[misc]  # lmms-eval is not installed where types are checked
    """A model of lmms-eval that answers with ``VideoLLM.ask``; every video is encoded once for its questions.

    Args:
        pretrained: "embedded", a hub name, or a folder.
        recipe: name of a method or recipe, or a .toml file; None keeps every token.
        keep_ratio, keep_tokens: share of the visual tokens KEPT, in (0, 1], or their number.
        num_frames, fps: frames looked at; default: what suits the model.
        device, dtype, attn_implementation: as in ``streamprune.load``.
        batch_size: questions that go through the language model at once.
        max_batch_size: given by lmms-eval for batches it would size itself; not used.
        max_new_tokens: longest answer of tasks that do not say.
        seed: of answers that are drawn.
        cache: keep encoded files on disk for later runs, or a folder for them.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "embedded",
        recipe: str | None = None,
        keep_ratio: float | None = None,
        keep_tokens: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        device: str | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_new_tokens: int = 64,
        seed: int | None = None,
        cache: bool | str = False,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise UnknownNameError.among("model argument", name, _ARGUMENTS)
        self._rows_at_once = _batch(batch_size)
        check_count("max_new_tokens", max_new_tokens)
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        self._recipe = read_recipe(recipe, keep_ratio, keep_tokens)
        self._frames: dict[str, Any] = {"num_frames": num_frames, "fps": fps}
        self._reads_question = FrameRequest(self._recipe, num_frames, fps).reads_question
        self._cache = cache
        self._vlm = load(pretrained, device=device, dtype=dtype, attn_implementation=attn_implementation)
        self._encoded: OrderedDict[tuple[Any, ...], EncodedVideo] = OrderedDict()

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request, in the order in which they came."""
        rows = sorted((self._row(*numbered) for numbered in enumerate(requests)), key=lambda row: row.order)
        found: dict[int, GenerationResult] = {}
        with tqdm(total=len(rows), disable=self.rank != 0, desc="streamprune") as bar:
            for (_, alone), group in groupby(rows, key=lambda row: row.order[:2]):
                same = list(group)
                step = 1 if alone else self._rows_at_once
                for start in range(0, len(same), step):
                    batch = same[start : start + step]
                    for row, answer in zip(batch, self._answers(batch), strict=True):
                        found[row.number] = _result(answer)
                        context, _, settings = row.request.args[:3]
                        self.cache_hook.add_partial("generate_until", (context, settings), answer.text)
                    bar.update(len(batch))
        return [found[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Answer the rounds of every request, each of which a task makes out of the answers before it."""
        return [self._rounds(request) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Never asked of chat models, which lmms-eval has generate. Raises UnsupportedModelError."""
        raise UnsupportedModelError(
            "lmms-eval asks chat models, of which streamprune is one, for generated answers only; choose a "
            "task whose output_type is generate_until or generate_until_multi_round"
        )

    def _rounds(self, request: Instance) -> list[str]:
        _, to_messages, settings, doc_id, task, split = request.args
        document = self.task_dict[task][split][doc_id]
        said: list[str] = []
        about: Any = None
        messages: Any = to_messages(document)
        while True:
            row = self._asked(0, request, messages, settings)
            said.append(self._answers([row])[0].text)
            told = to_messages(
                document, round_idx=len(said), previous_output=list(said), previous_round_info=about
            )
            # messages, whether it is over, the answers so far, and what the task wants to be told again
            if not isinstance(told, tuple) or len(told) != 4 or told[1]:
                return said
            messages, _, _, about = told

    def _row(self, number: int, request: Instance) -> _Row:
        _, to_messages, settings, doc_id, task, split = request.args
        return self._asked(number, request, to_messages(self.task_dict[task][split][doc_id]), settings)

    def _asked(self, number: int, request: Instance, messages: Any, settings: Any) -> _Row:
        how = answer_settings(settings or {}, self._max_new_tokens, self._seed)
        return _Row(number, request, Asked.read(messages), how)

    def _answers(self, rows: Sequence[_Row]) -> list[Answer]:
        """Answers to rows of equal settings: one row, or several of one video and one turn each."""
        settings: dict[str, Any] = {"recipe": self._recipe, **rows[0].settings}
        first = rows[0].asked
        if len(first.shown) > 1:
            videos = Videos(*(self._look(shown, first.question) for shown in first.shown))
            return [_one(self._vlm.ask(videos, first.question, **settings))]
        if first.turns:
            chat = self._vlm.chat(self._look(first.shown[0], first.question), decide="each", **settings)
            for question, answer in first.turns:
                chat.recall(question, answer)
            return [chat.ask(first.question)]
        looked = [self._look(row.asked.shown[0], row.asked.question) for row in rows]
        questions = [row.asked.question for row in rows]
        if len(rows) == 1:
            return [_one(self._vlm.ask(looked[0], questions[0], **settings))]
        return self._vlm.ask(looked, questions, videos_per_batch=len(rows), **settings)

    def _look(self, shown: Shown, question: str) -> EncodedVideo:
        """``shown`` as visual tokens, which the questions about it that come next find again."""
        frames = {"num_frames": 1} if shown.is_picture else self._frames
        key = (shown.key, question if self._reads_question else None)
        if shown.key is None or key not in self._encoded:
            encoded = self._vlm.encode(
                shown.source, recipe=self._recipe, start_seconds=shown.start_seconds,
                end_seconds=shown.end_seconds, question=question, cache=self._cache, **frames,
            )  # fmt: skip
            if shown.key is None:
                return encoded
            self._encoded[key] = encoded
        self._encoded.move_to_end(key)
        while len(self._encoded) > self._rows_at_once:
            self._encoded.popitem(last=False)
        return self._encoded[key]


def _one(answer: Any) -> Answer:
    found: Answer = answer
    return found


def _result(answer: Answer) -> GenerationResult:
    counts = TokenCounts(input_tokens=answer.stats.prompt_tokens, output_tokens=answer.stats.new_tokens)
    return GenerationResult(text=answer.text, token_counts=counts)


def _batch(size: int | str) -> int:
    """``size`` as lmms-eval gives it, maybe as text."""
    text = str(size)
    if not text.isdigit() or int(text) < 1:
        raise InvalidValueError(f"batch_size must be an integer of at least 1, got {size!r}")
    return int(text)
