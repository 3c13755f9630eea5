"""What is related to this, and through what?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import networkx
import numpy as np
import pytest
from typer.testing import CliRunner

from recollect import Memory, Object, Sketcher, Trace, recall
from recollect._checks import NotRemembered
from recollect.app.cli import app

HOUR = 3_600_000_000


def scene(rng: np.random.Generator, cat: int | None) -> list[Object]:
    """A lamp; a cat, one of two, with its face; something else."""
    seen = [Object("lamp", rng.normal(0, 1, 12))]
    if cat is not None:
        draw = np.random.default_rng(100 + cat)
        face = Object("face", draw.normal(0, 1, 12) + rng.normal(0, 0.05, 12))
        seen.append(Object("cat", draw.normal(0, 1, 12) + rng.normal(0, 0.05, 12), inputs=[face]))
    return seen


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    rng = np.random.default_rng(0)
    cats = [0, 1, None, 0, 1, None, 0, 1] * 6
    trace = Trace.from_objects([scene(rng, c) for c in cats])
    folder = tmp_path_factory.mktemp("related")
    with Memory(folder / "m", Sketcher(dim=256), graph=True) as made:
        made.add(trace, [HOUR * i for i in range(48)], ids=range(48))
        recall.name(made, [0, 3, 6, 8, 11], "the grey one")
        yield made


def nodes(found: recall.Related, relation: str) -> list[str]:
    return [r["to"] for r in found if r["relation"] == relation]


def test_a_glance_is_related_through_the_cat_that_both_show(memory: Memory) -> None:
    found = recall.graph(memory, 0)
    similar = [r for r in found if r["relation"] == "similar-to"]
    assert len(similar) == 8
    for row in similar:
        assert int(row["to"].split()[1]) % 8 in (0, 3, 6)
        assert "cat#" in row["through"]
        assert "face#" in row["through"]
        assert row["low"] <= row["estimate"] <= row["high"]
    assert {"module cat", "module face", "module lamp", "concept the grey one"} <= set(
        nodes(found, "kind-of")
    )
    exact = recall.similar(memory, 0, k=8)
    assert [r["estimate"] for r in similar] == pytest.approx(exact["estimate"], abs=1e-6)


def test_a_part_knows_its_larger_part_and_its_glances(memory: Memory) -> None:
    at = recall.graph(memory, 0)
    face = next(r for r in at if r["node"].startswith("part face#"))
    assert face["relation"] == "part-of"
    assert face["to"].startswith("part cat#")
    found = recall.graph(memory, face["node"].removeprefix("part "), k=50)
    glances = {int(t.split()[1]) for t in nodes(found, "part-of") if t.startswith("glance")}
    assert glances == {i for i in range(48) if i % 8 in (0, 3, 6)}
    above = next(r for r in found if r["to"] == face["to"])
    assert above["estimate"] == 18


def test_a_module_and_a_concept_list_their_parts(memory: Memory) -> None:
    cats = [r for r in recall.graph(memory, "cat") if r["relation"] == "kind-of"]
    assert [r["estimate"] for r in cats] == [18, 18]
    concept = recall.graph(memory, "the grey one", k=50)
    shown = {int(r["node"].split()[1]) for r in concept if r["node"].startswith("glance")}
    assert shown == {i for i in range(48) if i % 8 in (0, 3, 6)}
    parts = [r for r in concept if r["relation"] == "part-of"]
    assert {r["node"].split("#")[0] for r in parts[:2]} == {"part cat", "part face"}
    assert parts[0]["estimate"] == 1.0


def test_the_whole_graph_goes_out_and_comes_back(memory: Memory, tmp_path: Path) -> None:
    found = recall.graph(memory)
    made = found.to_networkx()
    kinds = {k for _, k in made.nodes(data="kind")}
    assert kinds == {"glance", "module", "part", "concept"}
    assert sum(k == "glance" for _, k in made.nodes(data="kind")) == 48
    assert made.number_of_edges() == len(found)
    assert found.write(tmp_path / "g.graphml") == len(found)
    again = networkx.read_graphml(tmp_path / "g.graphml")
    assert set(again.edges) == set(made.edges)
    assert again.nodes["glance 3"]["time"] == "1970-01-01T03:00:00+00:00"
    found.write(tmp_path / "g.json")
    data = json.loads((tmp_path / "g.json").read_text())
    back = networkx.node_link_graph(data, edges="edges")
    assert set(back.edges) == set(made.edges)
    window = recall.graph(memory, since="1970-01-01T10:00Z", until="1970-01-01T20:00Z")
    assert {n for n in window.to_networkx() if n.startswith("glance")} == {
        f"glance {i}" for i in range(10, 20)
    }


def test_it_is_drawn(memory: Memory, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = recall.graph(memory, 0)
    found.draw(tmp_path / "g.png")
    found.draw(tmp_path / "g.svg")
    assert (tmp_path / "g.png").stat().st_size > 10_000
    assert "cat#" in (tmp_path / "g.svg").read_text()
    with pytest.raises(ValueError, match=r"written as .svg or .png"):
        found.draw(tmp_path / "g.gif")


def test_what_has_no_answer_is_refused(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(NotRemembered, match="no glance has the id 99"):
        recall.graph(memory, 99)
    with pytest.raises(NotRemembered, match="no module, concept or part 'cta'"):
        recall.graph(memory, "cta")
    with pytest.raises(NotRemembered, match="no module, concept or part 'cat#9999'"):
        recall.graph(memory, "cat#9999")
    with pytest.raises(TypeError, match="around is the id of a glance"):
        recall.graph(memory, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give around or a filter"):
        recall.graph(memory, 1, since="1970-01-01T10:00Z")
    with pytest.raises(ValueError, match="more than most=10"):
        recall.graph(memory, most=10)
    with pytest.raises(NotRemembered, match="no glance is chosen"):
        recall.graph(memory, where="source = 'attic'")
    with pytest.raises(ValueError, match=r"written as .graphml or .json"):
        recall.graph(memory, 1).write(tmp_path / "g.gml")


def test_a_memory_without_a_graph_says_what_it_cannot_tell(tmp_path: Path) -> None:
    t = Trace.from_objects([scene(np.random.default_rng(i), i % 2) for i in range(6)])
    with Memory(tmp_path / "m", Sketcher(dim=256)) as memory:
        memory.add(t, [HOUR * i for i in range(6)], ids=range(6))
        found = recall.graph(memory, 0)
    assert "this memory keeps no graph" in " ".join(found.notes)
    assert not [r for r in found if r["relation"] == "part-of"]
    assert nodes(found, "similar-to")[0] in ("glance 2", "glance 4")


def test_the_command_line(memory: Memory, tmp_path: Path) -> None:
    path, run = str(memory.path), CliRunner().invoke
    memory.close()
    out = tmp_path / "g.graphml"
    told = run(app, ["graph", path, "--around", "0", "--export", str(out), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["title"] == "what is related to glance 0"
    assert out.exists()
    assert run(app, ["graph", path, "--around", "cat"]).exit_code == 0
    bad = run(app, ["graph", path, "--around", "cta"])
    assert bad.exit_code == 2
    assert "no module, concept or part" in bad.stderr
    assert json.loads(run(app, ["concepts", path, "--json"]).stdout).keys() == {"the grey one"}
    renamed = run(app, ["concepts", path, "--rename", "the grey one=Tom", "--json"])
    assert list(json.loads(renamed.stdout)) == ["Tom"]
    counted = run(app, ["count", path, "Tom", "--source", "sketch", "--json"])
    assert round(json.loads(counted.stdout)["rows"][0]["estimate"]) == 18
    assert json.loads(run(app, ["concepts", path, "--forget", "Tom", "--json"]).stdout) == {}
    emerging = run(app, ["emerging", path, "--json"])
    assert emerging.exit_code == 0, emerging.output
