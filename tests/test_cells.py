import pytest
import torch

from ncsn_lightning.objectives.cell_list import CellList


def around(points, x, width):
    """Which of `points` lie in the 3 × 3 cells around one of `x`, by the definition, `[n, points]`."""
    cells, own = (((p - points.amin(0)) / width).floor() for p in (points, x))
    return ((cells - own.unsqueeze(1)).abs() <= 1).all(-1)


@pytest.mark.parametrize("width", [0.05, 0.3, 100.0])
def test_all_points_in_the_cells_around_are_found_where_they_are_few(width, generator):
    points = torch.randn(500, 2, generator=generator)
    x = torch.cat([3 * torch.randn(200, 2, generator=generator), torch.tensor([[-50.0, 0.0], [0.0, 1e6]])])
    near, found = CellList(points, width=width).near(x, 500, offset=torch.rand(len(x), generator=generator))
    expected = around(points, x, width)
    near = torch.stack(near, dim=-1)
    assert torch.equal(found.sum(-1), expected.sum(-1))
    for row in range(len(x)):
        assert torch.equal(near[row][found[row]].sort(0).values, points[expected[row]].sort(0).values)


def test_each_of_many_points_is_as_likely_as_any_other(generator):
    points = torch.rand(100, 2, generator=generator)
    x = torch.full((20_000, 2), 0.5)
    near, found = CellList(points, width=0.2).near(x, 7, offset=torch.rand(len(x), generator=generator))
    near = torch.stack(near, dim=-1)
    assert found.all()
    expected = points[around(points, x[:1], 0.2)[0]]
    assert len(expected) > 20
    chosen, counts = near.reshape(-1, 2).unique(dim=0, return_counts=True)
    assert torch.equal(chosen, expected.unique(dim=0))
    p = 7 / len(expected)
    assert ((counts / len(x) - p).abs() < 5 * (p * (1 - p) / len(x)) ** 0.5).all()
    assert all(len(row.unique(dim=0)) == 7 for row in near[:50])
