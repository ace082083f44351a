"""How PyramidKV shares its budget out over the layers."""

from __future__ import annotations

import dataclasses

from streamprune.kv.pyramidkv import PyramidKV, layer_share, layer_share_in_whole_steps
from tests.kv.made_view import chosen, random_view


def test_pyramidkv_shares_along_a_line() -> None:
    shares = [layer_share(100, 1000, window=8, beta=4, layer=layer, layers=6) for layer in range(6)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == 600
    assert (shares[0], shares[-1]) == (175, 25)
    flat = [layer_share(100, 1000, window=8, beta=1, layer=layer, layers=6) for layer in range(6)]
    assert flat == [100] * 6
    assert layer_share(10, 100, window=0, beta=5, layer=1, layers=2) == 2
    assert layer_share(50, 60, window=8, beta=20, layer=0, layers=2) == 52, "no more than there is"
    view = random_view(60)
    first = dataclasses.replace(view, layer=0, depth=2)
    last = dataclasses.replace(view, layer=1, depth=2)
    policy = PyramidKV(window=4, beta=4, keep_tokens=20)
    assert (len(chosen(policy, first)[0]), len(chosen(policy, last)[0])) == (35, 5)


def test_pyramidkv_in_whole_steps_spends_more_than_it_says() -> None:
    def shares(average: int, tokens: int, window: int, beta: float, layers: int) -> list[int]:
        return [
            layer_share_in_whole_steps(average, tokens, window=window, beta=beta, layer=layer, layers=layers)
            for layer in range(layers)
        ]

    found = shares(128, 4000, 8, 20.0, 32)
    assert [found[0] - 8, found[1] - 8, found[-1] - 8] == [234, 227, 17]
    assert sum(found) / 32 == 125.5 + 8
    assert shares(10, 100, 0, 5.0, 2) == [18, 2]
    assert shares(40, 70, 8, 20.0, 3) == [70, 40, 10], "the first layer keeps all there is"
    assert shares(40, 63, 8, 20.0, 3) == [40] * 3
    assert shares(40, 400, 8, 1.0, 3) == [40] * 3
    assert shares(6, 400, 8, 20.0, 3) == [6] * 3, "no more than the window"
    view = dataclasses.replace(random_view(60), layer=1, depth=2)
    assert len(chosen(PyramidKV(window=4, beta=4, keep_tokens=20, whole_steps=True), view)[0]) == 8
