"""What is told of a comparison: means and spreads, tables, the plot."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from comparing import finish, make

from experiments.comparison import tables
from experiments.comparison.plot import plot
from experiments.comparison.summary import spread, summarise


def test_mean_and_spread():
    found = spread([0.90, 0.94, None, 0.92])
    assert found == {"mean": pytest.approx(0.92), "spread": pytest.approx(0.02)}
    assert spread([0.9]) == {"mean": 0.9, "spread": None}
    assert spread([None]) is None


@pytest.fixture
def made(tmp_path):
    """Two seeds; of one stepwise run has failed."""
    made = make(tmp_path, ("stepwise", "channels"), (4.0, 8.0), (0, 1))
    accuracies = {
        "dense": (0.95, 0.97),
        "stepwise": (0.94, 0.98),
        "channels": (0.90, 0.90),
    }
    for job in made:
        seed, small = job.config.seed, 1000 // int(job.ratio)
        costs = {"accuracy": accuracies[job.method][seed], "nonzero": small}
        if job.method == "channels":
            costs["macs"] = 2500
        if job.name != "stepwise_8x_seed1":
            finish(job, **costs)
    return made


@pytest.fixture
def summary(made):
    return summarise("net <on> data", made, {"stepwise_8x_seed1": "NaN | at step 7"})


def test_rows_compare_with_the_dense_network_of_the_same_seed(summary):
    rows = {(row["method"], row["ratio"]): row for row in summary["rows"]}
    assert list(rows) == [
        ("dense", 1.0),
        ("stepwise", 4.0),
        ("stepwise", 8.0),
        ("channels", 4.0),
        ("channels", 8.0),
    ]
    row = rows["stepwise", 4.0]
    assert row["accuracy"]["mean"] == pytest.approx(0.96)
    assert row["accuracy"]["spread"] == pytest.approx(0.04 / 2**0.5)
    assert row["delta"]["mean"] == pytest.approx(0)
    assert row["delta"]["spread"] == pytest.approx(0.02 / 2**0.5)
    assert row["params_ratio"] == {"mean": 4.0, "spread": 0.0}
    assert row["macs_ratio"]["mean"] == 1.0
    assert rows["channels", 4.0]["macs_ratio"]["mean"] == 2.0
    failed = rows["stepwise", 8.0]
    assert (failed["finished"], failed["runs"]) == (1, 2)
    assert failed["errors"] == {"stepwise_8x_seed1": "NaN | at step 7"}
    assert failed["delta"] == {"mean": pytest.approx(-0.01), "spread": None}
    assert summary["device"] == "some CPU"


def test_a_table_of_failures_alone(tmp_path):
    made = make(tmp_path)
    summary = summarise("nothing", made, {job.name: "no data" for job in made})
    assert tables.cells(summary)[0][2:7] == ["0 of 1", "–", "", "–", "–"]
    ElementTree.fromstring(plot(summary))
    assert "small_4x_seed0 failed: no data" in tables.html(summary)


def test_the_table_in_the_terminal(summary):
    lines = [" ".join(line.split()) for line in tables.text(summary).splitlines()]
    for start in (
        "dense 1× 2 of 2 96.00 ± 1.41 1.0× 1.0× dense network",
        "stepwise 4× 2 of 2 96.00 ± 2.83 +0.00 ± 1.41 4.0× 1.0× active stepwise",
        "stepwise 8× 1 of 2 94.00 -1.00 8.0× 1.0× active stepwise",
        "channels 8× 2 of 2 90.00 -6.00 ± 1.41 8.0× 2.0× channel pruning",
    ):
        assert any(line.startswith(start) for line in lines), start


def test_the_table_in_markdown(summary):
    text = tables.markdown(summary, figure="plot.svg")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "stepwise_8x_seed1 failed: NaN \\| at step 7" in text
    assert "![Accuracy against ratio](plot.svg)" in text


def test_the_page_is_self_contained(summary):
    page = tables.html(summary)
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "<h1>net &lt;on&gt; data</h1>" in page
    assert "some CPU" in page
    assert page == tables.html(json.loads(json.dumps(summary)))


def test_the_plot_names_all_methods(summary):
    drawing = plot(summary)
    ElementTree.fromstring(drawing)
    for text in ("dense", "stepwise", "channels", "test accuracy"):
        assert text in drawing
