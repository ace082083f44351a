"""``streamprune explain``: one question answered with a recipe and without, and why it came out so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from streamprune.cli import ask_options as options
from streamprune.cli import explain_options as own
from streamprune.cli.app import app, progress_bars
from streamprune.cli.ask import placing
from streamprune.cli.ask_output import print_warnings
from streamprune.cli.model_choice import ModelChoice

if TYPE_CHECKING:
    from pathlib import Path

    from streamprune.report.explain.data import Explanation


@app.command()
def explain(
    video: options.Video,
    question: own.Question,
    output: own.Page = None,
    png: own.Png = None,
    mp4: own.Mp4 = None,
    json: own.JsonFile = None,
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
) -> None:
    """Show what was kept of a video for a question, and why the answer came out."""
    from streamprune.models.sampling import Sampling
    from streamprune.pipelines.frame_request import FrameRequest
    from streamprune.pipelines.request import AnswerRequest, read_recipe
    from streamprune.readers import open_source

    chosen = read_recipe(recipe, keep_ratio, keep_tokens)
    looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
    sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
    where = placing(positions, max_gap, text_after)
    request = AnswerRequest((question,), chosen, {}, max_new_tokens, where, sampling)
    targets = own.checked_targets(video, {"--output": output, "--png": png, "--mp4": mp4, "--json": json})

    # the video is opened first: a misspelt path should not wait for a model to load
    with open_source(video, backend=backend) as source, progress_bars() as report:
        vlm = ModelChoice(model, device, dtype).load(report)
        settings = {**request.settings, **looks.given}
        explanation = vlm.explain(source, question, **settings, progress=report)
        for done, target in enumerate(targets, 1):
            explanation.save(target)
            report("write", done, len(targets))
    print_warnings(video, explanation.warnings)
    _tell(explanation, targets)


def _tell(explanation: Explanation, targets: list[Path]) -> None:
    """Both answers, and what was written."""
    console = Console(highlight=False, soft_wrap=True)
    runs = [run for run in (explanation.full, explanation.reduced) if run is not None]
    width = max(len(run.label) for run in runs)
    console.print(Text(explanation.asked.question, style="bold"))
    for run in runs:
        said = Text(str(run.answer["text"]), style="green")
        console.print(Text(f"  {run.label:<{width}}  "), said, sep="")
    for target in targets:
        console.print(f"wrote {target} ({target.stat().st_size / 1000:,.0f} KB)", markup=False)
