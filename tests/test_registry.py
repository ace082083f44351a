"""The list of methods."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from streamprune.registry import (
    STAGES,
    build_method,
    get_method,
    list_methods,
    register_method,
    unregister_method,
)

PUBLISHED = """
aim atc catp cdpruner divprune dycoke dytok evs fastervlm fastvid flashvid flowcut gprune
greedyprune hiprune holitom holov llava_scissor lvlm_csp metok mustdrop prunevid
pyramid_token_pruning recoverable_compression saint star stc streaming_tom sttm timechat_online
todre tome vflowopt vidcom2 vilamp vispruner visionzip vscan zoo_prune
"""

MEMORIES = """
flash_vstream infinipot_v infinitehip livevlm rekv stc streaming_tom streaming_vlm streammem streamvln
tiered timechat_online
"""


@dataclass(frozen=True, kw_only=True)
class Mine:
    """One line about it.

    And more.
    """

    needs = ("saliency",)
    causal = True

    def reduce(self, tokens: object) -> None:
        """Never called here."""


def test_rows_are_unique_in_pipeline_order_and_load() -> None:
    rows = list_methods()
    keys = [(row.stage, row.name) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [STAGES.index(row.stage) for row in rows] == sorted(STAGES.index(row.stage) for row in rows)
    for row in rows:
        assert row.load().__name__ == str(row.target).rpartition(":")[2]
        assert row.summary
        assert row.source in ("baseline", "streamprune") or row.source.startswith(
            ("arXiv ", "AAAI ", "CVPR ", "EMNLP ")
        )


def test_one_stage() -> None:
    names = [row.name for row in list_methods("pre_llm")]
    assert names[:6] == ["none", "random", "stride", "pool", "streamprune", "fastvid"]
    assert set(PUBLISHED.split()) <= set(names)
    with pytest.raises(ValueError, match=r"unknown stage 'prellm'. Did you mean 'pre_llm'"):
        list_methods("prellm")  # type: ignore[arg-type]


def test_every_memory_is_there_and_can_be_made() -> None:
    rows = {row.name: row for row in list_methods("memory")}
    assert set(MEMORIES.split()) | {"window", "keep_all"} == set(rows)
    for name, row in rows.items():
        memory = build_method("memory", name, {})
        assert row.causal
        assert set(row.needs) == memory.wants
        assert memory.describe().source == row.source


def test_a_class_is_registered_and_forgotten() -> None:
    info = register_method(Mine, "mine")
    try:
        assert (info.needs, info.causal, info.source, info.summary) == (
            ("saliency",),
            True,
            "user",
            "One line about it.",
        )
        assert get_method("pre_llm", "mine") is info
        assert register_method(Mine, "mine") == info, "again is harmless"
        with pytest.raises(ValueError, match="exists already"):
            register_method(type("Other", (), {}), "mine")
    finally:
        unregister_method("mine")
    with pytest.raises(LookupError, match="unknown pre_llm method 'mine'"):
        get_method("pre_llm", "mine")


@pytest.mark.parametrize("name", ["", "a b", "x/y", "-"])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        register_method(Mine, name)


def test_what_is_built_in_stays() -> None:
    with pytest.raises(ValueError, match="built in"):
        unregister_method("none")
    with pytest.raises(ValueError, match="exists already"):
        register_method(Mine, "fastvid")
    with pytest.raises(TypeError, match="must be a class"):
        register_method(Mine(), "mine")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dict must have a method reduce"):
        register_method(dict, "mine")


def test_unknown_options_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'context_ratio'.*Known: .*anchor_interval"):
        build_method("pre_llm", "fastvid", {"contxt_ratio": 0.5})
    with pytest.raises(ValueError, match=r"Did you mean 'fastvid'"):
        get_method("pre_llm", "FastVID")
    with pytest.raises(ValueError, match=r"unknown option of none 'seed'; there is none"):
        build_method("pre_llm", "none", {"seed": 5})


def test_a_missing_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"frames method 'uniform' cannot be made .* 'num_frames'"):
        build_method("frames", "uniform", {})
