"""A fractal of seven scales, after the toy example of Karras et al., 2024, trained on three kinds of targets."""

from __future__ import annotations

from lab import Lab, spread
from page import table_of

from ncsn_lightning.report.metrics import plus_minus
from reproductions.common import divergence

OBJECTIVES = ("denoising", "stable_target", "exact")


def reproduce(lab: Lab) -> list[str]:
    jobs = lab.train("", "experiment=edm2_toy", f"objective={','.join(OBJECTIVES)}", "seed=0,1,2")
    kl = lab.measure({f"kl_{job.hash}": lambda f=job.folder: divergence(f) for job in jobs})
    (truth,) = lab.measure({f"kl_exact_{jobs[0].hash}": lambda: divergence(jobs[0].folder, exact=True)}).values()
    rows = []
    for objective in OBJECTIVES:
        found = [job for job in jobs if job.overrides["objective"] == objective]
        errors = spread(job.metrics["score_error"] for job in found)
        rows.append([f"`{objective}`", errors, spread(kl[f"kl_{job.hash}"][0] for job in found)])
    rows.append(["none: the exact score", "0", plus_minus(*truth)])
    largest = max(error for _, error in kl.values())
    note = f"Standard error of a network's KL over its 10 000 points: at most {largest:.2g}."
    return [*table_of(["objective", "score error", "KL (nats)"], rows), "", note]
