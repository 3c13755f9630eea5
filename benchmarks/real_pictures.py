"""Real pictures through real networks: does what the sketches say equal what the network saw?

    python -m benchmarks.real_pictures --data ../shared/data [--quick] [--only room street cards]

* room: a house over a year, 1,460 glances of YOLOX-nano at real rooms with real cats and dogs
  pasted in; "how often a cat, at night or in the morning" from the sketches, beside the log that
  is kept of the network's own findings, beside what was painted.
* street: four street cameras, YOLOX-nano and MobileNetV2, one memory for each; counts by hour,
  most similar glances, one glance unrolled and drawn over its picture.
* cards: playing cards on tables; counts within one glance from the sketch alone.

Memories and pictures go to ``--out`` (a temporary folder if none is given), tables to the screen
and to ``OUT/real_pictures.md``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import real_cards, real_room, real_street
from benchmarks.networks import data_folder
from benchmarks.tables import Report

PARTS = {"room": real_room.run, "street": real_street.run, "cards": real_cards.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with weights/ and scenes/")
    parser.add_argument("--out", type=Path, help="where memories and pictures go")
    parser.add_argument("--quick", action="store_true", help="a tenth of the pictures")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="of the year and of the operators")
    given = parser.parse_args()
    try:
        data = data_folder(given.data)
    except FileNotFoundError as error:
        raise SystemExit(f"SKIPPED: {error}") from None
    out = given.out or Path(tempfile.mkdtemp(prefix="real_pictures_"))
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    report = Report("Real pictures")
    for name in given.only:
        PARTS[name](data, out, report, quick=given.quick, seed=given.seed)
    report.write(out / "real_pictures.md")
    print(f"tables and pictures: {out}")


if __name__ == "__main__":
    main()
