"""What is printed of objects: one line each, by which they could be made again."""

import pickle

import pytest
import torch

from ncsn_lightning import AnnealedLangevin, Checkerboard, Geometric, Heun, Karras, LogUniform, Moons
from ncsn_lightning.core.validation import described, strict

MADE = {
    "Checkerboard(cell_size=2)": Checkerboard(cell_size=2.0),
    "Moons(noise=0.1, zoom=2, shift=-1, offset_x=1, offset_y=0.5)": Moons(noise=0.1),
    "Heun(denoise=False, prior='gaussian')": Heun(denoise=False, prior="gaussian"),
    "AnnealedLangevin(step_ratio=0.1, base_step=None, steps_per_level=7, denoise=False, prior='gaussian')": (
        AnnealedLangevin(step_ratio=0.1, steps_per_level=7)
    ),
}


@pytest.mark.parametrize("text", MADE)
def test_an_object_is_printed_as_it_is_made(text):
    assert repr(MADE[text]) == text
    assert repr(pickle.loads(pickle.dumps(MADE[text]))) == text


def test_a_schedule_says_its_levels_too():
    assert repr(Geometric(sigma_min=0.01, sigma_max=5.0)) == (
        "Geometric(sigma_min=0.01, sigma_max=5, num_levels=10): σ from 5 to 0.01"
    )
    assert repr(Karras(sigma_min=0.01, sigma_max=5.0, num_levels=3, rho=5.0)).startswith("Karras(sigma_min=0.01, ")


def test_objects_do_not_hold_what_they_were_made_of():
    """Levels print nothing of a schedule of which they keep the ends alone, and are the same for all with these."""
    ladders = (kind(sigma_min=0.5, sigma_max=2.0, num_levels=5) for kind in (Geometric, Karras))
    first, second = (LogUniform(schedule=ladder, tilt=0.4) for ladder in ladders)
    assert repr(first) == repr(second) == "LogUniform(tilt=0.4, groups=None, stratified=False)"
    assert vars(first).keys() == vars(second).keys()
    assert not any(isinstance(module, Geometric) for module in first.modules())


class Base:
    @strict
    def __init__(self, *, a: int, points: torch.Tensor) -> None:
        self.a = a

    __repr__ = described


class Derived(Base):
    @strict
    def __init__(self, *, b: float = 1e-7, path: str | None = None) -> None:
        super().__init__(a=3, points=torch.zeros(4, 2))


class Plain(Base):
    def __init__(self, a, other=None):
        super().__init__(a=a, points=torch.zeros(1))


def test_the_outermost_constructor_has_the_word():
    assert repr(Base(a=1, points=torch.zeros(4, 2))) == "Base(a=1, points=tensor of [4, 2])"
    assert repr(Derived(path="x.csv")) == "Derived(b=1e-07, path='x.csv')"
    assert repr(Plain(5)) == "Plain(a=5, other=None)"
    with pytest.raises(ValueError, match="should be a valid integer"):
        Base(a="x", points=torch.zeros(1))
