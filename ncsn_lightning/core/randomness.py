"""Keyed randomness: every draw of a run is a pure function of (seed, purpose, index).

A generator is made afresh for each key, so nothing is replayed when a run resumes, no two purposes share a stream,
and the number of workers, ranks or resumptions never changes a number.
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
