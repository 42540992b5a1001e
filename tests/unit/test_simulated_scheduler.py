"""Continuous batching: who runs, who waits, who is preempted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slm_worker.engine.simulated.scheduler import Scheduler, Sequence, StepResult

AMPLE = 10**6


def scheduler(max_num_seqs: int = 2, kv_tokens: int = AMPLE) -> Scheduler:
    return Scheduler(max_num_seqs=max_num_seqs, kv_capacity_tokens=kv_tokens)


def sequence(output_tokens: int = 3, prompt_tokens: int = 10) -> Sequence:
    return Sequence(prompt_tokens, output_tokens, arrived_seconds=0.0)


def step(engine: Scheduler, seconds: float = 0.01) -> StepResult:
    engine.admit()
    engine.begin_step(seconds)
    return engine.end_step()


def test_each_step_gives_every_running_sequence_one_token() -> None:
    engine = scheduler()
    first, second = sequence(), sequence()
    engine.add(first)
    engine.add(second)

    assert step(engine).tokens == 2
    assert (engine.written(first), engine.written(second)) == (1, 1)


def test_a_sequence_ends_with_its_last_token_and_keeps_its_count() -> None:
    engine = scheduler()
    only = sequence(output_tokens=3)
    engine.add(only)

    finished = [step(engine).finished for _ in range(3)]

    assert finished == [[], [], [only]]
    assert engine.written(only) == 3
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0.0)


def test_at_most_max_num_seqs_run_and_the_rest_wait_in_order() -> None:
    engine = scheduler(max_num_seqs=2)
    sequences = [sequence(output_tokens=n) for n in (1, 5, 1, 1)]
    for one in sequences:
        engine.add(one)

    finished = [step(engine).finished for _ in range(3)]

    assert finished == [[sequences[0]], [sequences[2]], [sequences[3]]]


def test_a_freed_slot_is_filled_before_the_next_step() -> None:
    engine = scheduler(max_num_seqs=1)
    engine.add(sequence(output_tokens=1))
    engine.add(sequence(output_tokens=1))

    assert [step(engine).tokens for _ in range(2)] == [1, 1]


def test_a_long_prompt_delays_its_own_first_token_only() -> None:
    engine = scheduler()
    long, short = sequence(prompt_tokens=2500), sequence(output_tokens=5)
    engine.add(long)
    engine.add(short)

    # 2,500 tokens at 100,000 a second take three steps of 10 ms.
    started = [step(engine).started for _ in range(3)]

    assert started == [[short], [], [long]]
    assert engine.written(short) == 3


def test_removing_frees_the_slot_of_a_running_sequence() -> None:
    engine = scheduler(max_num_seqs=1)
    running, waiting = sequence(), sequence()
    engine.add(running)
    engine.add(waiting)
    step(engine)

    assert engine.remove(running)
    assert step(engine).started == [waiting]


def test_removing_drops_a_waiting_sequence() -> None:
    engine = scheduler(max_num_seqs=1)
    running, waiting = sequence(), sequence()
    engine.add(running)
    engine.add(waiting)
    step(engine)

    assert engine.remove(waiting)
    assert engine.waiting == 0


def test_removing_what_has_ended_does_nothing() -> None:
    engine = scheduler()
    only = sequence(output_tokens=1)
    engine.add(only)
    step(engine)

    assert not engine.remove(only)
    assert engine.written(only) == 1


def test_a_sequence_removed_between_admission_and_step_writes_nothing() -> None:
    engine = scheduler()
    only = sequence()
    engine.add(only)
    engine.admit()
    engine.remove(only)
    engine.begin_step(0.01)

    assert engine.end_step() == StepResult(tokens=0)


def test_kv_usage_is_prompt_and_written_tokens_over_capacity() -> None:
    engine = scheduler(kv_tokens=100)
    engine.add(sequence(prompt_tokens=10, output_tokens=5))
    step(engine)
    step(engine)

    assert engine.kv_usage == 0.12


def test_a_full_kv_cache_keeps_sequences_waiting() -> None:
    engine = scheduler(kv_tokens=100)
    engine.add(sequence(prompt_tokens=60))
    engine.add(sequence(prompt_tokens=60))
    step(engine)

    assert (engine.running, engine.waiting) == (1, 1)


def test_a_kv_cache_that_runs_full_preempts_the_newest_which_goes_on_later() -> None:
    engine = scheduler(kv_tokens=100)
    old = sequence(prompt_tokens=45, output_tokens=20)
    new = sequence(prompt_tokens=45, output_tokens=20)
    engine.add(old)
    engine.add(new)
    started, finished = [], []
    for _ in range(60):
        result = step(engine)
        started += result.started
        finished += result.finished

    assert engine.preemptions == 1
    assert finished == [old, new]
    assert started == [old, new], "a first token counts once"
    assert engine.written(new) == 20


lengths = st.integers(1, 40)


@given(
    arrivals=st.lists(st.tuples(lengths, lengths, st.integers(0, 30)), min_size=1, max_size=30),
    max_num_seqs=st.integers(1, 8),
    kv_tokens=st.integers(80, 300),
    removed=st.sets(st.integers(0, 29)),
)
def test_every_token_is_written_once_and_nothing_is_left_behind(
    arrivals: list[tuple[int, int, int]], max_num_seqs: int, kv_tokens: int, removed: set[int]
) -> None:
    engine = scheduler(max_num_seqs, kv_tokens)
    sequences = [sequence(output, prompt) for output, prompt, _ in arrivals]
    tokens = 0
    started: list[Sequence] = []
    ended: list[Sequence] = []
    now = 0
    while now <= 30 or engine.running or engine.waiting:
        for one, (_, _, at) in zip(sequences, arrivals, strict=True):
            if at == now:
                engine.add(one)
        for number, one in enumerate(sequences):
            if number in removed and arrivals[number][2] + 3 == now and engine.remove(one):
                ended.append(one)
        result = step(engine, seconds=0.0002)
        assert engine.running <= max_num_seqs
        assert engine.kv_usage <= 1
        tokens += result.tokens
        started += result.started
        ended += result.finished
        now += 1

    assert sorted(map(id, ended)) == sorted(map(id, sequences))
    assert len(started) == len(set(started))
    assert tokens == sum(engine.written(one) for one in sequences)
    assert engine.kv_usage == 0
    for number, one in enumerate(sequences):
        if number not in removed:
            assert engine.written(one) == one.output_tokens
