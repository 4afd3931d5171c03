"""The check `sync`: is the standby counted as the topology asks, and does no commit hang?"""

from __future__ import annotations

from pgherd.postgres.facts import Facts
from pgherd.postgres.group import Group
from pgherd.steps.sync import counting, hung_long, read_sync
from pgherd.sync import Sync
from pgherd.verify.checks import Outcome, View

LET_GO = (
    "`invoke start` or `invoke seed-standby` bring the standby back; to let the commits go on "
    "without it: `invoke sync --off`"
)


def sync_check(group: Group, view: View, name: str) -> Outcome:
    """Return whether the standby is counted as the topology asks."""
    facts = view.facts[view.primary or ""]
    asked = group.topology.sync_for(group.instance(view.primary or "").node)
    names = facts.sync_names
    if told := hanging(view):
        return told
    if read_sync(names) != asked:
        wanted = f"'{asked.render()}'" if asked else "asynchronous"
        evidence = f"synchronous_standby_names is '{names}', and the topology asks {wanted}"
        return False, evidence, "`invoke step.require-sync`"
    return _sync_state(group, facts, asked, name)


def hanging(view: View) -> Outcome | None:
    """Return what is to be said of commits that wait for a standby for long; None if none does."""
    facts = view.facts.get(view.primary or "")
    hung = hung_long(facts) if facts else []
    if not facts or not hung:
        return None
    longest = max(float(w["seconds"]) for w in hung)
    what = "1 commit hangs" if len(hung) == 1 else f"{len(hung)} commits hang"
    evidence = (
        f"{what} on {view.primary}, for {longest:.0f} s: too few standbys of {facts.sync_names} "
        f"stream (process {hung[0]['pid']}: {hung[0]['query']})"
    )
    return False, evidence, LET_GO


def _sync_state(group: Group, facts: Facts, asked: Sync | None, name: str) -> Outcome:
    application = group.instance(name).node.application_name
    sender = facts.sender(application)
    if asked is None or not asked.matches(application):
        return True, "asynchronous, as the topology asks", ""
    state = sender.sync_state if sender else "not there"
    evidence = f"sync_state is {state}, with {asked.render()}"
    counted = state in {"sync", "quorum"} or (
        state == "potential" and counting(asked, facts) >= asked.count
    )
    return counted, evidence, "`invoke step.require-sync`"
