"""The queue's policy, by itself: who gets in, who is next, who is refused."""

from __future__ import annotations

import threading

import pytest

from tests.serving.conftest import DEADLINE, FORESEEN, FULL, LATE, MS, WAITING, MakeQueue

pytestmark = pytest.mark.compiler


def test_who_computes_is_woken_by_what_comes_and_by_the_end(make_queue: MakeQueue) -> None:
    queue = make_queue()
    woken: list[bool] = []
    number = threading.Semaphore(0)

    def work() -> None:
        for _ in range(2):
            woken.append(queue.wait())
            if woken[-1]:
                assert queue.take(0)[0] == [0]
            number.release()

    worker = threading.Thread(target=work)
    worker.start()
    queue.locked(lambda: queue.put(0))
    assert number.acquire(timeout=60)
    queue.end()
    worker.join(60)
    assert woken == [True, False]


def test_who_would_wait_longer_than_half_the_limit_is_refused_at_once(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(10)
    came = [queue.put(0) for _ in range(60)]
    assert [number for refused in came for number in refused] == [*range(52, 61)], "50 rows of 10 ms are half of it"
    assert queue.counts[FORESEEN] == 9
    assert {queue.requests[number].reason for number in range(52, 61)} == {FORESEEN}
    assert queue.counts[WAITING] == 51


def test_what_the_running_batch_still_takes_is_waited_for_too(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(100)
    queue.begin()
    assert [queue.put(0) for _ in range(5)] == [[]] * 5
    assert queue.put(0) == [7]
    assert queue.requests[7].foreseen == 600 * MS
    assert queue.put(100) == [], "the batch is done"
    assert queue.requests[8].foreseen == 500 * MS


def test_a_batch_that_is_overdue_needs_as_long_again_and_says_nothing_of_what_waits(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(2)
    queue.begin()
    assert [queue.put(102) for _ in range(16)] == [[]] * 16
    assert queue.requests[-1].foreseen == (100 + 15 * 2) * MS
    assert queue.put(600) == [len(queue.requests) - 1], "it hangs"


def test_a_batch_that_failed_says_nothing(make_queue: MakeQueue) -> None:
    queue = make_queue()
    queue.learn(10)
    queue.begin()
    queue.done(5000)
    queue.put(0)
    queue.put(0)
    assert queue.requests[-1].foreseen == 10 * MS


def test_what_has_waited_for_the_limit_is_refused_when_others_come_and_before_a_batch(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.put(0, watch=1)
    for at in (0, 500, 900):
        queue.put(at)
    queue.put(910, rows=8)
    assert queue.put(1000) == [1]
    assert queue.take(1911) == ([0, 5], [2, 3, 4]), "in the order in which they came"
    assert queue.counts[LATE] == 4


def test_what_came_to_an_idle_queue_is_never_late(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=20)
    queue.learn(1)
    queue.put(0)
    queue.put(1)
    assert queue.take(30_000) == ([1], [2])
    queue.done(5000, 1)
    assert queue.put(30_000, rows=64) == []
    assert queue.take(90_000) == ([3], [])


def test_few_texts_go_before_lists_which_get_one_row_in_four(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=100_000, most_rows=8)
    for _ in range(4):
        queue.put(0, rows=8)
    for _ in range(100):
        queue.put(1)
    lists = [number for number in range(17) if queue.take(2)[0][0] < 4]
    assert lists == [3, 7, 11, 15], "after 24 single ones each"


@pytest.mark.parametrize("row_ms", [4, 20, 100, 300])
def test_lists_get_one_row_in_four_however_slow_the_model(make_queue: MakeQueue, row_ms: int) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(row_ms)
    computed = {1: 0, 64: 0}
    for _ in range(1000):
        for rows in computed:
            while not queue.put(0, rows):
                pass
        batch, refused = queue.take(0)
        assert not refused
        queue.done(row_ms * queue.rows(batch), *batch)
        for number in batch:
            rows = queue.requests[number].rows
            computed[rows] += rows
    assert 0.2 < computed[64] / sum(computed.values()) < 0.3


def test_lists_are_let_in_while_single_texts_fill_their_part(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(10)
    while not queue.put(0):
        pass
    last = len(queue.requests)
    assert queue.put(0, rows=8) == [], "it waits for 24 of them"
    assert queue.requests[last].foreseen == 240 * MS
    assert queue.put(0, rows=8) == [last + 1], "this one for all of them"
    assert queue.take(0)[0] == [*range(1, 26)]


def test_a_list_may_wait_for_twice_what_it_takes_itself(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(100)
    queue.begin(rows=64)
    for _ in range(3):
        assert queue.put(0, timeout=60_000 * MS) == []
    assert queue.put(0) == [5], "a text may not"
    assert queue.put(0, rows=64) == []
    assert queue.put(0, rows=64) == [7], "it would wait for two others, and three texts"
    queue.done(6400, 1)
    assert queue.take(6400) == ([2, 3], []), "four under way are no overload, and not late when their turn comes"
    queue.done(200, 2, 3)
    assert queue.take(6600) == ([4], [])
    queue.done(100, 4)
    assert queue.take(6700) == ([6], [])


def test_four_requests_under_way_are_no_overload(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(100)
    queue.begin(rows=64)
    assert [queue.put(0, rows=rows) for rows in (64, 5, 1)] == [[], [], []]
    assert queue.put(0, rows=5) == [5]
    assert queue.counts[FORESEEN] == 1


def test_deadlines(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(10)
    queue.put(0, timeout=100 * MS)
    assert queue.put(0, timeout=15 * MS) == [2], "it would wait for 10 ms, and take 10 itself"
    assert queue.put(0, timeout=21 * MS) == []
    queue.put(0)
    assert queue.take(150) == ([4], [1, 3])
    assert queue.put(150, timeout=155 * MS) == []
    queue.put(150, timeout=145 * MS)
    assert queue.put(310) == [5, 6], "they hold no place"
    assert queue.counts[DEADLINE] == 5


def test_what_cannot_be_ready_in_time_is_computed_only_where_nothing_else_waits(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(10)
    assert queue.put(0, rows=64, timeout=100 * MS) == [], "an idle queue takes anything"
    assert queue.take(50) == ([1], [])
    queue.done(64, 1)  # by which a rate that was wrong is unlearned
    queue.put(0)
    assert queue.put(0, rows=60, timeout=100 * MS) == []
    assert queue.take(95) == ([2], [3])
    assert queue.counts[DEADLINE] == 1


def test_the_watch_is_never_refused_and_first(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=100)
    queue.learn(30)
    queue.begin()
    while not queue.put(0):
        pass
    probe = len(queue.requests)
    assert queue.put(0, watch=1, timeout=1) == []
    batch, refused = queue.take(5000)
    assert batch == [probe]
    assert refused == [*range(2, probe - 1)]


def test_there_is_a_bound_before_the_rate_is_known(make_queue: MakeQueue) -> None:
    queue = make_queue()
    assert [queue.put(0) for _ in range(16384)] == [[]] * 16384
    assert queue.put(0) == [16384]
    assert queue.counts[FULL] == 1
    large = make_queue()
    assert large.put(0, bytes=1 << 30) == [], "alone, it may be as large as it wants"
    assert large.put(0, bytes=1) == [1]
