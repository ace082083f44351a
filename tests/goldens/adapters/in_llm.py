"""Replays recorded cases of methods that act between two layers of the language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from streamprune.in_llm.base import Decision, InLLMMethod, LayerProjections, PromptView
from streamprune.in_llm.dart import DART, least_like
from streamprune.in_llm.dycoke import DyCokeInner
from streamprune.in_llm.fastv import FastV, last_row_scores
from streamprune.in_llm.feather import Feather
from streamprune.in_llm.flashvid import FlashVIDInner
from streamprune.in_llm.framefusion import FrameFusion
from streamprune.in_llm.holitom import HoliTomInner
from streamprune.in_llm.pyramiddrop import PyramidDrop
from streamprune.in_llm.sparsevlm import SparseVLM
from streamprune.in_llm.steps import StepView
from streamprune.ops.rotary import rotate
from streamprune.reduction import weighted_sum
from streamprune.tokens import VideoGrid
from tests.goldens.case import Case


class RecordedRows(LayerProjections):
    """A layer of which the attention of the last row, or what makes it, was recorded.

    Args:
        queries: (heads, dim) of the last row.
        keys: (key heads, rows, dim).
        attention: (heads, rows) of the last row, or (heads, asked, rows) of those that will be asked for.
        angles: (rows, dim) rotation of each row, for rotated queries and keys.
        normed: (rows, width) the states behind the layer's norm.
    """

    def __init__(
        self,
        queries: torch.Tensor | None = None,
        keys: torch.Tensor | None = None,
        attention: torch.Tensor | None = None,
        angles: torch.Tensor | None = None,
        normed: torch.Tensor | None = None,
    ) -> None:
        self._queries = queries
        self._keys = keys
        self._attention = attention
        self._angles = angles
        self._normed = normed
        self.scaling = 1.0 if keys is None else keys.shape[-1] ** -0.5

    def normed(self) -> torch.Tensor:
        assert self._normed is not None
        return self._normed

    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        assert self._queries is not None
        last = self._queries[:, None]
        if rotated and self._angles is not None:
            return rotate(last, self._angles[rows].cos(), self._angles[rows].sin())
        return last

    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        assert self._keys is not None
        if rotated and self._angles is not None:
            return rotate(self._keys, self._angles.cos(), self._angles.sin())
        return self._keys

    def attention(self, rows: torch.Tensor) -> torch.Tensor:
        if self._attention is None:
            return super().attention(rows)
        return self._attention if self._attention.ndim == 3 else self._attention[:, None]


def view_of(
    case: Case, layer: LayerProjections, states: torch.Tensor | None = None, **others: object
) -> PromptView:
    """The prompt of a case: ``V`` visual tokens from row ``start`` on, ``n`` rows in all."""
    hp = case.hp
    fields: dict[str, object] = {
        "layer": 2,
        "cut": 0,
        "depth": 32,
        "states": torch.zeros(hp["n"], 1) if states is None else states,
        "embeds": torch.zeros(hp["n"], 1),
        "visual": torch.arange(hp["start"], hp["start"] + hp["V"]),
        "places": torch.arange(hp["V"]),
        "grid": None,
        "visual_at_first": hp["V"],
        "before": layer,
        "at": layer,
    }
    return PromptView(**{**fields, **others})  # type: ignore[arg-type]


def _compare_positions(case: Case, method: InLLMMethod, view: PromptView) -> Decision:
    decision = method.decide(view)
    case.same("kept", decision.kept)
    if case.recorded("position_ids") is not None:
        case.same("position_ids", decision.kept)
    return decision


def fastv(case: Case) -> None:
    """From queries and keys, and from the recorded attention; half a token goes to the even number."""
    method = FastV(keep_ratio=1 - case.hp["r"])
    layer = RecordedRows(case.given("q_last"), case.given("k"))
    view = view_of(case, layer)
    _compare_positions(case, method, view)
    _compare_positions(case, method, view_of(case, RecordedRows(attention=case.given("attn_last_row"))))
    case.close("score", last_row_scores(layer.attention(view.last), view.visual))


def flashvid(case: Case) -> None:
    """From the recorded attention."""
    method = FlashVIDInner(keep_ratio=case.hp["llm_retention_ratio"])
    _compare_positions(case, method, view_of(case, RecordedRows(attention=case.given("attn_last_row"))))


def pyramiddrop(case: Case) -> None:
    """One of several cuts, with counts of the original number of tokens; only visual rows were recorded."""
    hp = case.hp
    layer = RecordedRows(case.given("q_last"), case.given("k"))
    view = view_of(case, layer, cut=hp["stage"], visual_at_first=hp["V_original"])
    decision = PyramidDrop(shares=tuple(hp["ratios"][1:])).decide(view)
    kept = decision.kept[torch.isin(decision.kept, view.visual)]
    case.same("kept", kept)
    assert len(decision.kept) == hp["n"] - hp["V"] + len(kept)
    case.close("score", last_row_scores(layer.attention(view.last), view.visual))


def holitom(case: Case) -> None:
    """Which rows go on, and their states after the folding."""
    hidden = case.given("hidden")
    method = HoliTomInner(keep_ratio=1 - case.hp["r_in"])
    view = view_of(case, RecordedRows(attention=case.given("attn_last_row")), hidden)
    decision = _compare_positions(case, method, view)
    assert decision.entries is not None
    case.close("values", weighted_sum(decision.entries, hidden, len(decision.kept)))


def feather(case: Case) -> None:
    """Two cuts of states that stay as they are in between, or FastV's one cut in the same code."""
    hp, states = case.hp, case.given("hidden")
    side = round(hp["V"] ** 0.5)
    two = len(hp["K"]) == 2
    method = Feather(
        layers=tuple(hp["K"]),
        share=hp["ratio_attr"],
        stride=hp["stride"] if two else None,
        rotated=hp["rope"],
    )
    visual, rows = torch.arange(hp["start"], hp["start"] + hp["V"]), torch.arange(hp["n"])
    places = torch.arange(hp["V"])
    for cut in range(len(hp["K"])):
        layer = _projected(case, cut, states, rows)
        view = view_of(
            case,
            layer,
            states,
            cut=cut,
            visual=visual,
            places=places,
            grid=VideoGrid(1, side, side),
        )
        case.close(f"score{cut}", method.scores(view))
        kept = method.decide(view).kept
        stays = torch.isin(visual, kept)
        case.same(f"kept_visual{cut}", places[stays])
        case.same(f"position_ids{cut}", rows[kept])
        states, rows, places = states[kept], rows[kept], places[stays]
        visual = torch.isin(kept, visual).nonzero()[:, 0]


def _projected(case: Case, cut: int, states: torch.Tensor, rows: torch.Tensor) -> RecordedRows:
    """Queries and keys from the recorded norm and weights of the layer below a cut."""
    hp = case.hp
    normed = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + hp["rms_eps"]) * case.given("ln")
    queries = (normed[-1] @ case.given(f"wq{cut}").T).reshape(hp["heads"], -1)
    keys = (normed @ case.given(f"wk{cut}").T).reshape(len(rows), hp["kv_heads"], -1).transpose(0, 1)
    half = torch.arange(0, hp["head_dim"], 2) / hp["head_dim"]
    angles = rows[:, None] * hp["rope_theta"] ** -half
    return RecordedRows(queries, keys, angles=torch.cat([angles, angles], -1))


def dart(case: Case) -> None:
    """Pivots, and what they take in the recorded order; visual rows are counted from the first."""
    hp = case.hp
    layer = RecordedRows(keys=case.given("keys"), normed=case.given("hidden_normed"))
    view = view_of(case, layer)
    method = DART(
        keep_ratio=hp["keep"], visual_pivots=hp["pivot_image"], text_pivots=hp["pivot_text"], layer=2
    )
    own, text = method.pivots(view)
    case.same("image_pivots", own - hp["start"])
    case.same("text_pivots", text)
    pool = view.visual[torch.isin(view.visual, own, invert=True)]
    each = method.each(hp["V"], len(own) + len(text))
    order = case.arrays["out_pivot_visit_order"].tolist()
    taken = least_like(layer.normed(), pool, order, each)
    case.same("kept", torch.cat([own, taken]).sort().values - hp["start"])
    assert len(method.decide(view).kept) == hp["n"] - hp["V"] + len(own) + len(taken)


def sparsevlm(case: Case) -> None:
    """One cut: which visual rows go on as they are, and what the dropped ones are pooled into behind them."""
    hp, hidden = case.hp, case.given("hidden")
    first_text = hp["start"] + hp["V"]
    raters = hp["n"] - first_text - torch.tensor(hp["raters"])
    cut = (2, 6, 15).index(hp["layer"])
    second = hp["version"] == "2_0"
    counts = {(192, False): (300, 200, 110), (64, False): (66, 30, 17), (64, True): (66, 34, 20)}
    method = SparseVLM(counts=counts[hp["retain_setting"], second], recycle=not second)
    view = view_of(case, RecordedRows(attention=case.given("rater_rows")), hidden, cut=cut, carried=raters)
    decision = method.decide(view)
    pooled = 0 if second else int(case.arrays["out_n_recycled"])
    values = hidden[decision.kept]
    if decision.entries is not None:
        values = weighted_sum(decision.entries, hidden, len(decision.kept))
    plain = (values == hidden[decision.kept]).all(-1)
    text = torch.isin(decision.kept, view.visual, invert=True)
    assert len(decision.kept) == len(case.arrays["out_values"])
    if second:
        case.same("position_ids", decision.kept)
    rated = replace(method, recycle=False).decide(view).kept
    case.same("kept_visual", rated[torch.isin(rated, view.visual)] - hp["start"])
    if case.exact:
        order = torch.cat([values[text][: hp["start"]], values[plain & ~text]])
        recorded = torch.from_numpy(case.arrays["out_values"])
        torch.testing.assert_close(order, recorded[: len(order)], atol=1e-4, rtol=0)
        # the release puts clusters behind the rest; in which order is no more than a name
        ours, theirs = values[~plain & ~text], recorded[len(order) : len(order) + pooled]
        assert len(ours) == pooled
        by = torch.cdist(ours, theirs).argmin(1) if pooled else torch.arange(0)
        assert sorted(by.tolist()) == list(range(pooled))
        torch.testing.assert_close(ours, theirs[by], atol=1e-3, rtol=0)
    else:
        assert int((~plain & ~text).sum()) <= pooled


def framefusion(case: Case) -> None:
    """Call after call of one prompt; what a layer adds, and its attention, are those of the rows left."""
    hp, text = case.hp, case.given("text")
    before, after = text[: hp["n_pre"]], text[hp["n_pre"] :]
    states = torch.cat([before, case.given("x").flatten(0, 1), after])
    rows, visual = torch.arange(len(states)), torch.arange(len(before), len(states) - len(after))
    method = FrameFusion(cost=hp["cost"], similarity=hp["s_thr"], least_merged=hp["ratio_lb"])
    carried = None
    for call in range(len(case.arrays["out_lengths"])):
        if call:
            states = states + case.given("layer_delta")[call - 1][rows]
        layer = RecordedRows(attention=case.given("prune_logits")[:, rows].softmax(-1))
        stays = torch.isin(rows, visual)
        view = PromptView(
            layer=call,
            cut=call,
            depth=28,  # the release counts so many, whatever the model
            states=states,
            embeds=states,
            visual=stays.nonzero()[:, 0],
            places=rows[stays] - len(before),
            grid=VideoGrid(hp["T"], hp["h"], hp["w"]),
            visual_at_first=len(visual),
            before=layer,
            at=layer,
            carried=carried,
        )
        decision = method.decide(view)
        carried, rows = decision.carried, rows[decision.kept]
        if decision.entries is None:
            states = states[decision.kept]
        else:
            states = weighted_sum(decision.entries, states, len(decision.kept))
        case.same(f"kept_step{call}", rows)
        assert decision.done == bool(case.arrays["out_finish_pruning"][call])
    case.close("values", states)


def dycoke_decode(case: Case) -> None:
    """Step after step; a row of -1 means that everything was attended to."""
    hp = case.hp
    method = DyCokeInner(keep_ratio=1 - hp["p_p"], gate=hp["gate"])
    visual = torch.arange(hp["start"], hp["start"] + hp["V"])
    carried, likenesses = None, []
    for number in range(hp["steps"]):
        entries = hp["n_prompt"] + number + 1
        attention = case.given("attn_rows")[number, :, :entries]
        step = method.step(StepView(attention, visual, carried))
        likenesses.append(method.likeness(step.carried.attention, carried))
        carried = step.carried
        recorded = case.arrays["out_kept_sorted"][number]
        if step.chosen is None:
            assert (recorded == -1).all()
            continue
        stays = torch.ones(entries, dtype=torch.bool)
        stays[visual] = False
        stays[visual[step.chosen]] = True
        assert stays.nonzero()[:, 0].tolist() == recorded[recorded >= 0].tolist()
    case.close("similarity", torch.tensor(likenesses))


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "fastv": fastv,
    "flashvid_inner": flashvid,
    "pyramiddrop": pyramiddrop,
    "holitom_inner": holitom,
    "feather": feather,
    "dart": dart,
    "sparsevlm": sparsevlm,
    "framefusion": framefusion,
    "dycoke_decode": dycoke_decode,
}
