"""The cost cap, which holds with several requests in flight."""

import threading

from omfa_jax.evals.judge.settings import JudgeSettings


class Budget:
    """Money spent, money reserved for requests in flight, and the reason for a stop.

    A request is admitted if the money spent plus the upper bounds of all requests in flight and of
    the new one fit under the cap. The bound is exact: all first requests have the same prompt and
    the same image sizes, so their input costs the same, and the server limits the output. The very
    first request is sent alone, because its input cost is not known yet.
    """

    def __init__(self, settings: JudgeSettings, spent_usd: float, first_input: int | None) -> None:
        self._settings = settings
        self._first_input = first_input
        self._held_usd = 0.0
        self._in_flight = 0
        self._change = threading.Condition()
        self._stopped = threading.Event()
        self.spent_usd = spent_usd
        self.stopped: str | None = None

    def stop(self, reason: str) -> None:
        """Admit no more requests; the first reason is kept."""
        with self._change:
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        self._stopped.set()
        self._change.notify_all()

    def pause(self, seconds: float) -> None:
        """Sleep, or return early if the run stops."""
        self._stopped.wait(seconds)

    def admit(self, more_input: int) -> float | None:
        """Wait until a request may be sent; return the USD reserved for it, None if stopped.

        `more_input` bounds its input tokens beyond those of a first request.
        """
        with self._change:
            while self.stopped is None:
                cost = self._bound(more_input)
                needed = self.spent_usd + self._held_usd + (cost or 0.0)
                # the margin is for the rounding of a sum of many small costs
                fits = needed <= self._settings.cost_cap_usd * (1 + 1e-9)
                if cost is None:
                    fits = self._in_flight == 0 and self.spent_usd < self._settings.cost_cap_usd
                if fits:
                    self._held_usd += cost or 0.0
                    self._in_flight += 1
                    return cost or 0.0
                if self._in_flight == 0:
                    self._stop(self._format_cap_reached(cost))
                else:
                    self._change.wait()  # a request in flight may cost less than its reservation
            return None

    def settle(self, held_usd: float, cost_usd: float, first_input: int | None = None) -> None:
        """Replace the reservation of a request by its cost."""
        with self._change:
            # with nothing else in flight, reset to zero instead of accumulating rounding errors
            self._held_usd = self._held_usd - held_usd if self._in_flight > 1 else 0.0
            self._in_flight -= 1
            self.spent_usd += cost_usd
            if first_input is not None:
                self._first_input = max(first_input, self._first_input or 0)
            self._change.notify_all()

    def _bound(self, more_input: int) -> float | None:
        prices = self._settings.prices
        # free: nothing to reserve, and the first requests need not wait for each other
        if prices.input_usd == prices.output_usd == 0:
            return 0.0
        if self._first_input is None:
            return None
        return prices.compute_cost(self._first_input + more_input, self._settings.output_bound or 0)

    def _format_cap_reached(self, cost_usd: float | None) -> str:
        cap = self._settings.cost_cap_usd
        next_cost = "" if cost_usd is None else f", and a request may cost ${cost_usd:.6f}"
        return (
            f"the cost cap of ${cap:g} is reached: ${self.spent_usd:.6f} spent{next_cost};"
            " paid answers are kept; run again with a higher --judge-cost-cap to continue"
        )
