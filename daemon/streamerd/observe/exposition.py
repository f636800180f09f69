"""Makes the text that answers a scrape, in either form of the official client library.

This module chooses the form, and keeps the text of each family of metrics until its values change.
The library's encoders take 10 microseconds a line, and few families change between two scrapes.
`metrics.py` makes the families. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

_OPENMETRICS: Final = "application/openmetrics-text"


class Form(NamedTuple):
    """A text format of metrics."""

    kind: str
    """The form's media type."""
    encode: Callable[[Collector], bytes]
    end: bytes
    """The bytes that follow the last family."""


PLAIN: Final = Form(exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest, b"")
OPEN: Final = Form(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n")


def form_for(accept: str) -> Form:
    """The form to answer in.

    The library's own function for this raises an error if the request's version is no number, and
    copies parts of the request into its answer. All names of our metrics are plain, so no escaping
    has to be negotiated.

    Args:
        accept: the request's header field `Accept`.
    """
    asked = (each.partition(";")[0].strip().lower() for each in accept.split(","))
    return OPEN if _OPENMETRICS in asked else PLAIN


class Texts:
    """Makes the text of a registry.

    Args:
        registry: gives the families. If it gives the same object for a family as before, the
            family's text is used again.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._told: dict[tuple[str, str], tuple[Metric, bytes]] = {}
        """The latest text of each family, by media type and name."""

    def of(self, form: Form) -> bytes:
        """The text of all families, in one form."""
        families = [self._family(form, metric) for metric in self._registry.collect()]
        return b"".join((*families, form.end))

    def _family(self, form: Form, metric: Metric) -> bytes:
        made, text = self._told.get((form.kind, metric.name), (None, b""))
        if made is not metric:
            text = form.encode(_One(metric)).removesuffix(form.end)
            self._told[form.kind, metric.name] = metric, text
        return text


class _One(Collector):
    """Gives one family to an encoder."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)
