"""The annotations of the mathematics name the axes of every tensor, and the test run enforces them."""

import inspect
import pkgutil
import re
from importlib import import_module
from typing import get_type_hints

import pytest
import torch
from jaxtyping import TypeCheckError

from ncsn_lightning import MLP, AnnealedLangevin, Checkerboard, Denoising, SigmaPower, SinusoidalEmbedding, TwoGaussians
from ncsn_lightning.objectives.regression_targets import squared_error

CHECKS_ITSELF = "Points.__init__"  # refuses the user's tensor in a line of its own


def modules(names):
    """The modules of these names, and what lies in those that are packages."""
    for name in names:
        module = import_module(name)
        yield module
        yield from modules(f"{name}.{inner.name}" for inner in pkgutil.iter_modules(getattr(module, "__path__", ())))


def functions(module):
    """What a module defines for others to call, by name: functions, methods, properties."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = {f"{name}.{key}": member for key, member in vars(value).items()} if inspect.isclass(value) else {}
        for label, member in (members or {name: value}).items():
            function = getattr(member, "fget", None) or getattr(member, "func", None) or member
            if inspect.isfunction(function) and not re.search(r"(^|\.)_(?!_)", label):
                yield label, inspect.unwrap(function)


def test_every_tensor_of_a_public_signature_names_its_axes(pytestconfig):
    *names, _ = re.split(r"[,\s]+", pytestconfig.getoption("jaxtyping_packages").strip())
    checked, bare = 0, []
    for module in modules(names):
        for label, function in functions(module):
            for argument, annotation in get_type_hints(function).items():  # also those behind a short name
                checked += "Tensor, " in str(annotation)
                without_shapes = re.sub(r"\w+\[Tensor, (['\"]).*?\1\]", "", str(annotation))
                if "Tensor" in without_shapes and label != CHECKS_ITSELF:
                    bare.append(f"{label}: {argument}: {annotation}")
    assert bare == []
    assert checked > 100


points = torch.zeros(5, 2)
network = MLP(embedding=SinusoidalEmbedding(), hidden_dims=[8])
langevin = AnnealedLangevin(step_ratio=0.1, steps_per_level=1)
MISFITS = {
    "points of three coordinates": lambda: Checkerboard().score(torch.zeros(5, 3), 0.1),
    "levels that do not broadcast": lambda: Checkerboard().log_prob(points, torch.ones(4)),
    "a level as a column": lambda: network(points, torch.ones(5, 1)),
    "noise of another batch": lambda: Denoising().target(points, torch.ones(5), torch.zeros(4, 2)),
    "a target of another batch": lambda: squared_error(points, torch.zeros(4, 2)),
    "whole numbers for levels": lambda: SigmaPower(power=2.0)(torch.ones(3, dtype=torch.long)),
    "a ladder of two dimensions": lambda: langevin(TwoGaussians().score, points, torch.ones(3, 1)),
    "chains in batches": lambda: langevin(TwoGaussians().score, torch.zeros(2, 5, 2), torch.ones(3)),
}


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_a_tensor_of_another_shape_is_refused(misfit):
    with pytest.raises(TypeCheckError):
        misfit()
