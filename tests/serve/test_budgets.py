import threading
import time

import pytest

from serve.budgets import Budget, OverBudgetError


def test_what_is_done_in_time_comes_back():
    budget = Budget("stage", 60_000, 1)
    assert budget.run(lambda: 7) == 7
    budget.close()


def test_what_takes_longer_is_left_alone():
    go, budget = threading.Event(), Budget("stage", 20, 1)
    with pytest.raises(OverBudgetError, match="not done within 20 ms"):
        budget.run(go.wait)
    go.set()
    budget.close()


def test_what_waits_in_line_over_its_budget_never_begins():
    go, begun, budget = threading.Event(), [], Budget("stage", 20, 1)
    with pytest.raises(OverBudgetError):
        budget.run(go.wait)
    with pytest.raises(OverBudgetError):
        budget.run(lambda: begun.append(1))
    go.set()
    budget.close()
    assert begun == []


def test_an_error_of_the_stage_is_its_own():
    def late():
        raise TimeoutError("of the network")

    budget = Budget("stage", 60_000, 1)
    with pytest.raises(ZeroDivisionError):
        budget.run(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="of the network"):
        budget.run(late)
    budget.close()


def test_a_budget_of_nothing_switches_off():
    budget = Budget("stage", 0, 1)
    with pytest.raises(OverBudgetError, match="switched off"):
        budget.run(time.monotonic)
    budget.close()
