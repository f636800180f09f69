"""A scrape gets the same text as the library makes; a family that did not change is not encoded
again.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from streamerd.observe.exposition import OPEN, PLAIN, Form, Texts, form_for


class Families(Collector):
    def __init__(self) -> None:
        self.given: list[Metric] = [counter(1), GaugeMetricFamily("x_now", "told", value=2)]

    def collect(self) -> Iterable[Metric]:
        return self.given


def counter(value: float) -> Metric:
    made = CounterMetricFamily("x_reads", 'told "so"\nand so', labels=("kind",))
    made.add_metric(("file",), value)
    return made


@pytest.mark.parametrize("form", [PLAIN, OPEN])
def test_the_text_is_the_librarys_and_a_family_is_made_anew_where_it_is_another(form: Form) -> None:
    families, registry = Families(), CollectorRegistry(auto_describe=False)
    encoded: list[str] = []
    registry.register(families)

    def encode(collector: Collector) -> bytes:
        encoded.extend(metric.name for metric in collector.collect())
        return form.encode(collector)

    texts, counted = Texts(registry), form._replace(encode=encode)
    assert texts.of(counted) == texts.of(counted) == form.encode(registry)
    assert encoded == ["x_reads", "x_now"]
    families.given = [counter(7), families.given[1]]
    assert texts.of(counted) == form.encode(registry)
    assert encoded == ["x_reads", "x_now", "x_reads"]


def test_each_form_has_its_own_texts() -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    texts = Texts(registry)
    assert texts.of(PLAIN) == PLAIN.encode(registry)
    assert texts.of(OPEN) == OPEN.encode(registry)
    assert form_for("text/plain") is PLAIN
