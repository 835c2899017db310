"""Participation: which devices take part in a round."""

import numpy as np


def participants(devices: int, per_round: int, number: int, seed: int) -> list[int]:
    """The devices of the round `number` (from 0), by their indices in order; 0 `per_round` means all.

    They are dealt from a shuffled deck, so that each takes part once in every ceil(devices / per_round) rounds. Where
    the deck runs out, those that were dealt first take part a second time.
    """
    if not per_round or per_round >= devices:
        return list(range(devices))
    rounds = -(-devices // per_round)
    deck, at = divmod(number, rounds)
    order = np.resize(np.random.default_rng((seed, deck)).permutation(devices), rounds * per_round)
    chosen: list[int] = sorted(order[at * per_round : (at + 1) * per_round].tolist())
    return chosen
