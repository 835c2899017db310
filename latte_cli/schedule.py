"""Schedules: how many steps an epoch, a training and a federated round take, and what a round moves."""

from dataclasses import dataclass

_PARAMETER_BYTES = 4  # float32, as parameters travel


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a device trains, all of it or in one round: `epochs` over `samples`, or `local_steps` steps.

    A round also moves the parameters down before and up after it, at rates in bits per second where they are given.
    Data is loaded, at `loading_per_s` samples per second, while the step before computes.
    """

    samples: int | None = None
    epochs: int = 1
    local_steps: int | None = None
    up_bit_per_s: float | None = None
    down_bit_per_s: float | None = None
    loading_per_s: float | None = None

    def epoch_steps(self, samples_per_step: int) -> int | None:
        """Steps of an epoch, the last and smaller batch counting as a whole one; None where no samples are given."""
        return None if self.samples is None else -(-self.samples // samples_per_step)

    def steps(self, samples_per_step: int) -> int | None:
        """All steps; None where neither steps nor samples are given."""
        if self.local_steps is not None:
            return self.local_steps
        epoch = self.epoch_steps(samples_per_step)
        return None if epoch is None else self.epochs * epoch

    def paced_s(self, step_s: float, samples_per_step: int) -> float:
        """Seconds from one step to the next: the longer of computing one and of loading the next one's samples."""
        return max(step_s, samples_per_step / self.loading_per_s) if self.loading_per_s else step_s

    def moving_s(self, parameters: int) -> float:
        """Seconds to receive and to send `parameters` numbers of four bytes."""
        bits = self.parameter_bits(parameters)
        return sum(bits / rate for rate in (self.down_bit_per_s, self.up_bit_per_s) if rate)

    @staticmethod
    def parameter_bits(parameters: int) -> int:
        """The bits of `parameters` numbers as they are moved."""
        return 8 * _PARAMETER_BYTES * parameters

    def round_s(self, step_s: float, samples_per_step: int, parameters: int) -> float | None:
        """Seconds of all steps, and of moving the parameters; None where neither steps nor samples are given."""
        steps = self.steps(samples_per_step)
        if steps is None:
            return None
        return steps * self.paced_s(step_s, samples_per_step) + self.moving_s(parameters)
