"""Supervision: what dies is started again, what keeps dying takes everything down, and nothing is ever left running."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cls.cli.processes import stop_signals
from cls.errors import Refused
from cls.supervise import Child, Patience, Program, supervise

QUICK = Patience(young_seconds=5.0, deaths=3, first_delay=0.01, longest_delay=0.05, grace_seconds=1.0)


def program(name: str, code: str, *, needed: bool = True) -> Program:
    return Program(name, (sys.executable, "-I", "-S", "-c", code), needed=needed)


def until(found: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def pids(folder: Path) -> list[int]:
    return [int(word) for path in folder.glob("pid-*") for word in path.read_text().split()]


def note_pid(folder: Path, name: str) -> str:
    return f"import os; open(r'{folder}/pid-{name}', 'a').write(str(os.getpid()) + ' ')\n"


def stopper(when: Callable[[], bool]) -> threading.Event:
    """Return an event that is set once `when` is true."""
    stop = threading.Event()

    def watch() -> None:
        try:
            until(when, 20.0)
        finally:
            stop.set()

    threading.Thread(target=watch, daemon=True).start()
    return stop


def test_a_child_that_dies_is_started_again_and_the_others_stay(tmp_path: Path) -> None:
    lives = note_pid(tmp_path, "a") + f"n = len(open(r'{tmp_path}/pid-a').read().split())\n"
    crashing = program("a", lives + "import time\nif n < 3: raise SystemExit(1)\ntime.sleep(60)")
    steady = program("b", note_pid(tmp_path, "b") + "import time; time.sleep(60)")
    said: list[str] = []
    stop = stopper(
        lambda: len((tmp_path / "pid-a").read_text().split()) == 3 if (tmp_path / "pid-a").exists() else False
    )
    supervise([steady, crashing], tmp_path / "logs", stop, said.append, QUICK)
    assert said == ["a ended with code 1; starting it again"] * 2
    assert len((tmp_path / "pid-b").read_text().split()) == 1
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))


def test_a_child_that_keeps_dying_takes_everything_down_and_its_last_words_are_told(tmp_path: Path) -> None:
    steady = program("b", note_pid(tmp_path, "b") + "import time; time.sleep(60)")
    broken = program("a", "print('the disk is on fire'); raise SystemExit(7)")
    with pytest.raises(Refused, match=r"code 7 and is given up(.|\n)*the disk is on fire"):
        supervise([steady, broken], tmp_path / "logs", threading.Event(), lambda _: None, QUICK)
    assert not any(psutil.pid_exists(pid) for pid in pids(tmp_path))
    assert (tmp_path / "logs" / "a.log").read_text().count("fire") == QUICK.deaths


def test_a_fault_of_the_configuration_is_not_tried_twice(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="code 2"):
        supervise(
            [program("a", "raise SystemExit(2)")], tmp_path / "logs", threading.Event(), lambda _: None, QUICK
        )


def test_what_is_not_needed_may_be_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    stop = stopper(lambda: any("go on without" in line for line in said))
    supervise(
        [program("ui", "raise SystemExit(1)", needed=False)], tmp_path / "logs", stop, said.append, QUICK
    )
    assert "ui ended with code 1 and is given up" in said[-1]


def test_children_stop_in_reverse_and_the_deaf_are_killed_with_their_own_children(tmp_path: Path) -> None:
    order = tmp_path / "order"
    polite = (
        note_pid(tmp_path, "{name}")
        + "import signal, time\n"
        + f"def end(*_):\n    open(r'{order}', 'a').write('{{name}} ')\n    raise SystemExit(0)\n"
        + "signal.signal(signal.SIGTERM, end)\n"
        + f"open(r'{tmp_path}/ready-{{name}}', 'w').close()\n"
        + "time.sleep(60)"
    )
    deaf = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\n"
        + note_pid(tmp_path, "deaf")
        + f"open(r'{tmp_path}/ready-deaf', 'w').close()\n"
        + "time.sleep(60)"
    )
    programs = [program(name, polite.format(name=name)) for name in ("a", "b")] + [program("deaf", deaf)]
    stop = stopper(lambda: len(list(tmp_path.glob("ready-*"))) == 3 and len(pids(tmp_path)) == 4)
    supervise(programs, tmp_path / "logs", stop, lambda _: None, QUICK)
    assert order.read_text() == "b a "
    assert len(pids(tmp_path)) == 4
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids(tmp_path)))  # the orphan is reaped by init


def test_a_killed_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    script = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from cls.supervise import Program, supervise\n"
        f"code = {note_pid(tmp_path, 'x') + 'import time; time.sleep(60)'!r}\n"
        "programs = [Program(n, (sys.executable, '-I', '-S', '-c', code.replace('pid-x', 'pid-' + n))) for n in 'ab']\n"
        f"supervise(programs, Path(r'{tmp_path}') / 'logs', threading.Event(), lambda line: None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: len(pids(tmp_path)) == 2)
    parent.kill()
    parent.wait()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids(tmp_path)))


def test_a_long_log_moves_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cls.supervise.LOG_LIMIT", 10)
    log = tmp_path / "a.log"
    log.write_text("0123456789abc")
    Child(program("a", "pass"), log, QUICK).turn_log()
    assert log.read_text() == ""
    assert (tmp_path / "a.log.1").read_text() == "0123456789abc"


def test_a_stop_signal_sets_the_event_and_handlers_come_back() -> None:
    from cls.cli.processes import stop_signals

    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is before


def test_whoever_is_in_a_hurry_waits_for_no_child(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    programs = [program(name, deaf + note_pid(tmp_path, name) + "time.sleep(60)") for name in "ab"]
    stop, hurry = stopper(lambda: len(pids(tmp_path)) == 2), threading.Event()

    def second() -> None:
        stop.wait()
        time.sleep(0.1)
        hurry.set()

    threading.Thread(target=second, daemon=True).start()
    patient = Patience(grace_seconds=300.0)
    supervise(programs, tmp_path / "logs", stop, lambda _: None, patient, hurry)
    assert not any(map(psutil.pid_exists, pids(tmp_path)))


def test_the_second_signal_is_a_hurry() -> None:
    hurry = threading.Event()
    with stop_signals(hurry) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(20.0)
        assert not hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert hurry.wait(20.0)
