"""Ask a video that is already there: load a model once, ask as often as you like.

vlm = load("embedded")
answer = vlm.ask("talk.mp4", "Who opens the door?", recipe="fastvid", keep_ratio=0.1)
print(answer.text, answer.stats.tokens_kept)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.models.base import VideoFamily
from streamprune.models.chat_template import check_question
from streamprune.models.loading import load_model
from streamprune.models.sampling import Sampling
from streamprune.pipelines.answers import Answer, AnswerStream, Stats
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.chat import Chat, Decide
from streamprune.pipelines.encoding import EncodedVideo, Encoding, Progress
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.request import AnswerRequest, read_encoder, read_questions, read_recipe
from streamprune.pipelines.several import ask_several, read_videos
from streamprune.pipelines.stored_encoding import CacheChoice, EncodingCache, encode_or_fetch
from streamprune.pipelines.together import Videos, ask_together

if TYPE_CHECKING:
    import torch

    from streamprune.cache.memory import MemoryMethod
    from streamprune.frames import FrameMethod
    from streamprune.pipelines.live import LiveStream
    from streamprune.positions import PositionRule, Positions
    from streamprune.recipe import Recipe
    from streamprune.report.explain.data import Explanation

__all__ = ["Answer", "AnswerStream", "Chat", "EncodedVideo", "Stats", "VideoLLM", "load"]


def load(
    name: str | Path = "embedded",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    pooling_head: str | Path | None = None,
) -> VideoLLM:
    """Load a model to ask; see :func:`streamprune.models.loading.load_model` for the arguments and errors."""
    return VideoLLM(
        load_model(
            name,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization_config=quantization_config,
            pooling_head=pooling_head,
        )
    )


class VideoLLM:
    """A loaded model that answers questions about videos; threads may share it and take turns."""

    def __init__(self, family: VideoFamily) -> None:
        self.family = family

    def __repr__(self) -> str:
        return f"VideoLLM({self.family.checkpoint.name!r}, {self.family.model_type}, {self.family.device})"

    def encode(
        self,
        video: Any,
        *,
        recipe: str | Path | Recipe | None = None,
        frames: str | FrameMethod | None = None,
        num_frames: int | None = None,
        fps: float | Fraction | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        question: str | None = None,
        signals: Sequence[str] | None = None,
        backend: str = "pyav",
        frames_per_batch: int | None = None,
        cache: CacheChoice = False,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Turn a video into visual tokens once, to ask about it later with :meth:`ask`.

        Args:
            question: what a frames method that reads the question chooses by.
            signals: names of what methods will read later. Default: what costs next to nothing; any other
                signal is computed when a question first needs it, by running the vision tower once more over
                the frames, which are kept for it (384 x 384 pixels: 0.4 MB of main memory each). With names,
                nothing is kept and those are all there will be.
            others: as in :meth:`ask`; of ``recipe`` only the stages frames and encoder count.
        """
        chosen = read_recipe(recipe)
        looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
        if isinstance(signals, str):
            raise InvalidTypeError(f"signals must be a list of names, got the text {signals!r}")
        if question is not None:
            check_question(question)
        wanted = None if signals is None else tuple(signals)
        how = self._how(chosen, backend, frames_per_batch, progress, cache)
        method = looks.method(self.family.default_num_frames)
        return encode_or_fetch(self.family, video, method, wanted, how, question=question)

    @overload
    def ask(
        self, video: list[str] | list[Path] | list[EncodedVideo], question: Any, **settings: Any
    ) -> list[Answer]: ...
    @overload
    def ask(self, video: Any, question: str, *, stream: Literal[True], **settings: Any) -> AnswerStream: ...
    @overload
    def ask(
        self, video: Any, question: str, *, stream: Literal[False] = False, **settings: Any
    ) -> Answer: ...
    @overload
    def ask(
        self,
        video: Any,
        question: list[str] | tuple[str, ...],
        *,
        stream: Literal[False] = False,
        **settings: Any,
    ) -> list[Answer]: ...

    def ask(
        self,
        video: Any,
        question: str | Sequence[str],
        *,
        recipe: str | Path | Recipe | None = None,
        keep_ratio: float | None = None,
        keep_tokens: int | None = None,
        frames: str | FrameMethod | None = None,
        num_frames: int | None = None,
        fps: float | Fraction | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        positions: PositionRule | Positions | None = None,
        stream: bool = False,
        backend: str = "pyav",
        frames_per_batch: int | None = None,
        videos_per_batch: int = 8,
        cache: CacheChoice = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> Answer | list[Answer] | AnswerStream:
        """Answer one question about ``video``, or several, for which it is encoded once.

        It is also reduced once, unless the method reads the question.

        Args:
            video: a path, folder of images, uint8 array (frames, rows, cols, 3), list or iterator of
                frames, an open Source, or an :class:`EncodedVideo`, whose frames are chosen already. A
                picture is one frame. A list of videos gives a list of Answers, to one question or one each;
                :class:`Videos` are asked about together.
            recipe: name of a method or recipe, a path to a .toml file, or a Recipe; None keeps every token.
            keep_ratio, keep_tokens: share of the visual tokens KEPT, in (0, 1], or their number.
            frames: a frames method or the name of one, in place of the recipe's.
            num_frames, fps: so many; so many a second, at most num_frames; default: what suits the model.
            start_seconds, end_seconds: look only at this part. max_new_tokens: longest answer.
            temperature, top_p, top_k, repetition_penalty, seed, stop: how words are chosen and where the
                answer ends, see :class:`Sampling`; ``seed`` is also that of a method that draws.
            positions: "keep" leaves tokens at their places in the full prompt, "renumber" closes the gaps,
                "clipped" shortens them; :class:`Positions` says more. None: as the recipe says, or "keep".
            stream: return an AnswerStream of text pieces (one question only).
            backend: library that decodes files.
            frames_per_batch: frames that go through the vision tower at once; the whole clip: bit-exact.
            videos_per_batch: videos of a list that go through the language model at once.
            cache: keep what a file became on disk, and look there first, see :meth:`EncodingCache.read`.
            progress: called with ("decode", "encode" or "generate"; done; total).
            **options: the pre-LLM method's own, or the in-LLM method's in a recipe without one.

        Raises UsageError, SourceError, SignalError, ContextLengthError or DeviceError.
        """
        chosen = read_recipe(recipe, keep_ratio, keep_tokens)
        looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
        sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
        request = AnswerRequest(
            read_questions(question), chosen, options, max_new_tokens, positions, sampling
        )
        how = self._how(chosen, backend, frames_per_batch, progress, cache)
        return _asked(Asking(self.family, request, looks, how), video, question, stream, videos_per_batch)

    def chat(
        self,
        video: Any,
        *,
        decide: Decide = "first",
        recipe: str | Path | Recipe | None = None,
        keep_ratio: float | None = None,
        keep_tokens: int | None = None,
        frames: str | FrameMethod | None = None,
        num_frames: int | None = None,
        fps: float | Fraction | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        positions: PositionRule | Positions | None = None,
        backend: str = "pyav",
        frames_per_batch: int | None = None,
        cache: CacheChoice = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> Chat:
        """Begin a conversation about ``video``, which is encoded and reduced once: ``chat.ask(question)``.

        Args:
            decide: for methods that read the question, "first" keeps the tokens that the first question
                chose; "each" lets every question choose, and computes the whole conversation anew for it.
            others: as in :meth:`ask`.
        """
        chosen = read_recipe(recipe, keep_ratio, keep_tokens)
        looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
        sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
        request = AnswerRequest((), chosen, options, max_new_tokens, positions, sampling)
        how = self._how(chosen, backend, frames_per_batch, progress, cache)
        return Chat(Asking(self.family, request, looks, how), video, decide)

    def explain(self, video: Any, question: str, **settings: Any) -> Explanation:
        """Answer with and without a recipe, and say why: see :mod:`streamprune.pipelines.explanation`."""
        from streamprune.pipelines.explanation import explain

        return explain(self, video, question, **settings)

    def open_stream(
        self,
        recipe: str | Path | Recipe | None = None,
        *,
        memory: str | MemoryMethod | None = None,
        memory_bytes: int | str = "256MB",
        **settings: Any,
    ) -> LiveStream:
        """Begin to watch a stream: push frames, ask at any moment, in memory that never grows.

        Args:
            recipe: methods inside the vision tower (encoder) and before the language model (pre_llm); the
                latter must be causal.
            memory: name of a memory, or one; default "tiered".
            memory_bytes: most bytes that the stream may hold, whatever for: a number, "256MB" or "1GiB".
            **settings: fps, keep_ratio, keep_tokens, gate, memory_options, spill_folder, spill_bytes and
                others, see :meth:`StreamOptions.read`; what is left are the pre-LLM method's own options.

        Raises UsageError, of which InvalidValueError says how many bytes are needed at least, and
        UnsupportedModelError for models that cannot watch a stream.
        """
        from streamprune.pipelines.live import LiveStream
        from streamprune.pipelines.live_options import StreamOptions

        return LiveStream(self.family, StreamOptions.read(recipe, memory, memory_bytes, **settings))

    def _how(
        self,
        recipe: Recipe,
        backend: str,
        frames_per_batch: int | None,
        progress: Progress | None,
        cache: CacheChoice,
    ) -> Encoding:
        batch = self.family.frames_per_batch if frames_per_batch is None else frames_per_batch
        return Encoding(backend, batch, progress, read_encoder(recipe), EncodingCache.read(cache))


def _asked(
    asking: Asking, video: Any, question: object, stream: bool, videos_per_batch: int
) -> Answer | list[Answer] | AnswerStream:
    """Answers to the questions of ``asking``; a single one for one question about one video."""
    one_question, videos = isinstance(question, str), read_videos(video)
    if stream and (videos is not None or not one_question):
        raise InvalidValueError("stream=True takes one question and one video; ask one after the other")
    if videos is not None:
        return ask_several(asking, videos, one_question, videos_per_batch)
    if isinstance(video, Videos):
        all_answers = ask_together(asking, video, stream)
        return all_answers[0] if isinstance(all_answers, list) and one_question else all_answers
    first, *others = asking.request.questions
    job = asking.prepare(video, first)
    reduced = asking.reduce(job, first)
    if stream:
        return AnswerStream(lambda say, stop: asking.answer(job, first, reduced, say, stop))
    answers = [asking.answer(job, first, reduced)]
    for one in others:
        if asking.frames.reads_question:
            job = asking.prepare(video, one)
        if asking.each_reduces:
            reduced = asking.reduce(job, one)
        answers.append(asking.answer(job, one, reduced))
    return answers[0] if one_question else answers
