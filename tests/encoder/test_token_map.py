from __future__ import annotations

import torch

from streamprune.encoder.token_map import TokenMap, follow, like_kept, read_back

VALUES = torch.arange(24.0).reshape(2, 4, 3)


def test_a_selection_takes_and_gives_back() -> None:
    step = TokenMap.select(torch.tensor([[3, 0], [1, 2]]), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]))
    left = step.apply(VALUES)
    assert torch.equal(left, torch.stack([VALUES[0, [3, 0]], VALUES[1, [1, 2]]]))
    assert torch.equal(step.restore(left), torch.stack([VALUES[0, [0, 0, 3, 3]], VALUES[1, [1, 1, 2, 2]]]))


def test_a_merge_weighs_and_a_weight_of_zero_only_reads() -> None:
    weight = torch.tensor([[0.25, 0.75, 1.0, 0.0], [1.0, 0.5, 0.0, 0.5]])
    slot = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    step = TokenMap.merge(torch.tensor([[1, 2], [0, 1]]), slot, weight)
    left = step.apply(VALUES)
    torch.testing.assert_close(left[0, 0], 0.25 * VALUES[0, 0] + 0.75 * VALUES[0, 1])
    assert torch.equal(left[0, 1], VALUES[0, 2])
    torch.testing.assert_close(left[1, 1], (VALUES[1, 1] + VALUES[1, 3]) / 2)
    assert torch.equal(step.restore(left)[1], left[1, [0, 1, 1, 1]])


def test_a_blend_adds_to_what_stays() -> None:
    added = (torch.tensor([0, 1, 2]), torch.tensor([3, 3, 4]), torch.tensor([0.5, 0.1, 2.0]))
    step = TokenMap.blend(torch.tensor([[0, 2], [1, 2]]), torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]]), added)
    left = step.apply(VALUES)
    torch.testing.assert_close(left[0, 0], VALUES[0, 0] + 0.5 * VALUES[0, 3])
    torch.testing.assert_close(left[0, 1], VALUES[0, 2] + 0.1 * VALUES[0, 3])
    torch.testing.assert_close(left[1, 0], VALUES[1, 1] + 2 * VALUES[1, 0])
    assert torch.equal(left[1, 1], VALUES[1, 2])


def test_frames_merge_token_by_token() -> None:
    frames = torch.arange(40.0).reshape(5, 4, 2)
    step = TokenMap.merge_frames([0, 1, 1, 1, 2], [1.0, 0.25, 0.75, 0.0, 1.0], frames)
    left = step.apply(frames)
    assert left.shape == (3, 4, 2)
    torch.testing.assert_close(left[1], 0.25 * frames[1] + 0.75 * frames[2])
    assert step.index[:, 0].tolist() == [0, 8, 16], "the heavier frame stands for the pair"
    assert torch.equal(step.restore(left), left[[0, 1, 1, 1, 2]])


def test_numbers_of_half_precision_are_summed_in_float32_and_kept() -> None:
    # added one after the other in bfloat16 the small ones would be lost
    values = torch.tensor([[[1.0], [2.0**-8], [2.0**-8], [5.0]]], dtype=torch.bfloat16)
    weight = torch.ones(1, 4)
    step = TokenMap.merge(torch.tensor([[0, 3]]), torch.tensor([[0, 0, 0, 1]]), weight)
    left = step.apply(values)
    assert left.dtype == torch.bfloat16
    assert left.flatten().tolist() == [1 + 2.0**-7, 5.0]
    exact = step.apply(values.double())
    assert exact.dtype == torch.float64
    assert exact.flatten().tolist() == [1 + 2.0**-7, 5.0]


def test_steps_are_undone_in_reverse() -> None:
    generator = torch.Generator().manual_seed(1)
    hard = TokenMap.select(torch.tensor([[0, 1, 3], [0, 2, 3]]), torch.tensor([[0, 1, 1, 2], [0, 0, 1, 2]]))
    given = torch.rand(2, 3, 2, generator=generator)
    given = given / given.sum(-1, keepdim=True)
    soft = TokenMap.transform(torch.tensor([[0, 1], [1, 2]]), given.mT, given)
    last = TokenMap.select(torch.tensor([[1], [0]]), torch.tensor([[0, 0], [0, 0]]))
    left = torch.rand(2, 1, 3, generator=generator)
    expected = hard.restore(soft.restore(last.restore(left)))
    torch.testing.assert_close(read_back([hard, soft, last], left), expected)
    one_by_one = hard.restore(hard.apply(VALUES))
    assert torch.equal(read_back([hard], hard.apply(VALUES)), one_by_one)
    assert read_back([], VALUES) is VALUES


def test_following_hard_steps_gives_one() -> None:
    first = TokenMap.select(torch.tensor([[0, 1, 3], [0, 2, 3]]), torch.tensor([[0, 1, 1, 2], [0, 0, 1, 2]]))
    second = TokenMap.select(torch.tensor([[2], [1]]), torch.tensor([[0, 0, 0], [0, 0, 0]]))
    assert follow([first]).tolist() == [[0, 1, 1, 2], [3, 3, 4, 5]]
    assert follow([first, second]).tolist() == [[0] * 4, [1] * 4]
    left = second.apply(first.apply(VALUES))
    assert torch.equal(read_back([first, second], left), first.restore(second.restore(left)))


def test_a_dropped_token_reads_the_one_most_like_it() -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [5.0, 0.1], [0.0, 0.0], [3.0, 0.0]]])
    assert like_kept(states, torch.tensor([[1, 0, 4]])).tolist() == [[1, 0, 1, 0, 2]]
    assert like_kept(states, torch.tensor([[4, 0, 1, 2, 3]])).tolist() == [[1, 2, 3, 4, 0]]
