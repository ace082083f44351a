"""``streamprune ask``: one video, some questions, the answers and what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamprune.cli import ask_options as options
from streamprune.cli.app import app, progress_bars
from streamprune.cli.ask_cache import read_cache, told_warnings
from streamprune.cli.ask_output import answers_object, print_answers, print_warnings
from streamprune.cli.model_choice import ModelChoice
from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.pipelines.frame_request import FrameRequest
    from streamprune.pipelines.offline import Answer
    from streamprune.pipelines.request import AnswerRequest
    from streamprune.pipelines.stored_encoding import EncodingCache
    from streamprune.positions import PositionRule, Positions, TextAfter
    from streamprune.readers import Source
    from streamprune.recipe import Recipe


@app.command()
def ask(
    video: options.Video,
    questions: options.Questions = None,
    model: options.Model = "embedded",
    recipe: options.RecipeName = None,
    keep_ratio: options.KeepRatio = None,
    keep_tokens: options.KeepTokens = None,
    frames: options.Frames = None,
    num_frames: options.NumFrames = None,
    fps: options.Fps = None,
    start_seconds: options.StartSeconds = None,
    end_seconds: options.EndSeconds = None,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    positions: options.Rule = None,
    max_gap: options.MaxGap = None,
    text_after: options.TextAfter = "stock",
    backend: options.Backend = "pyav",
    device: options.Device = None,
    dtype: options.Dtype = None,
    cache: options.Cache = True,
    cache_dir: options.CacheDir = None,
    cache_bytes: options.CacheBytes = "4GiB",
    compare: options.Compare = None,
    chat: options.Chat = False,
    as_json: options.Json = False,
) -> None:
    """Ask a video, and see what the answer cost."""
    from streamprune.models.sampling import Sampling
    from streamprune.pipelines.frame_request import FrameRequest
    from streamprune.pipelines.request import AnswerRequest, read_recipe
    from streamprune.readers import open_source

    asked = _questions(questions, chat, compare)
    chosen = read_recipe(recipe, keep_ratio, keep_tokens)
    looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
    sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
    where = placing(positions, max_gap, text_after)
    recipes = [chosen] if compare is None else [_at_same_budget(read_recipe(compare), chosen), chosen]
    requests = [AnswerRequest(asked, one, {}, max_new_tokens, where, sampling) for one in recipes]

    # the video is opened first: a misspelt path should not wait for a model to load
    with open_source(video, backend=backend) as source, told_warnings("streamprune.cache"):
        shown = _Shown(video, source, backend, read_cache(cache_dir, cache_bytes) if cache else None)
        loaded = ModelChoice(model, device, dtype)
        if chat:
            _chat(shown, looks, requests[0], loaded, as_json)
        else:
            _tell(shown, looks, requests, loaded, as_json)


def _questions(questions: list[str] | None, chat: bool, compare: str | None) -> tuple[str, ...]:
    """Those of the command line, of which there must be one unless more come from standard input."""
    from streamprune.pipelines.request import read_questions

    if chat and compare is not None:
        raise InvalidValueError("--chat is one conversation with one recipe; leave out --compare")
    if questions:
        return read_questions(questions)
    if chat:
        return ()
    raise InvalidValueError(
        "no questions were given; put at least one, in quotes, behind the video, or use --chat"
    )


def placing(rule: PositionRule | None, max_gap: int | None, text_after: TextAfter) -> Positions | None:
    """What the command line says about positions; None leaves it to the recipe."""
    if rule is None and max_gap is None and text_after == "stock":
        return None
    from streamprune.positions import Positions

    return Positions(rule or "keep", max_gap, text_after)


def _at_same_budget(other: Recipe, chosen: Recipe) -> Recipe:
    """``other`` with the budget of ``chosen``, unless it says its own or keeps everything by nature."""
    if other.name == "none" or not other.budget.keeps_all:
        return other
    return replace(other, budget=chosen.budget)


def _answers(
    shown: _Shown, looks: FrameRequest, requests: Sequence[AnswerRequest], model: ModelChoice
) -> list[list[Answer]]:
    """The answers to each of ``requests``, from the same frames."""
    questions = requests[0].questions
    needs = sorted({name for request in requests for name in request.needs()})
    with progress_bars() as report:
        vlm = model.load(report)
        answers: list[list[Answer]] = [[] for _ in requests]
        # a frames method that reads the question shows each question frames of its own
        for group in [(one,) for one in questions] if looks.reads_question else [questions]:
            settings = {**looks.given, **shown.settings}
            encoded = vlm.encode(shown.video, **settings, question=group[0], signals=needs, progress=report)
            for column, request in zip(answers, requests, strict=True):
                column += vlm.ask(encoded, list(group), **request.settings)
            report("answer", len(answers[-1]), len(questions))
    return answers


def _tell(
    shown: _Shown, looks: FrameRequest, requests: Sequence[AnswerRequest], model: ModelChoice, as_json: bool
) -> None:
    """Ask, and print the answers."""
    answers = _answers(shown, looks, requests, model)
    questions, recipes = requests[0].questions, [request.recipe for request in requests]
    print_warnings(shown.name, answers[0][0].warnings)
    if as_json:
        print(json.dumps(answers_object(shown.name, model.name, questions, recipes, answers), indent=2))
    else:
        print_answers(questions, recipes, answers)


def _chat(
    shown: _Shown, looks: FrameRequest, request: AnswerRequest, model: ModelChoice, as_json: bool
) -> None:
    from streamprune.cli.converse import converse

    with progress_bars() as report:
        vlm = model.load(report)
        settings = {**request.settings, **looks.given, **shown.settings}
        chat = vlm.chat(shown.video, **settings, progress=report)
    converse(chat, request.questions, as_json=as_json)
    print_warnings(shown.source.info.source, chat.history[0].warnings if chat.history else ())


@dataclass(frozen=True)
class _Shown:
    """The video, and where it is looked for when it was shown before."""

    name: str
    source: Source
    backend: str
    cache: EncodingCache | None

    @property
    def video(self) -> str | Source:
        """What the model is given: with a cache the path, which need not be decoded again."""
        return self.source if self.cache is None else self.name

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of ``encode`` and ``chat``."""
        return {"cache": False if self.cache is None else self.cache, "backend": self.backend}
