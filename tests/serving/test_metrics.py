"""/metrics as Prometheus reads it, and the dashboard that is drawn from it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from serving import metrics
from serving.backend.counts import Counts, Work
from serving.counted import Counted
from serving.health import Probed, Verdict
from serving.repository import publish
from serving.server import Server
from serving.settings import Settings
from serving.watch import Watch

DOCKER = Path(__file__).parents[2] / "docker"
BOARD = json.loads((DOCKER / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?P<labels>\{[a-zA-Z_]\w*="[^"\\]*"(,[a-zA-Z_]\w*="[^"\\]*")*\})? '
    r"(?P<value>[-+0-9.eE]+|NaN|[+-]Inf)"
)
NAMES = re.compile(r"\b(?:bantam|nv)_\w+")
SECONDS = 60.0


def samples(page: str) -> dict[str, float]:
    """Value by name and labels; the page must be one that Prometheus can read."""
    found: dict[str, float] = {}
    types: Counter[str] = Counter()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            types[line.split()[2]] += 1
        elif not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            key = match["name"] + (match["labels"] or "")
            assert key not in found
            found[key] = float(match["value"])
    assert max(types.values()) == 1
    return found


@pytest.fixture(scope="module")
def page(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, float]]:
    """What a real server says after 12 texts, two of them the same, one of them too long."""
    root = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, root, "tiny", thresholds=None)
    server = Server(root, follow=True, settings=Settings(cache_bytes=10**6))
    with Watch(server, "127.0.0.1", 0) as watch:
        watch.start()
        with Classifier(server.grpc_address, "tiny") as client:
            client.probabilities([*(f"love {number}" for number in range(10)), "love 9", "love " * 200])
        deadline = time.monotonic() + SECONDS
        while not watch.status().ready:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield samples(watch.metrics().body)


@pytest.mark.triton
def test_triton_and_ours_are_on_one_page(page: dict[str, float]) -> None:
    mine = '{model="tiny",version="1"}'
    assert page["bantam_ready"] == page['bantam_model_ready{model="tiny"}'] == 1
    assert page[f"bantam_model_version{mine}"] == 1
    assert page["bantam_restarts_total"] == 0
    probes = page['bantam_probes_total{model="tiny"}']
    assert probes >= 1
    assert page[f"nv_inference_request_success{mine}"] >= 1 + probes
    assert page[f"bantam_cut_texts_total{mine}"] == 1
    assert page[f"bantam_cache_hits_total{mine}"] == 1
    # The warm-up is a text too; the watch's own are none.
    assert page[f"bantam_texts_total{mine}"] == 13
    assert page[f"bantam_waiting_texts{mine}"] == 0
    assert page['bantam_refused_total{model="tiny",version="1",reason="foreseen"}'] == 0
    assert page[f"bantam_cache_misses_total{mine}"] == 12
    assert page[f"bantam_micro_batch_texts_sum{mine}"] == 12
    assert page['bantam_micro_batch_texts_bucket{model="tiny",version="1",le="8"}'] >= 2


@pytest.mark.triton
def test_each_query_of_the_dashboard_asks_for_what_there_is(page: dict[str, float]) -> None:
    there = {name.partition("{")[0] for name in page}
    queries = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in BOARD["templating"]["list"]]
    for query in queries:
        asked = set(NAMES.findall(query))
        assert asked, query
        assert asked <= there, query
        assert query.count("(") == query.count(")")
    shown = {name for query in queries for name in NAMES.findall(query)}
    ours = {name for name in there if name.startswith("bantam_")}
    assert ours - shown == {"bantam_ready"}  # the sum of what is shown for each model


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    sources = {json.dumps(panel["datasource"], sort_keys=True) for panel in panels}
    assert sources == {'{"type": "prometheus", "uid": "bantam"}'}
    assert "uid: bantam" in (DOCKER / "grafana" / "datasources" / "prometheus.yml").read_text()
    for one in panels:
        for other in panels:
            a, b = one["gridPos"], other["gridPos"]
            apart = a["x"] >= b["x"] + b["w"] or a["y"] >= b["y"] + b["h"]
            apart = apart or b["x"] >= a["x"] + a["w"] or b["y"] >= a["y"] + a["h"]
            assert one is other or apart
            assert a["x"] + a["w"] <= 24


def test_prometheus_reads_the_watch() -> None:
    assert 'targets: ["server:8003"]' in (DOCKER / "prometheus.yml").read_text()


def test_a_histogram_is_cumulative() -> None:
    counts = Counts()
    counts.add(1 + 3 + 100, Work(tokens=0, cut=0, runs=[1, 3, 100]))
    status = metrics.Findings(False, {"m": Verdict(False, "no")}, {"m": Probed()}, 2)
    page = samples(metrics.page("", status, [Counted("m", "1", counts.as_dict())]))
    buckets = {
        size: page[f'bantam_micro_batch_texts_bucket{{model="m",version="1",le="{size}"}}']
        for size in ("1", "2", "4", "64", "+Inf")
    }
    assert buckets == {"1": 1, "2": 1, "4": 2, "64": 2, "+Inf": 3}
    assert page['bantam_micro_batch_texts_count{model="m",version="1"}'] == 3
    assert page['bantam_micro_batch_texts_sum{model="m",version="1"}'] == 104
    assert (page["bantam_ready"], page["bantam_restarts_total"]) == (0, 2)
