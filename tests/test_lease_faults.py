"""Never two writers: not with processes that sleep or die, old attributes, a server that is away, clocks that jump."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ncsn_lightning.core import lease as leases
from ncsn_lightning.core.lease import BEAT, DOUBT, STALE, Holder, LeaseLost, take

AWAY = OSError(5, "Input/output error")


class Process:
    """One that may hold the lease; what it knows of the files may be old."""

    def __init__(self, pid, machine):
        self.pid, self.machine = pid, machine
        self.lease, self.alive, self.awake, self.cache = None, True, True, {}

    def holds(self):
        return self.alive and self.awake and self.lease is not None


class World(RuleBasedStateMachine):
    """A file server, its clock, and processes on two machines that run the real lease on it.

    `files` has a number's maker and the stamp of its last sign of life. A plain look-up of a process is answered by its
    cache, which rules let fall behind for as long as they like; making a number and a change of attributes are not.
    """

    @initialize()
    def begin(self):
        self.files, self.now, self.clock, self.away = {}, 0.0, 1e9, False
        self.processes = [Process(pid, f"machine {pid % 2}") for pid in range(3)]
        self.current = self.processes[0]
        self.wakes, self.place = [], Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        for name in ("_make", "_touch", "_read", "_refresh_cache", "follows", "_fresh_beat"):
            self.patch.setattr(leases, name, getattr(self, name))
        self.patch.setattr(leases, "_now", lambda: self.now)
        self.patch.setattr(leases, "_clock", lambda places: self.clock)
        self.patch.setattr(leases, "_alive", lambda pid: self.processes[pid].alive)
        self.patch.setattr(Holder, "is_here", lambda held: held.host == self.current.machine)
        self.patch.setattr(leases.time, "sleep", self.sleep)
        self.patch.setattr(leases.log, "warning", lambda *_: None)

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()
            shutil.rmtree(self.place)

    # What the server does.

    def _make(self, path):
        self.demand_server()
        number = int(path.stem)
        if number in self.files:
            return False
        self.files[number] = (self.current, self.stamp())
        return True

    def _touch(self, path, times):
        if self.away:
            return False
        number = int(path.stem)
        self.files[number] = (self.files[number][0], 0 if times else self.stamp())
        return True

    def _fresh_beat(self, path):
        self.demand_server()
        self._refresh_cache(path)
        return self.files[int(path.stem)][1]

    def _read(self, path):
        number = int(path.stem)
        if number not in self.current.cache:
            return None
        maker, beat = self.current.cache[number]
        return Holder(number, beat, host=maker.machine, pid=maker.pid)

    def _refresh_cache(self, path):
        self.current.cache[int(path.stem)] = self.files[int(path.stem)]

    def follows(self, path):
        return int(path.stem) + 1 in self.current.cache

    def stamp(self):
        self.clock += 1e-6  # no two stamps are the same, whatever the clock does
        return self.clock

    def demand_server(self):
        if self.away:
            raise AWAY

    # What time does.

    def sleep(self, seconds):
        """The current process waits, and others go on."""
        caller, end = self.current, self.now + seconds
        while self.now < end:
            step = min(BEAT, end - self.now)
            self.now, self.clock = self.now + step, self.clock + step
            self.wakes = [(left - step, process) for left, process in self.wakes]
            for left, process in self.wakes:
                if left <= 0:
                    process.awake = True
            self.wakes = [(left, process) for left, process in self.wakes if left > 0]
            for process in self.processes:
                if process.holds() and process is not caller:
                    self.write(process)
                    self.current = process
                    if process.lease and not process.lease.give_sign():
                        process.lease = None
            self.current = caller

    def write(self, process):
        """What a holder does all the time, unless it is lost, or cannot know."""
        self.current = process
        try:
            lost = process.lease.is_lost()
        except OSError:
            return
        if lost:
            process.lease = None
        else:
            assert self.files[max(self.files)][0] is process, "a second writer"

    # What may happen.

    def one(self, choose, wanted):
        """One of the processes that are as wanted, or nobody."""
        found = [process for process in self.processes if wanted(process)] or [Process(-1, "none")]
        self.current = choose.draw(st.sampled_from(found), label="process")
        return self.current

    @rule(choose=st.data())
    def takes(self, choose):
        process = self.one(choose, lambda one: one.alive and one.awake and one.lease is None)
        with suppress(OSError):
            if process in self.processes:
                process.lease = take(self.place)

    @rule(choose=st.data(), wakes=st.sampled_from([1, 20, 40, 80]), passing=st.sampled_from([0, 20, STALE + 1]))
    def falls_asleep(self, choose, wakes, passing):
        process = self.one(choose, Process.holds)
        process.awake = False
        self.wakes.append((wakes, process))
        self.pass_time(passing)
        self.takes(choose)

    @rule(choose=st.data())
    def wakes_up(self, choose):
        self.one(choose, lambda one: not one.awake).awake = True

    @rule(choose=st.data())
    def lets_go(self, choose):
        process = self.one(choose, Process.holds)
        if process.lease and not self.away and not process.lease.is_lost():
            self._touch(process.lease.path, (0, 0))
            process.lease = None

    @rule(choose=st.data())
    def dies_and_is_started_again(self, choose):
        process = self.one(choose, lambda one: one.alive)
        process.alive = False
        if process in self.processes:
            self.processes.append(Process(len(self.processes), process.machine))

    @rule(seconds=st.sampled_from([BEAT, STALE, 2 * STALE]))
    def pass_time(self, seconds):
        self.current = Process(-1, "none")
        self.sleep(seconds)

    @rule(seconds=st.sampled_from([-1e5, -20, 20, 1e5]))
    def clock_jumps(self, seconds):
        self.clock += seconds

    @rule(choose=st.data())
    def cache_is_renewed(self, choose):
        self.one(choose, lambda one: True).cache = dict(self.files)

    @rule()
    def server_goes_and_comes(self):
        self.away = not self.away

    @invariant()
    def there_is_one_writer(self):
        for process in filter(Process.holds, self.processes):
            self.write(process)


World.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)


class TestNeverTwoWriters(World.TestCase):
    """Whatever happens, in whichever order."""


HOLDER = """
# Keeps a lease and writes a file again and again, by constants that make a test a matter of seconds.
import sys, time
from pathlib import Path
from ncsn_lightning.core import atomic_files, lease
lease.BEAT, lease.DOUBT, lease.WATCH, lease.STALE = 0.1, 1.0, 1.5, 2.0
folder = Path(sys.argv[1])
with lease.take(folder):
    for count in range(10**9):
        try:
            with atomic_files.replacing(folder / "mark") as path:
                path.write_text(str(count))
        except lease.LeaseLost:
            print("lost", lease.take(folder), flush=True)
            break
        time.sleep(0.02)
"""


@pytest.fixture
def mounts(tmp_path):
    """Two views of one folder, each with a cache that keeps the answer that a file is not there for a minute."""
    places = [tmp_path / name for name in ("server", "first", "second")]
    for place in places:
        place.mkdir()
    mounted = []
    try:
        for place in places[1:]:
            options = "entry_timeout=60,negative_timeout=60"
            if not shutil.which("bindfs") or subprocess.run(["bindfs", "-o", options, places[0], place]).returncode:
                pytest.skip("needs FUSE and bindfs, which .ci/run installs")
            mounted.append(place)
        yield mounted
    finally:
        for place in mounted:
            subprocess.run(["fusermount3", "-u", "-z", place], check=False)


def test_a_holder_that_slept_writes_nothing_more_though_a_cache_hides_its_successor(mounts, monkeypatch):
    first, second = (mount / "run" for mount in mounts)
    server = mounts[0].parent / "server/run"
    first.mkdir()
    for name, seconds in {"WATCH": 1.5, "STALE": 2.0}.items():
        monkeypatch.setattr(leases, name, seconds)
    with subprocess.Popen([sys.executable, "-c", HOLDER, first], stdout=subprocess.PIPE, text=True) as process:
        try:
            while not (server / "mark").exists():
                assert process.poll() is None
                time.sleep(0.1)
            time.sleep(0.5)  # it has looked for a successor, and there was none
            assert take(second) is None
            process.send_signal(signal.SIGSTOP)
            time.sleep(leases.STALE + 0.2)
            taken = take(second)
            assert taken.path.name == "2.json"
            marked = (server / "mark").read_text()
            process.send_signal(signal.SIGCONT)
            assert process.communicate(timeout=30)[0] == "lost None\n"
            assert (server / "mark").read_text() == marked
            assert not taken.is_lost()
        finally:
            process.kill()


def test_a_holder_in_doubt_goes_on_where_nobody_took_its_place(tmp_path, monkeypatch):
    now = leases._now()
    with take(tmp_path) as lease:
        monkeypatch.setattr(leases, "_now", lambda: now + 2 * DOUBT)
        lease.demand()
        assert lease.path.name == "2.json"
        assert take(tmp_path) is None
    assert leases.holder(tmp_path).beat == 0


def test_a_holder_in_doubt_writes_nothing_while_the_server_is_away(tmp_path, monkeypatch):
    lease, now = take(tmp_path), leases._now()
    monkeypatch.setattr(leases, "_now", lambda: now + 2 * DOUBT)

    def away(path):
        raise AWAY

    monkeypatch.setattr(leases, "_make", away)
    with pytest.raises(OSError, match="Input/output error"):
        lease.is_lost()
    monkeypatch.setattr(leases.time, "sleep", lambda seconds: monkeypatch.setattr(leases, "_make", lambda path: False))
    with pytest.raises(LeaseLost):
        lease.demand()
