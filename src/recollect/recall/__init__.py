"""Questions, as plain functions of a Memory.

    recall.count(memory, "cat", by="hour_of_day")   # how often, when
    recall.similar(memory, 17)                      # which glances are like this one
    recall.attribute(memory, "cat")                 # how large, where: mean and spread
    recall.quantiles(memory, "cat", [0.5, 0.9])     # how distributed; histogram, fraction_above
    recall.drift(memory, (a, b), (b, c))            # do two windows differ, with a p-value
    recall.what_was_new(memory, since)              # which modules came, went, look otherwise
    recall.statistics(memory, "cat")                # what streams were followed, with bounds
    recall.unroll(memory, 17)                       # one glance as a tree
    recall.why(memory, 17, 23)                      # what two glances have in common
    recall.shared(memory, "cat", "person")          # which parts two kinds both use
    recall.concept(memory, [17, 23], [42])          # which others are like these, unlike that
    recall.label_next(memory, 10)                   # which glances are most worth a label
    recall.graph(memory, 17)                        # what is related to this, through what
    recall.emerging(memory)                         # what recurs and has no name yet
    recall.name(memory, [17, 23, 42], "parcel")     # name it: count counts it, in the past too

Every answer is a table with ``estimate``, ``low`` and ``high`` (90 %), and goes to Arrow and
pandas. Names are loaded when first used, so that counting never waits for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recollect._late import late_names

if TYPE_CHECKING:
    from recollect.recall.attributes import attribute
    from recollect.recall.concepts import Concept, concept
    from recollect.recall.counts import count
    from recollect.recall.distributions import covariance, fraction_above, histogram, quantiles
    from recollect.recall.drifting import drift
    from recollect.recall.emergence import Emerging, emerging
    from recollect.recall.labelling import label_next
    from recollect.recall.naming import name
    from recollect.recall.novelty import what_was_new
    from recollect.recall.reasons import why
    from recollect.recall.related import Related
    from recollect.recall.relations import graph
    from recollect.recall.sharing import shared
    from recollect.recall.similarity import similar
    from recollect.recall.streams import statistics
    from recollect.recall.unrolling import Unrolled, unroll

# Files are not named like their functions: a loaded file would take the function's place.
_WHERE = {
    "Concept": "recollect.recall.concepts",
    "Emerging": "recollect.recall.emergence",
    "Related": "recollect.recall.related",
    "Unrolled": "recollect.recall.unrolling",
    "attribute": "recollect.recall.attributes",
    "concept": "recollect.recall.concepts",
    "count": "recollect.recall.counts",
    "covariance": "recollect.recall.distributions",
    "drift": "recollect.recall.drifting",
    "emerging": "recollect.recall.emergence",
    "fraction_above": "recollect.recall.distributions",
    "graph": "recollect.recall.relations",
    "histogram": "recollect.recall.distributions",
    "quantiles": "recollect.recall.distributions",
    "label_next": "recollect.recall.labelling",
    "name": "recollect.recall.naming",
    "shared": "recollect.recall.sharing",
    "similar": "recollect.recall.similarity",
    "statistics": "recollect.recall.streams",
    "unroll": "recollect.recall.unrolling",
    "what_was_new": "recollect.recall.novelty",
    "why": "recollect.recall.reasons",
}

__all__ = [
    "Concept",
    "Emerging",
    "Related",
    "Unrolled",
    "attribute",
    "concept",
    "count",
    "covariance",
    "drift",
    "emerging",
    "fraction_above",
    "graph",
    "histogram",
    "label_next",
    "name",
    "quantiles",
    "shared",
    "similar",
    "statistics",
    "unroll",
    "what_was_new",
    "why",
]

__getattr__, __dir__ = late_names(__name__, _WHERE, __all__)
