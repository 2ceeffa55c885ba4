"""Budgets: what they allow within their windows."""

from __future__ import annotations

import engine.journal.budget_cache
import pytest
from engine.execution.budgets import BudgetLedger, Charge
from engine.journal.budget_cache import BudgetCache
from engine.model.playbook import Budget, Guardrails


def rails(*budgets):
    return Guardrails(budgets=budgets)


def kill(target, namespace="demo", owner="rs", playbook="p", action="pod.delete"):
    return Charge("disrupt", action, playbook, target, namespace, owner)


@pytest.mark.parametrize(
    ("scope", "another"),
    [
        ("namespace", {"namespace": "shop"}),
        ("owner", {"owner": "another"}),
        ("owner", {"playbook": "another"}),
        ("playbook", {"playbook": "another"}),
    ],
)
def test_each_value_of_a_scope_has_its_own_budget(scope, another):
    ledger, two = BudgetLedger(), rails(Budget("disrupt", 2, 60.0, scope))
    assert [bool(ledger.charge(two, kill(t), 0.0).exceeded) for t in "abc"] == [False, False, True]
    assert ledger.charge(two, kill("c", **another), 0.0).exceeded is None


def test_cluster_has_one_budget():
    ledger, one = BudgetLedger(), rails(Budget("disrupt", 1, 60.0, "cluster"))
    assert ledger.charge(one, kill("a", "demo"), 0.0).exceeded is None
    assert ledger.charge(one, kill("b", "shop", "o", "q"), 0.0).exceeded


def test_target_counts_once_in_a_sliding_window():
    ledger, one = BudgetLedger(), rails(Budget("disrupt", 1, 60.0, "cluster"))
    assert ledger.charge(one, kill("a"), 0.0).exceeded is None
    assert ledger.charge(one, kill("a"), 59.0).exceeded is None
    assert ledger.charge(one, kill("b"), 59.9).exceeded
    assert ledger.charge(one, kill("b"), 60.0).exceeded is None


def test_clock_never_goes_back():
    ledger, one = BudgetLedger(), rails(Budget("disrupt", 1, 60.0, "cluster"))
    ledger.charge(one, kill("a"), 1_000.0)
    assert ledger.charge(one, kill("b"), 0.0).exceeded
    assert ledger.charge(one, kill("b"), 1_059.0).exceeded
    assert ledger.charge(one, kill("b"), 1_060.0).exceeded is None


def test_other_effects_and_actions_are_not_charged():
    ledger = BudgetLedger()
    one = rails(Budget("disrupt", 1, 60.0, "cluster", actions=("pod.*",)))
    ledger.charge(one, kill("a", action="node.drain"), 0.0)
    ledger.charge(one, Charge("mark", "pod.label", "p", "b"), 0.0)
    assert ledger.charge(one, kill("c"), 0.0).exceeded is None
    assert ledger.charge(one, kill("d"), 0.0).exceeded


def test_exceeded_budget_charges_no_other_budget():
    ledger = BudgetLedger()
    both = rails(Budget("disrupt", 2, 60.0, "cluster"), Budget("disrupt", 1, 60.0, "namespace"))
    ledger.charge(both, kill("a"), 0.0)
    assert "namespace" in ledger.charge(both, kill("b"), 0.0).exceeded.message
    assert ledger.charge(both, kill("c", "shop"), 0.0).exceeded is None


def test_refund_removes_only_what_its_charge_added():
    ledger, one = BudgetLedger(), rails(Budget("disrupt", 1, 60.0, "cluster"))
    spent = ledger.charge(one, kill("a"), 0.0)
    ledger.refund(ledger.charge(one, kill("a"), 1.0))
    assert ledger.charge(one, kill("b"), 2.0).exceeded
    ledger.refund(spent)
    assert ledger.charge(one, kill("b"), 3.0).exceeded is None


def test_on_exceeded_of_the_budget_overrides_that_of_the_guardrails():
    ledger = BudgetLedger()
    digest = Budget("notify", 1, 60.0, "playbook", on_exceeded="digest")
    said = rails(digest, Budget("disrupt", 1, 60.0, "cluster"))
    message = [Charge("notify", "slack.post", "p", f"r{n}/s") for n in range(2)]
    assert [ledger.charge(said, one, 0.0).exceeded for one in message][1].on_exceeded == "digest"
    assert [ledger.charge(said, kill(t), 0.0).exceeded for t in "ab"][1].on_exceeded == "hold"


def test_charges_are_written_and_restored():
    kept, one = {}, rails(Budget("disrupt", 1, 60.0, "cluster"))
    ledger = BudgetLedger(BudgetCache(save=kept.update))
    spent = ledger.charge(one, kill("a"), 0.0)
    assert BudgetLedger(BudgetCache(kept)).charge(one, kill("b"), 1.0).exceeded
    ledger.refund(spent)
    assert list(kept.values()) == [None]


def test_charge_that_cannot_be_written_does_not_count():
    full = [True]

    def remember(_):
        if full:
            raise OSError(full.pop())

    ledger, one = (
        BudgetLedger(BudgetCache(save=remember)),
        rails(Budget("disrupt", 1, 60.0, "cluster")),
    )
    with pytest.raises(OSError, match="True"):
        ledger.charge(one, kill("a"), 0.0)
    assert ledger.charge(one, kill("b"), 0.0).exceeded is None


def test_refund_that_cannot_be_written_does_not_count():
    full = []

    def remember(_):
        if full:
            raise OSError(full.pop())

    ledger, one = (
        BudgetLedger(BudgetCache(save=remember)),
        rails(Budget("disrupt", 1, 60.0, "cluster")),
    )
    spent = ledger.charge(one, kill("a"), 0.0)
    full.append("disk full")
    with pytest.raises(OSError, match="disk full"):
        ledger.refund(spent)
    assert ledger.charge(one, kill("b"), 1.0).exceeded
    ledger.refund(spent)
    assert ledger.charge(one, kill("b"), 2.0).exceeded is None


def test_unchanged_windows_are_not_written():
    told = []
    ledger, one = (
        BudgetLedger(BudgetCache(save=told.append)),
        rails(Budget("disrupt", 1, 60.0, "cluster")),
    )
    ledger.charge(one, kill("a"), 0.0)
    for target in "ab":
        ledger.refund(ledger.charge(one, kill(target), 1.0))
    assert len(told) == 1


def test_expired_windows_are_deleted_on_disk(monkeypatch):
    monkeypatch.setattr(engine.journal.budget_cache, "MAX_WINDOWS", 10)
    kept, one = {}, rails(Budget("disrupt", 1, 60.0, "namespace"))
    ledger = BudgetLedger(BudgetCache(save=kept.update))
    for number in range(100):
        ledger.charge(one, kill("a", f"n{number}"), number * 30.0)
    assert sum(window is not None for window in kept.values()) <= 12
    assert ledger.charge(one, kill("b", "n99"), 2970.0).exceeded
    assert ledger.charge(one, kill("b", "n0"), 2970.0).exceeded is None


def test_dry_run_does_not_use_up_the_budget():
    ledger, one = BudgetLedger(), rails(Budget("disrupt", 1, 60.0, "cluster"))
    dry = Charge("disrupt", "pod.delete", "p", "a", "demo", "rs", "dryRun")
    assert ledger.charge(one, dry, 0.0).exceeded is None
    assert ledger.charge(one, kill("b"), 0.0).exceeded is None


def test_budget_can_name_playbooks():
    ledger = BudgetLedger()
    one = rails(Budget("disrupt", 1, 60.0, "cluster", playbooks=("isolate-*", "kill")))
    assert ledger.charge(one, kill("a", playbook="kill"), 0.0).exceeded is None
    assert ledger.charge(one, kill("b", playbook="other"), 0.0).exceeded is None
    over = ledger.charge(one, kill("c", playbook="isolate-egress"), 0.0).exceeded
    assert "target of isolate-*, kill per 1m" in over.message
