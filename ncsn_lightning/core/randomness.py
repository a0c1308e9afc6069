"""Keyed randomness: every draw of a run is a pure function of (seed, purpose, index).

Each key has a new generator. Therefore a resumed run replays nothing, no two purposes share a stream, and the numbers
depend neither on how many workers or ranks there are, nor on how often the run was resumed.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(seed: int, purpose: str, index: int = 0, *, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose state depends on the key alone.

    >>> bool(torch.equal(torch.rand(3, generator=keyed_generator(0, "data")),
    ...                  torch.rand(3, generator=keyed_generator(0, "data"))))
    True
    """
    key = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(key, "little"))
