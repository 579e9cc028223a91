"""Stations on a Ray cluster: an actor on each of its nodes, the keeper of one station process.

Ray says which machines there are and which live, starts the actors where they are wanted, and
carries what driver and stations tell each other inside the calls. No frame goes through it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from streamface.batch.ray_executor import connected, first_line
from streamface.errors import BackendUnavailable
from streamface.fleet.orders import Machine, Refusal, StationLost
from streamface.fleet.process import StationProcess

if TYPE_CHECKING:
    from typing import Self

    from streamface.fleet.orders import Contract, Hello, Orders, Report

_log = logging.getLogger(__name__)

_NO_CLUSTER_S: Final = 45.0
"""How long nobody may be able to say which nodes live; after 60 s Ray ends the process itself."""
_HEAD_S: Final = 5.0
"""A head that did not answer for so long is not asked to end stations."""
_LOOK_S: Final = 1.0
_MOST_RESTS_S: Final = 0.25


class Keeper:
    """The actor."""

    def __init__(self, contract: Contract) -> None:
        self._process = StationProcess(contract)

    def hello(self) -> Hello | Refusal | StationLost:
        """Return the station's first answer."""
        try:
            return self._process.hello()
        except StationLost as exc:
            return exc

    def exchange(self, orders: Orders) -> Report | StationLost:
        """Give orders and return the report."""
        try:
            return self._process.exchange(orders)
        except StationLost as exc:
            return exc


class RayCluster:
    """The nodes of a cluster that runs already; one that has no core is left alone."""

    def __init__(self, address: str, *, cores: int | None = None, gpus: float = 0.0) -> None:
        """Connect. Raises BackendUnavailable, UsageError.

        cores: that a station takes of its machine; None: all. gpus: likewise; machines with fewer
        get no station.
        """
        self._ray = connected(address)
        self._cores, self._gpus = cores, gpus
        self._links: list[_RayLink] = []
        self._known: list[Machine] = []
        self._asked_s = time.monotonic()
        self._is_closed = self._is_gone = False
        self._closing = threading.Event()
        self._look()
        # A daemon, since Ray waits for a minute, and for nothing, where its head is gone; stations
        # must be asked meanwhile.
        self._looking = threading.Thread(
            target=self._keep_looking, name="streamface-fleet-nodes", daemon=True
        )
        self._looking.start()
        self._make = self._ray.remote(max_restarts=0, max_task_retries=0)(Keeper)

    def machines(self) -> list[Machine]:
        """Return the nodes that live and have what a station takes."""
        # While its head is away nothing can be moved, but all that runs goes on.
        if time.monotonic() - self._asked_s > _NO_CLUSTER_S:
            self._is_gone = True
            raise BackendUnavailable("the Ray cluster is gone: its head does not answer")
        return self._known

    def _keep_looking(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                self._look()
            except Exception as exc:  # noqa: BLE001 - Ray has many; the driver learns by the silence
                _log.debug("Ray does not say which nodes there are: %s", first_line(exc))

    def _look(self) -> None:
        nodes = self._ray.nodes()
        draining = self._draining()
        self._asked_s = time.monotonic()
        self._known = [
            Machine(
                node["NodeID"],
                str(node.get("NodeManagerHostname") or node["NodeManagerAddress"]),
                float(self._cores or node["Resources"]["CPU"]),
                is_draining=node["NodeID"] in draining,
            )
            for node in nodes
            if node["Alive"]
            and node["Resources"].get("CPU", 0) >= (self._cores or 1)
            and node["Resources"].get("GPU", 0) >= self._gpus
        ]

    def _draining(self) -> frozenset[str]:
        """Return the nodes that Ray itself wants to be left: ``ray drain-node``, the autoscaler.

        Ray has no public way to ask; a version that has not this one either says nothing.
        """
        try:
            from ray._private.state import state

            return frozenset(state.get_draining_nodes())
        except Exception:  # noqa: BLE001 - it is not ours to rely on
            return frozenset()

    def hire(self, machine: Machine, contract: Contract) -> _RayLink:
        """Have an actor begin on a node and nowhere else."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self._make.options(
            num_cpus=machine.cores,
            num_gpus=self._gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine.key, soft=False),
        ).remote(contract)
        link = _RayLink(self._ray, actor)
        self._links = [each for each in self._links if not each.is_killed] + [link]
        return link

    def wait(self, seconds: float) -> None:
        """Wait for an answer."""
        waiting = [link.asked for link in self._links if link.asked is not None]
        seconds = min(seconds, _MOST_RESTS_S)
        if waiting:
            began_s = time.monotonic()
            self._ray.wait(waiting, num_returns=1, timeout=seconds)
            seconds = min(seconds - (time.monotonic() - began_s), 0.05)
        if seconds > 0:
            time.sleep(seconds)

    def close(self) -> None:
        """End all stations and leave."""
        if self._is_closed:
            return  # Ray would connect anew to be asked
        self._is_closed = True
        self._closing.set()
        if self._is_gone or time.monotonic() - self._asked_s > _HEAD_S:
            return  # whatever is asked of Ray now waits for its head; actors end with this process
        self._looking.join(_LOOK_S)
        for link in self._links:
            link.kill()
        self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _RayLink:
    """The line to one actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self.asked: Any = actor.hello.remote()
        self.is_killed = False

    def send(self, orders: Orders) -> None:
        """Give orders."""
        assert self.asked is None, "one question at a time"
        self.asked = self._actor.exchange.remote(orders)

    def poll(self) -> Hello | Report | None:
        """Return the answer, if it is there."""
        if self.asked is None:
            return None
        try:
            ready, _ = self._ray.wait([self.asked], num_returns=1, timeout=0)
            if not ready:
                return None
            asked, self.asked = self.asked, None
            answer = self._ray.get(asked, timeout=5)
        except self._ray.exceptions.RayTaskError as exc:
            raise StationLost(f"it does not start: {first_line(exc.cause)}") from exc
        except self._ray.exceptions.ActorUnavailableError as exc:
            raise StationLost("its machine cannot be reached") from exc
        except self._ray.exceptions.RayError as exc:
            raise StationLost(first_line(exc)) from exc
        if isinstance(answer, Refusal):
            error = answer.error()
            raise StationLost(str(error), final=error)
        if isinstance(answer, StationLost):
            raise answer
        found: Hello | Report = answer
        return found

    def kill(self) -> None:
        """End the actor, and with it the station."""
        if not self.is_killed:
            self.is_killed, self.asked = True, None
            self._ray.kill(self._actor, no_restart=True)
