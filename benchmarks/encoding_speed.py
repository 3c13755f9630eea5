"""How fast are 19,850 numbers of 64 modules encoded, beside a random projection and torchhd?

One batch of 256 glances. Rivals in the same run, taken in turns: scikit-learn's
SparseRandomProjection of the concatenated numbers to 1,024 components, and torchhd's projection,
binding with a module key and multiset, one bind per object.

    python -m benchmarks.encoding_speed
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.random_projection import SparseRandomProjection

from benchmarks.tables import interleaved, show
from recollect import Sketcher, Trace

GLANCES, DIM, MODULES, NUMBERS = 256, 1024, 64, 19_850


def sizes() -> list[int]:
    """64 attribute sizes from 16 to 1,280 that add up to 19,850."""
    shape = np.geomspace(16, 1280, MODULES)
    made = np.maximum((shape * NUMBERS / shape.sum()).astype(int), 1)
    made[-1] += NUMBERS - made.sum()
    return [int(m) for m in made]


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(GLANCES, m, generator=generator) for m in sizes()]
    trace = Trace.from_columns({f"module{i:02d}": x for i, x in enumerate(parts)})
    sketcher = Sketcher(dim=DIM)
    whole = torch.cat(parts, 1).numpy()
    projection = SparseRandomProjection(DIM, random_state=0).fit(whole)
    actions = {
        "recollect, with rounding to int8 and skeletons": lambda: sketcher.encode(trace),
        "recollect, the linear map alone": lambda: sketcher.unrounded(trace),
        "SparseRandomProjection (concatenated already)": lambda: projection.transform(whole),
    }
    try:
        import torchhd
    except ImportError:
        print("torchhd is not installed: its row is left out (pip install --no-deps torch-hd)")
    else:
        maps = [torch.randn(m, DIM, generator=generator) for m in sizes()]
        keys = torchhd.random(MODULES, DIM, generator=generator)

        def bundle() -> torch.Tensor:
            bound = [torchhd.bind(torchhd.MAPTensor(x @ a), k)
                     for x, a, k in zip(parts, maps, keys, strict=True)]  # fmt: skip
            return torchhd.multiset(torch.stack(bound, dim=-2))

        actions["torchhd: project, bind, multiset"] = bundle
    seconds = interleaved(actions)
    own = seconds["recollect, with rounding to int8 and skeletons"]
    show(
        f"Encoding {NUMBERS:,} numbers of {MODULES} modules to {DIM}, batch of {GLANCES}",
        ("method", "ms", "times recollect"),
        [(name, f"{s * 1e3:.1f}", f"{s / own:.2f}") for name, s in seconds.items()],
    )


if __name__ == "__main__":
    main()
