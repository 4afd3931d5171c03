"""The moment of a switchover: the order of its acts, and what is undone when."""

from __future__ import annotations

import re
import threading

import pytest
from fakes import FakeHost, Said, container, facts, group, image, standby_facts, topology

from pgherd.docker.models import Container
from pgherd.errors import DeadlinePassed, Error
from pgherd.hosts.commands import Result, Script
from pgherd.operations import run_token, switchover
from pgherd.operations.switchover import Handover
from pgherd.postgres.facts import Disk, Facts
from pgherd.postgres.instance import Instance
from pgherd.postgres.switchover_waits import Holdup

PROMOTION = "at_the_end()"
UNMARK = 'rm -f "$PGDATA/standby.signal"'


STOPPED = Said()


class Servers(FakeHost):
    """A primary pa and its standby s1, of which the promotion ends as it is told to."""

    def __init__(self, promotion: Said | Error, stop: Said | Error = STOPPED) -> None:
        super().__init__(
            {
                "docker exec": Said(),
                "docker run": Said(),
                "docker start": Said(),
                "docker ps": Said(),
            }
        )
        self.promotion, self.stop = promotion, stop
        self.acts: list[str] = []
        self.stopping = threading.Event()

    def run(self, command: object, **options: object) -> object:  # type: ignore[override]
        """Note what is done to whom."""
        argv = command.formulate()  # type: ignore[attr-defined]
        stdin = options.get("stdin")
        text = stdin.text() if isinstance(stdin, Script) else ""
        act = self._act(argv, text)
        self.acts += [act] * (argv[1] not in {"logs", "ps"})
        if act == "stop pa":
            self.stopping.set()
            self.plan["docker", "stop"] = self.stop
        if act == "arm s1":
            self.plan["docker", "exec"] = self._promoted(options)
        else:
            self.plan["docker", "exec"] = Said()
        return super().run(command, **options)  # type: ignore[arg-type]

    def _promoted(self, options: dict[str, object]) -> Said | Error:
        if isinstance(self.promotion, Said) and self.promotion.out.startswith("armed"):
            options["on_line"]("armed")  # type: ignore[operator]
            self.stopping.wait(5)
        return self.promotion

    @staticmethod
    def _act(argv: list[str], text: str) -> str:
        if argv[1] == "exec":
            known = {
                PROMOTION: "arm",
                "ALTER SYSTEM SET primary_conninfo": "mark",
                UNMARK: "unmark",
                "flock -n 9": "call off",
            }
            what = next((what for sign, what in known.items() if sign in text), "other")
            return f"{what} {argv[5]}"
        if argv[1] == "run":
            return "offline " + ("unmark" if UNMARK in text else "other")
        return f"{argv[1]} {argv[-1]}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "ARM_SECONDS", 0.2)
    monkeypatch.setattr(switchover, "END_SECONDS", 0.2)
    monkeypatch.setattr(switchover, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(switchover, "GLANCE_SECONDS", 0.2)


def handed(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    after: Facts | Error,
    status: str = "exited",
) -> Handover:
    """Make a handover from pa to s1; `after` is what s1 says of itself once it failed."""

    def told(instance: Instance) -> Facts:
        assert instance.name == "s1"
        if isinstance(after, Error):
            raise after
        return after

    def box(instance: Instance) -> Container:
        stopped = "stop pa" in servers.acts and "start pa" not in servers.acts
        down = stopped and instance.name == "pa"
        return container(instance.name, status=status if down else "running")

    monkeypatch.setattr(Instance, "facts", told)
    monkeypatch.setattr(Instance, "container", box)
    made = group(topology("s1", sync="s1"), servers)
    s1 = made.instance("s1")
    return Handover(made, made.master, s1, s1, image(), "0/3000000", 1, container("pa"))


DONE = Said("armed\npromoted after 0/3000028\n")
STANDBY = standby_facts()


def test_the_primary_is_stopped_only_once_the_promotion_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(DONE)
    handover = handed(servers, monkeypatch, STANDBY)
    handover.take_place()
    assert servers.acts == ["mark pa", "arm s1", "stop pa"]
    assert handover.checkpoint == "0/3000028"
    stop = next(call for call in servers.calls if call.argv[1] == "stop")
    assert stop.argv == ("docker", "stop", "-t", "3600", "pa")
    arm = next(call for call in servers.calls if PROMOTION in call.stdin)
    assert f"turn={run_token.RUN_TOKEN}\ntimeline=1\nseconds=3600\nstart=0/3000000\n" in arm.stdin
    assert arm.stdin.index("flock -s 9") < arm.stdin.index("echo armed")


def test_the_marks_come_after_a_checkpoint_that_the_standby_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(DONE)
    handed(servers, monkeypatch, STANDBY).take_place()
    call = servers.calls[0]
    assert call.argv[5] == "pa"
    order = ["sql -c CHECKPOINT", "flush_lsn >=", "flock -s 9", "ALTER SYSTEM SET primary_conninfo",
             'lay "$PGDATA/standby.signal"']  # fmt: skip
    places = [call.stdin.index(text) for text in order]
    assert places == sorted(places)
    assert "host=s1 " in call.stdin
    assert "slot=''\"'\"'pa'\"'\"''\n" in call.stdin


def test_where_it_cannot_be_armed_nothing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(Said(code=2, err="psql: too many clients"))
    with pytest.raises(Error, match="too many clients"):
        handed(servers, monkeypatch, STANDBY).take_place()
    assert servers.acts == ["mark pa", "arm s1", "call off s1", "unmark pa"]
    undone = servers.calls[-1].stdin
    assert "ALTER SYSTEM RESET primary_conninfo" in undone
    assert UNMARK in undone


def test_where_it_never_waits_nothing_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(Said(""))
    with pytest.raises(DeadlinePassed, match="promotion of s1 could not be prepared"):
        handed(servers, monkeypatch, STANDBY).take_place()
    assert servers.acts == ["mark pa", "arm s1", "call off s1", "unmark pa"]


def test_where_the_end_does_not_come_the_old_primary_serves_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(Said("armed\n", code=75))
    with pytest.raises(Error):
        handed(servers, monkeypatch, STANDBY).take_place()
    assert servers.acts == [
        "mark pa", "arm s1", "stop pa", "call off s1", "offline unmark", "start pa", "other pa",
    ]  # fmt: skip


def test_where_the_stop_fails_it_is_stopped_again_before_its_data_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(Said("armed\n", code=75), stop=Said(code=1, err="cannot stop"))
    with pytest.raises(Error):
        handed(servers, monkeypatch, STANDBY, status="running").take_place()
    assert servers.acts[:5] == ["mark pa", "arm s1", "stop pa", "call off s1", "stop pa"]


def test_one_that_was_promoted_all_the_same_stays_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word of it was lost: the old primary must not serve again."""
    servers = Servers(Said("armed\n", code=1, err="connection lost"))
    handed(servers, monkeypatch, facts(timeline=2)).take_place()
    assert servers.acts == ["mark pa", "arm s1", "stop pa", "call off s1"]


SILENT = Error("s1 does not answer.")


@pytest.mark.parametrize(("leads", "serves"), [(False, True), (True, False)])
def test_where_it_does_not_answer_it_is_stopped_and_its_data_tells(
    leads: bool, serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = Servers(Said("armed\n", code=1))
    data = Disk(pg_version="17", empty=False, standby_signal=not leads)
    monkeypatch.setattr(Instance, "disk", lambda *_: data)
    handover = handed(servers, monkeypatch, SILENT)
    if serves:
        with pytest.raises(Error):
            handover.take_place()
    else:
        handover.take_place()
    assert servers.acts[:5] == ["mark pa", "arm s1", "stop pa", "call off s1", "stop s1"]
    assert ("start pa" in servers.acts) is serves
    assert "start s1" in servers.acts


def test_where_nothing_tells_nothing_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(Said("armed\n", code=1))
    monkeypatch.setattr(Instance, "disk", lambda *_: Disk())
    with pytest.raises(Error) as caught:
        handed(servers, monkeypatch, SILENT).take_place()
    assert servers.acts == ["mark pa", "arm s1", "stop pa", "call off s1", "stop s1"]
    assert caught.value.sentence.startswith(
        "Whether s1 was promoted cannot be told: s1 does not answer."
    )
    assert "`invoke switchover --to s1` goes on" in caught.value.sentence


class Hanging(Servers):
    """Servers whose primary does not end: before the promotion, or after it."""

    def __init__(self, line: str, codes: list[int], *, promoted: bool) -> None:
        super().__init__(DONE if promoted else Said("armed\n", code=71))
        self.line, self.codes = line, codes
        self.ended, self.given_up = threading.Event(), threading.Event()
        self.plan["docker", "stop"] = Said()

    def run(self, command: object, **options: object) -> object:  # type: ignore[override]
        """Stop only once it is told to hurry, or its walsenders are ended."""
        argv = command.formulate()  # type: ignore[attr-defined]
        stdin = options.get("stdin")
        text = stdin.text() if isinstance(stdin, Script) else ""
        if argv[1:4] == ["stop", "-t", "3600"]:
            self.acts.append("stop pa")
            self.stopping.set()
            assert self.ended.wait(5)
            self.ended.clear()
            return super(Servers, self).run(command, **options)  # type: ignore[arg-type]
        if argv[1:4] == ["stop", "-t", "1"]:
            self.ended.set()
        if "archived=0" in text:
            grace = re.search("^grace=(.*)$", text, re.MULTILINE)
            self.acts.append(f"see end {grace[1] if grace else ''}".strip())
            options["on_line"](self.line)  # type: ignore[operator]
            code = self.codes.pop(0)
            if code != 75:  # its walsenders were ended, or whoever waits for it gives up
                self.ended.set()
                threading.Timer(0.2, self.given_up.set).start()
            return Result(tuple(argv), "local", code, "", "")
        return super().run(command, **options)

    def _promoted(self, options: dict[str, object]) -> Said | Error:
        found = super()._promoted(options)
        if self.promotion is not DONE:  # it is given up with the stop
            self.given_up.wait(5)
        return found


def test_past_the_bound_the_old_primary_serves_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its walsenders are ended, so that it comes down in order, and it starts as it was."""
    servers = Hanging("walsenders 9 ann app 10.0.0.9(5) START_REPLICATION", [74, 0], promoted=False)
    handover = handed(servers, monkeypatch, STANDBY, status="running")
    with pytest.raises(DeadlinePassed) as caught:
        handover.take_place()
    assert caught.value.sentence == (
        "pa did not end within 30 s: it waits for process 9 (ann app 10.0.0.9(5) "
        "START_REPLICATION)."
    )
    assert servers.acts == [
        "mark pa", "arm s1", "stop pa", "see end ''", "call off s1", "stop pa", "see end 0",
        "offline unmark", "start pa", "other pa",
    ]  # fmt: skip
    assert "pa: serves again; writes were refused for " in capsys.readouterr().err


def test_one_that_archives_after_the_promotion_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = Hanging("archiver archiving 0A", [75], promoted=True)
    handed(servers, monkeypatch, STANDBY, status="running").take_place()
    assert servers.acts == ["mark pa", "arm s1", "stop pa", "see end ''", "stop pa"]
    assert "pa: it waits for its archiver (archiving 0A); it is ended, as s1 has all" in (
        capsys.readouterr().err
    )


def test_one_whose_checkpoint_is_not_written_is_never_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Hanging("sessions", [74, 74, 74, 0], promoted=False)
    with pytest.raises(DeadlinePassed):
        handed(servers, monkeypatch, STANDBY, status="running").take_place()
    stops = [call.argv for call in servers.calls if call.argv[1] == "stop"]
    assert [argv[3] for argv in stops] == ["3600", "3600"]
    assert servers.codes == []


def test_what_is_ended_by_force_is_ended_before_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Hanging("walsenders 9 x", [0], promoted=True)
    handover = handed(servers, monkeypatch, STANDBY, status="running")
    handover.found = [Holdup("consumer-late", "pa", "", "", 9)]
    handover.take_place()
    assert servers.acts == ["mark pa", "arm s1", "stop pa", "see end 1"]
    assert "ended=9\n" in servers.calls[0].stdin
    assert "pg_terminate_backend(pid)" in servers.calls[0].stdin


def test_a_standby_that_has_all_and_does_not_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cloudquery 12656: it was said not to have got the last."""
    servers = Servers(Said("armed\nreceived 0/3000028\n", code=75))
    row = {"pid": 5, "user": "ann", "application_name": "psql", "state": "active",
           "seconds": 9.0, "query": "SELECT 1"}  # fmt: skip
    held = {"by": "relation", "seconds": 30.0, "holders": [row]}
    handover = handed(servers, monkeypatch, standby_facts(held=held))
    with pytest.raises(DeadlinePassed) as caught:
        handover.take_place()
    assert caught.value.sentence.startswith(
        "s1 has all that pa wrote, and did not replay it within 30 s: replay on s1 is held for 30 "
        "s by process 5 (psql of ann, active: SELECT 1)."
    )
    assert "start pa" in servers.acts


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(143), OSError(11, "no fork")])
def test_whatever_the_fault_is_it_is_undone_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    servers = Servers(DONE)
    handover = handed(servers, monkeypatch, STANDBY)

    def interrupt(*_: object) -> None:
        raise fault

    monkeypatch.setattr(switchover, "run_all", interrupt)
    with pytest.raises(type(fault)):
        handover.take_place()
    assert servers.acts == ["mark pa", "call off s1", "unmark pa"]


def test_where_the_system_has_no_answer_its_data_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cannot be started is no Error of ours, and the old primary is down."""
    servers = Servers(Said("armed\n", code=1))
    data = Disk(pg_version="17", empty=False, standby_signal=True)
    monkeypatch.setattr(Instance, "disk", lambda *_: data)
    handover = handed(servers, monkeypatch, STANDBY)

    def no_fork(_: Instance) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(run_token, "cancel_pending_promotion", no_fork)
    with pytest.raises(Error):
        handover.take_place()
    assert servers.acts[-4:] == ["offline unmark", "start pa", "other pa", "start s1"]


def test_the_printed_script_stops_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = Servers(DONE)
    servers.trace.dry = True
    handed(servers, monkeypatch, STANDBY).take_place()
    script = capsys.readouterr().out
    assert script.index("docker stop -t 3600 pa") < script.index(PROMOTION)
