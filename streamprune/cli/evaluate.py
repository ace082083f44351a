"""``streamprune eval``: what recipes lose on a suite of questions."""

from __future__ import annotations

from streamprune.cli import evaluate_options as options
from streamprune.cli.app import app
from streamprune.cli.evaluate_streams import QUESTIONS, evaluate_streams


@app.command("eval")
def evaluate(
    suite: options.Suite = "embedded",
    folder: options.Folder = None,
    subset: options.Subset = None,
    subtitles: options.Subtitles = False,
    allow_missing: options.AllowMissing = False,
    recipe: options.Recipes = None,
    stage: options.StageName = "pre_llm",
    keep_ratio: options.KeepRatios = None,
    baselines: options.Baselines = True,
    questions: options.Questions = None,
    limit: options.Limit = None,
    num_frames: options.NumFrames = None,
    fps: options.Fps = None,
    max_new_tokens: options.MaxNewTokens = None,
    memory: options.Memory = None,
    memory_bytes: options.MemoryBytes = None,
    streams: options.Streams = None,
    model: options.Model = "embedded",
    device: options.Device = None,
    dtype: options.Dtype = None,
    answers: options.Answers = None,
    json_file: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Measure what recipes lose: accuracy with intervals, loyalty, evidence recall, and what they must beat.

    Every recipe stands beside baselines with as many tokens: drawn at random, at equal steps, averaged, of
    fewer frames, and of smaller pictures where the model takes any size.

    Suites of a made-up world ask a small trained model about clips that are drawn on the way; they do not
    rank methods for real models. The suite "stream" shows half an hour at one frame a second, asks about
    things that were there for a frame or two, and measures memories. The suite "own" takes your questions
    about your videos, and published sets are read from a local folder. In sets that are asked while a video
    runs no question sees a later frame.
    """
    from streamprune.cli.evaluate_run import evaluate_set
    from streamprune.cli.evaluate_sets import Asked, check_suite, check_unused, read_count

    name = check_suite(suite)
    in_files = {
        "folder": folder, "subset": subset, "subtitles": subtitles, "fps": fps,
        "allow_missing": allow_missing, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    if name == "stream":
        others = {"recipe": recipe, "keep_ratio": keep_ratio, "no_baselines": not baselines, "limit": limit}
        check_unused({**in_files, **others, "plot": plot, "device": device, "dtype": dtype}, suite)
        asked_of = read_count(suite, questions, QUESTIONS), num_frames, model
        evaluate_streams(memory, memory_bytes, streams, *asked_of, answers=answers, json_file=json_file)
        return
    asked = Asked(
        name, folder, subset, subtitles, allow_missing, recipe, stage, keep_ratio, baselines, questions,
        limit, num_frames, fps, max_new_tokens, model, device, dtype, answers, json_file, plot,
    )  # fmt: skip
    check_unused({"memory": memory, "memory_bytes": memory_bytes, "streams": streams}, suite)
    check_unused(asked.unused(in_files), suite)
    evaluate_set(asked)
