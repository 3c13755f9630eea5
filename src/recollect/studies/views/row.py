"""What the study measures of each view: one row a seed, the same numbers for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ViewRow"]


@dataclass(frozen=True)
class ViewRow:
    """The numbers of one view on its trained example, for one seed.

    Args:
        name: of the view.
        modules: how many modules the memory has seen.
        glances: how many glances it holds.
        count_coverage: share of windows and modules whose true count stands within the 90 %
            interval that is read from sketches alone, among modules whose count varies from
            window to window; NaN if none does.
        count_error: summed distance of estimated counts from the true ones, over the true sum.
        attribute_r2: of attributes decoded from sketches, median over modules.
        attribute_coverage: share of the attributes' numbers that stand within 90 % error bars.
        similarity_precision: share of the ten most similar glances that share the query's label.
        overhead: processor time of a traced forward over a plain one, less one.
        notes: the network, its data, what a label is, what a count counts.
        attribute_r2_mean: of the rival for attributes, the prior's means alone.
        similarity_chance: of the rival for similarity, glances picked by chance.
        similarity_raw: of the rival that keeps everything, the raw attributes' cosine.
        count_ideal: what such intervals hold if errors are normal with the deviations that are
            told: more than 0.9, since the nearest whole number always belongs to an interval.
        count_prior: error of the rival for counts, the prior's mean number alone.
        constant: modules with the same count in every window, of which nothing is scored.
        fixed: modules with the same attribute in every glance, which have no R2.
        bytes: of one sketch.
        raw_bytes: of one glance's attributes in float32, mean.

    Example:
        >>> ViewRow("attention", 8, 500, 0.9, 0.01, 0.8, 0.9, 0.95, 0.1, "digits").modules
        8
    """

    name: str
    modules: int
    glances: int
    count_coverage: float
    count_error: float
    attribute_r2: float
    attribute_coverage: float
    similarity_precision: float
    overhead: float
    notes: str
    attribute_r2_mean: float = math.nan
    similarity_chance: float = math.nan
    similarity_raw: float = math.nan
    count_ideal: float = math.nan
    count_prior: float = math.nan
    constant: int = 0
    fixed: int = 0
    bytes: int = 0
    raw_bytes: float = math.nan
