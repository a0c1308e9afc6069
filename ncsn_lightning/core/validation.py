"""Check and shape arguments, everywhere in the package in the same way.

Constructors are the only schema of the configuration: keyword arguments, strict types, bounds in the annotations.
`strict` turns the annotations into checks, and reports every wrong argument of a call at once, with name and value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import torch
from jaxtyping import Float, Float64
from pydantic import ConfigDict, Field, validate_call
from torch import Tensor

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
StableRatio = Annotated[float, Field(gt=0, lt=2)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]

Vectors = Float[Tensor, "*batch 2"]
"""Points of the plane, or vectors at them: a batch of any shape."""

Sigma = Float[Tensor, "*#batch"]
"""Noise levels σ, in data units, of any shape that broadcasts against the batch."""

Column = Float[Tensor, "*#batch 1"]
"""Noise levels with one axis more, for arithmetic with `Vectors`; `column` makes them."""

Rows = Float64[Tensor, "n 2"]
"""Points, or vectors at them, in the float64 of exact computations: one a row."""

Values = Float64[Tensor, "n"]
"""One number for each of the `Rows`."""

Initialiser = TypeVar("Initialiser", bound=Callable[..., None])


def strict(constructor: Initialiser) -> Initialiser:
    """Decorator: check a constructor's arguments against its annotations, without coercion, and note them as text.

    `described` prints the text. Only simple values, and objects whose `repr` is `described`, are noted.
    """
    checked: Any = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(constructor)

    @functools.wraps(constructor)
    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        texts = {name: text for name, value in kwargs.items() if (text := _as_text(value))}
        self.__dict__.setdefault("_argument_texts", texts)  # the outermost constructor is called first
        checked(self, *args, **kwargs)

    return cast("Initialiser", noting)


def described(value: object) -> str:
    """One line about an object: its class and the arguments that it was made with, defaults included."""
    parameters = inspect.signature(type(value).__init__).parameters.values()
    texts: dict[str, str] = {}
    for parameter in parameters:
        name = parameter.name
        noted = value.__dict__.get("_argument_texts", {}).get(name)
        default = parameter.default if parameter.default is not parameter.empty else getattr(value, name, _NOTHING)
        if text := noted or _as_text(default):
            texts[name] = text
    return f"{type(value).__name__}({', '.join(f'{name}={text}' for name, text in texts.items())})"


_NOTHING = object()


def _as_text(value: object) -> str:
    """A simple value as it is written in a call, a tensor by its shape; empty for other objects."""
    if isinstance(value, Tensor):
        return f"tensor of {[*value.shape]}"
    if isinstance(value, float):
        return f"{value:.6g}"
    simple = value is None or isinstance(value, str | int | Path)
    if simple or (isinstance(value, list | tuple) and len(value) < 9 and all(map(_as_text, value))):
        return repr(value) if not isinstance(value, Path) else repr(str(value))
    return repr(value) if type(value).__repr__ is described else ""


def column(
    sigma: Float[Tensor, "*sigma"] | float, x: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*sigma 1"] | Float[Tensor, "1"]:
    """Give a noise level another axis for arithmetic with points, and the dtype and device of the points.

    This is the package's one broadcasting rule: `sigma` has any shape that broadcasts against `x.shape[:-1]`.
    """
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).unsqueeze(-1)
