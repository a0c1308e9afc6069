"""How arguments are checked and shaped, everywhere in the package.

Constructors are the one configuration schema: keyword arguments, strict types, bounds in the annotation. `strict`
turns the annotations into checks and reports every wrong argument of a call at once, with its name and value.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, validate_call
from torch import Tensor

Function = TypeVar("Function")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
StableRatio = Annotated[float, Field(gt=0, lt=2)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]

strict = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))
"""Decorator: check the arguments of a constructor against its annotations, without coercion."""


def column(
    sigma: Float[Tensor, "*sigma"] | float, x: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*sigma 1"] | Float[Tensor, "1"]:
    """Shape a noise level for arithmetic with points, with their dtype and on their device.

    This is the package's one broadcasting rule: `sigma` has any shape that broadcasts against `x.shape[:-1]`.
    """
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).unsqueeze(-1)
