"""Studies run, and show what they claim."""

from __future__ import annotations

import pytest

from recollect import NotRemembered, studies
from recollect.studies import recovery


def test_every_listed_study_can_be_found() -> None:
    found = studies.listed()
    assert found["study"] == sorted(found["study"])
    with pytest.raises(NotRemembered, match="no study 'foresight'"):
        studies.run("foresight")


def test_hindsight_beats_pca_that_was_fitted_before() -> None:
    pytest.importorskip("sklearn")
    found = studies.run("hindsight", quick=True)
    early, late = found["sketch"][0], found["sketch"][-1]
    assert 1 - late < 0.6 * (1 - early)
    assert late > found["PCA fixed at 100"][-1]


def test_a_hidden_network_is_recovered_from_two_thousand_pairs() -> None:
    few, many = recovery._flat(500)[0], recovery._flat(2000)
    found, others = many[0], many[1:]
    assert found["columns named"] >= 0.99
    assert found["weight cosine"] >= 0.97
    assert few["weight cosine"] < found["weight cosine"]
    # It runs better than learners that were told the true attributes.
    assert len(others) == 3
    for name in recovery.RUN:
        assert found[name] > max(row[name] for row in others)
