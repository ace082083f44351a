"""How alike tokens and frames are, computed in blocks so that half-precision features need no full copy."""

from __future__ import annotations

import torch

# rows of one block of a symmetric product: fewer waste the matrix unit, more compute mirrored pairs twice
_GRAM_ROWS = 128
# multiplications from which on preparing a oneDNN product pays
_ONEDNN_FROM = 2**22


def unit_rows(values: torch.Tensor) -> torch.Tensor:
    """(rows, channels) float32: every row divided by its length; a zero row stays zero."""
    values = values.float()
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return torch.where(length > 0, values / length, 0.0)


def adjacent_cosine(values: torch.Tensor) -> torch.Tensor:
    """(rows - 1,) float32: cosine of each row of (rows, channels) with the next one."""
    unit = unit_rows(values)
    return (unit[:-1] * unit[1:]).sum(-1)


def inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(left rows, right rows) float32: every row of one float32 matrix times every row of the other.

    Large products on a CPU run in oneDNN: with torch's default BLAS they take up to twice as long on AMD.
    """
    if left.shape[0] * right.shape[0] * left.shape[1] < _ONEDNN_FROM:
        return left @ right.T
    return _product(_pack(left), _pack(right))


def gram(values: torch.Tensor) -> torch.Tensor:
    """(rows, rows) float32 inner products of the rows of (rows, channels), each pair computed once."""
    values = values.float()
    rows, channels = values.shape
    products = values.new_empty(rows, rows)
    parts = torch.split(values, _GRAM_ROWS)
    if len(parts[0]) ** 2 * channels >= _ONEDNN_FROM:
        parts = tuple(_pack(part) for part in parts)
    for i, left in enumerate(parts):
        for j, right in enumerate(parts[i:], i):
            block = _product(left, right)
            top, start = i * _GRAM_ROWS, j * _GRAM_ROWS
            products[top : top + block.shape[0], start : start + block.shape[1]] = block
            if i != j:
                products[start : start + block.shape[1], top : top + block.shape[0]] = block.T
    return products


def _pack(matrix: torch.Tensor) -> torch.Tensor:
    """The float32 ``matrix`` as oneDNN takes it, where there is oneDNN."""
    if matrix.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return matrix.detach().to_mkldnn()
    return matrix


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Every row of one matrix times every row of the other, both packed or neither."""
    if left.is_mkldnn:
        return torch.nn.functional.linear(left, right).to_dense()
    return left @ right.T


def frame_grams(values: torch.Tensor) -> torch.Tensor:
    """(frames, rows, rows) float32: :func:`gram` of each frame of (frames, rows, channels)."""
    if values.device.type != "cpu":
        values = values.float()
        return values @ values.mT
    frames, rows, _ = values.shape
    products = torch.empty(frames, rows, rows)
    for frame in range(frames):
        products[frame] = gram(values[frame])
    return products


def cosines(products: torch.Tensor) -> torch.Tensor:
    """(..., rows, rows) cosines from Gram matrices; with a zero row the cosine is 0."""
    squares = products.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(squares > 0, squares.rsqrt(), 0.0)
    return products * scale[..., :, None] * scale[..., None, :]


def squared_distances(products: torch.Tensor) -> torch.Tensor:
    """(rows, rows) squared Euclidean distances from a Gram matrix: at least 0, exactly 0 on the diagonal.

    Exactly symmetric, however the products were rounded: two points that are each other's nearest must tie.
    """
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - (products + products.T)).clamp_(min=0)
    return distances.fill_diagonal_(0)


def most_similar(values: torch.Tensor, targets: torch.Tensor, *, block_rows: int = 1024) -> torch.Tensor:
    """(rows,) int64: for each row of (rows, channels), the row of ``targets`` with the highest cosine.

    The length of a row cannot change which target wins, so only the targets are normalised. At most
    ``block_rows`` rows are held in float32 at a time. Ties and zero rows go to the lowest target.
    """
    unit = unit_rows(targets)
    best = [inner_products(unit, block.float()).max(0).indices for block in torch.split(values, block_rows)]
    return torch.cat(best)
