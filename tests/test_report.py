import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from experiments import report, reported

SUMMARY = {
    "title": "mobilenet on cifar10",
    "networks": {
        "dense": {
            "accuracy": 0.9341,
            "params": 3_217_226,
            "nonzero": 3_217_226,
            "macs": 46_350_000,
            "bytes": 12_900_000,
            "latency_ms": {"1": 3.21, "128": 151.0},
        },
        "stepwise": {
            "accuracy": 0.9345,
            "params": 3_217_226,
            "nonzero": 574_504,
            "macs": 46_350_000,
            "bytes": 2_750_000,
            "latency_ms": {"1": 3.2, "128": 150.0},
        },
        "channels": {
            "accuracy": 0.9337,
            "params": 119_600,
            "nonzero": 119_600,
            "macs": 11_880_000,
            "bytes": 480_000,
            "latency_ms": {"1": 1.1, "128": 40.0},
        },
    },
    "certificate": {
        "max_abs_diff": 1.2e-6,
        "argmax_agreement": 1.0,
        "examples": 10_000,
        "verdict": "exact",
    },
    "data": "TFDS cifar10/3.0.2",
    "device": "some CPU",
    "versions": {"jax": "0.10.2"},
    "pruning": {
        "sparsity": [0.4, 0.7, 0.82],
        "threshold": [0.01, 0.02, 0.03],
        "pruned": [1000, 700, 400],
        "repaired": [0, 12, 30],
        "nans": [0, 0, 0],
    },
}
METRICS = [
    {"phase": phase, "step": 10 * e, "epoch": e, "loss": 1.0, "test_accuracy": 0.1 * e}
    for phase in ("dense", "dense_longer", "stepwise", "channels_finetune")
    for e in (1.0, 2.0, 3.0)
] + [
    {"phase": "channels_sparsify", "step": e, "epoch": e, "live_scales": 1 / e}
    for e in (1, 2, 3)
]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page():
    return report.html(SUMMARY, METRICS)


def test_table_shows_ratios_beside_numbers():
    text = report.table(SUMMARY)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "network dense stepwise channels",
        "accuracy 93.41 % 93.45 % (+0.04) 93.37 % (-0.04)",
        "parameters 3,217,226 3,217,226 119,600 (26.9×)",
        "non-zero 3,217,226 574,504 (5.6×) 119,600 (26.9×)",
        "MACs 46.4 M 46.4 M 11.9 M (3.9×)",
        "on disk 12.9 MB 2.75 MB (4.7×) 480 kB (26.9×)",
        "latency, batch 1 3.21 ms 3.2 ms 1.1 ms (2.9×)",
    ):
        assert line in lines
    assert "certificate: exact · max |Δlogit| 1.2e-06 · argmax agreement 100" in text


def test_table_of_dense_alone():
    summary = {"networks": {"dense": SUMMARY["networks"]["dense"]}}
    assert "3,217,226" in report.table(summary)
    assert "certificate: none" in report.table(summary)


def test_what_papers_report_stands_beside():
    papers = (
        reported.active_stepwise_pruning(params=5.6),
        reported.Reported("channels", "a paper", params=30.0, macs=4.0, points=-0.1),
        reported.Reported("pruned otherwise", "another paper", params=2.0),
    )
    summary = {**SUMMARY, "reported": [paper._asdict() for paper in papers]}
    first, second = reported.beside(summary)
    assert first.startswith("stepwise: 5.6× fewer parameters, accuracy +0.04 · ")
    assert "reported: 5.6× fewer parameters, no accuracy loss (Wang" in first
    assert second == (
        "channels: 26.9× fewer parameters, 3.9× fewer MACs, accuracy -0.04 · "
        "reported: 30.0× fewer parameters, 4.0× fewer MACs, accuracy -0.10 (a paper)"
    )
    assert second in report.table(summary)
    assert second in report.html(summary)
    alone = {"channels": SUMMARY["networks"]["channels"]}
    (line,) = reported.beside({**summary, "networks": alone})
    assert "no dense network to compare with" in line


def test_numbers_that_are_missing_are_dashes():
    summary = copy.deepcopy(SUMMARY)
    summary["networks"]["stepwise"] |= {"accuracy": None, "bytes": None}
    summary["networks"]["channels"]["latency_ms"] = {"1": 2.0}
    summary["certificate"] |= {"max_abs_diff": None, "verdict": "approximate"}
    assert "–" in report.table(summary)
    assert 'class="certificate other"' in report.html(summary)


def test_page_is_self_contained(page):
    tags = Tags(page).seen
    names = [tag for tag, _ in tags]
    assert names.count("svg") == 1
    assert not {"script", "link", "img", "iframe"} & set(names)
    targets = [v for _, a in tags for k, v in a.items() if k in ("href", "src")]
    assert not [t for t in targets if not t.startswith("#")]
    for text in ("574,504 (5.6×)", "TFDS cifar10/3.0.2", "some CPU", "0.10.2"):
        assert text in page


def test_plots_show_all_there_is(page):
    drawing = page[page.index("<svg") : page.index("</svg>") + 6]
    ElementTree.fromstring(drawing)
    for text in (
        "Test accuracy",
        "Stepwise: sparsity",
        "Stepwise: pruned and repaired",
        "repaired, 42 in all",
        "Channels: scales not zero",
        "channels finetune",
    ):
        assert text in drawing


def test_plots_without_anything_to_plot():
    assert report.svg({**SUMMARY, "pruning": None}, []) == ""
    alone = report.svg({**SUMMARY, "pruning": None}, METRICS[:3])
    assert "Test accuracy" in alone
    assert "Stepwise" not in alone


def test_thresholds_of_single_leaves_are_left_out():
    pruning = {**SUMMARY["pruning"], "threshold": [[0.1, 0.2]] * 3}
    drawing = report.svg({**SUMMARY, "pruning": pruning}, [])
    assert "Stepwise: sparsity" in drawing
    assert "threshold" not in drawing


def test_same_run_same_page(page):
    assert report.html(json.loads(json.dumps(SUMMARY)), METRICS) == page


def test_text_is_escaped():
    evil = "<script>alert('&')</script>{title}[bold]"
    summary = {**SUMMARY, "title": evil, "data": evil, "pruning": None}
    page = report.html(summary)
    assert "<script" not in page
    assert (
        page.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;{title}") == 3
    )
    assert evil.replace("\n", "") in re.sub(r"\s+", "", report.table(summary))
