"""This host in numbers, as Prometheus reads them.

Everything is from the host snapshot, which all processes of the host share: each of them gives the
same answer, and none counts for itself. No setting is named, and no value shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from uwsgi_waffle import __version__
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.process.state import State

from .convergence import own_host

__all__ = ["Metric", "Sample", "collect", "text"]

#: How a process of the host serves its latest state: whole; but for values that it refuses; not
#: yet; not before its next request, as nothing wakes it. Or it is at a host snapshot that was
#: replaced, or has not loaded the application.
PROCESS_STATES = ("current", "refusing", "behind", "at_next_request", "elsewhere", "unlisted")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number, and what tells it from others of its metric."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """What one number or several of them mean.

    :ivar kind: ``gauge`` or ``counter``
    :ivar samples: none where the number is not known
    """

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def collect(state: State) -> list[Metric]:
    """Return the present numbers of this host; asks neither SQL nor Redis."""
    state.host.verify()  # it may have been replaced, and no request come since
    host = own_host(state)
    return [
        *_of_settings(state, host),
        *_of_processes(host),
        *_of_listener(state, host),
        *_of_sources(state),
    ]


def text(metrics: Iterable[Metric]) -> str:
    """Return metrics in Prometheus's text format, version 0.0.4."""
    lines = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines.append(f"# HELP {metric.name} {_escaped(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines += [f"{metric.name}{_labels(s.labels)} {s.value!r}" for s in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value, quote=True)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str, *, quote: bool = False) -> str:
    """Return a text in one line, without what ends it; what UTF-8 cannot hold is a ``?``."""
    value = value.encode("utf-8", "replace").decode()
    value = value.replace("\\", r"\\").replace("\n", r"\n")
    return value.replace('"', r"\"") if quote else value


def _gauge(name: str, meaning: str, *values: float | None) -> Metric:
    """Return a metric of one number, or of none where that is not known."""
    samples = tuple(Sample(value) for value in values if value is not None)
    return Metric(f"waffle_{name}", "gauge", meaning, samples)


def _of_settings(state: State, host: HostStatus) -> Iterator[Metric]:
    config = state.config
    info = {
        "version": __version__,
        "namespace": config.namespace,
        "host": host.id,
        "listener": config.listener if config.multiproc else "none",
    }
    yield Metric("waffle_info", "gauge", "Release and application.", (Sample(1, info),))
    # In doubt, the host has no record until SQL is read again.
    is_known = host.position.exists or state.host.sequence == 0
    yield _gauge(
        "revision",
        "Latest revision of the settings on this host; 0 before the first change.",
        host.revision if is_known else None,
    )
    yield _gauge(
        "refused_values",
        "Stored values that processes of this host refuse, counted for each process.",
        sum(process.refused_count for process in host.processes),
    )


def _of_processes(host: HostStatus) -> Iterator[Metric]:
    counts = Counter(_states(host))
    yield Metric(
        "waffle_host_processes",
        "gauge",
        "Processes of this host by how they serve its latest state.",
        tuple(Sample(counts[state], {"state": state}) for state in PROCESS_STATES),
    )
    calling = [process for process in host.processes if process.calling]
    yield _gauge("callbacks_running", "Processes in which a callback runs.", len(calling))
    yield Metric(
        "waffle_callback_start_time_seconds",
        "gauge",
        "When the callback that runs in a process began, since the epoch.",
        tuple(
            Sample(p.calling_since, {"role": p.role, "worker": f"{p.worker}", "pid": f"{p.pid}"})
            for p in calling
        ),
    )
    yield _gauge(
        "host_fault",
        "Whether what the processes of this host serve cannot be proved to other hosts.",
        int(bool(host.fault)),
    )


def _states(host: HostStatus) -> Iterator[str]:
    """Yield what each process of a host serves."""
    for process in host.processes:
        if host.position.exists and process.position != host.position:
            yield "behind" if process.follows else "at_next_request"
        else:
            yield "refusing" if process.refused_count else "current"
    listed = sum(process.follows for process in host.processes)
    yield from ["elsewhere"] * (host.following - listed)
    yield from ["unlisted"] * host.unlisted


def _of_listener(state: State, host: HostStatus) -> Iterator[Metric]:
    yield _gauge(
        "listener_running",
        "Whether a listener of this host has turned within three polls.",
        int(host.listener.state != "absent"),
    )
    yield _gauge(
        "listener_heartbeat_age_seconds",
        "How long ago a listener of this host turned.",
        state.host.heartbeat_age_seconds(),
    )
    yield _gauge(
        "redis_heard",
        "Whether a listener of this host hears Redis; else changes arrive by polls.",
        int(host.listener.state == "live") if state.config.multiproc else None,
    )
    yield _gauge("poll_seconds", "WAFFLE_POLL_SECONDS.", state.config.poll_seconds)


def _of_sources(state: State) -> Iterator[Metric]:
    answers = state.host.sql_answers
    yield _gauge(
        "sql_answers",
        "Whether SQL has answered when this host last asked it.",
        None if answers is None else int(answers),
    )
    yield _gauge(
        "sql_answer_age_seconds",
        "How long ago SQL has answered this host.",
        state.host.sql_answer_age_seconds(),
    )
    yield _gauge(
        "host_snapshot_shared",
        "Whether the processes of this host share a host snapshot; else these numbers are those "
        "of one process.",
        int(state.host.is_shared),
    )
    ignored = Sample(state.host.ignored_count)
    yield Metric(
        "waffle_ignored_messages_total",
        "counter",
        "Messages that this host received and that were malformed, or not signed by the key.",
        (ignored,),
    )
