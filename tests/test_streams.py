"""Random streams: an address always means the same numbers, and no two addresses mean the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.streams import AUGMENT, DROPOUT, ORDER, WARM_UP, move, stream

PURPOSES = (ORDER, AUGMENT, DROPOUT, WARM_UP)


def test_an_address_is_opened_anew_each_time() -> None:
    assert np.array_equal(stream(3, AUGMENT, 5, 7).random(9), stream(3, AUGMENT, 5, 7).random(9))


def test_a_generator_that_moves_leaves_nothing_of_where_it_was_behind() -> None:
    def halves(generator: np.random.Generator) -> list[int]:
        """Numbers of 32 bits, of which the generator makes two at a time."""
        return generator.integers(2**16, size=3, dtype=np.uint32).tolist()

    moved = stream(3, AUGMENT, 5, 7)
    for address in [(3, AUGMENT, 5, 8), (2**63 - 1, DROPOUT, 2**40, 0)]:
        moved.random(3)  # of four that were made, one is left
        halves(moved)
        fresh = stream(*address)
        assert halves(move(moved, *address)) == halves(fresh)
        assert np.array_equal(moved.random(9), fresh.random(9))


def test_neighbouring_addresses_share_no_number_of_their_first_thousand() -> None:
    addresses = list(itertools.product((0, 1, 2), PURPOSES, (0, 1, 2), (0, 1, 2)))
    drawn = np.concatenate([stream(*address).bit_generator.random_raw(1000) for address in addresses])
    assert len(np.unique(drawn)) == len(drawn)


def test_neighbouring_addresses_are_uncorrelated() -> None:
    rows = np.stack([stream(seed, AUGMENT, epoch).random(4000) for seed in range(4) for epoch in range(4)])
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


def test_the_first_numbers_of_many_addresses_are_uniform() -> None:
    first = np.sort([stream(0, AUGMENT, 0, index).random() for index in range(2000)])
    distance = np.abs(first - (np.arange(2000) + 0.5) / 2000).max()  # Kolmogorov and Smirnov's
    assert distance < 1.95 / np.sqrt(2000)  # one in a thousand


def test_an_address_means_what_it_meant_when_the_first_records_were_made() -> None:
    first, second = stream(0, ORDER), stream(7, DROPOUT, 11, 13)
    assert first.bit_generator.random_raw(2).tolist() == [213000021201967259, 4455796210202625458]
    assert second.bit_generator.random_raw(2).tolist() == [2716044631690694175, 5049632219074306390]


@pytest.mark.parametrize("big", [2**40, 2**63 - 1])
def test_every_part_of_an_address_may_be_large(big: int) -> None:
    parts = [(big, 0, 0, 0), (0, 0, big, 0), (0, 0, 0, big)]
    assert len({float(stream(*part).random()) for part in [*parts, (0, 0, 0, 0)]}) == 4
