"""A throw-away Slurm cluster: two virtual nodes of one CPU each on this machine, with every file in one folder.

It needs Debian's packages slurmctld, slurmd, slurm-client and munge, and root or a sudo that asks nothing, for slurmd
starts jobs in the name of users. No service is touched: the daemons here have keys, sockets and ports of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
SBIN = "/usr/sbin:/sbin"

CONFIGURATION = """
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits, else two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# a container has no cgroups to give away
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
# finished jobs stay known, for there is no database that remembers them
MinJobAge=3600
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE
"""

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=64000\n"


def missing() -> str | None:
    """Why there can be no cluster here, in one line; None where there can be one."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    if subprocess.run([*_sudo(), "true"], capture_output=True, check=False).returncode:
        return "slurmd needs root, or sudo without a password"
    return None


def _sudo() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


class Cluster:
    """Two nodes, `n1` and `n2`, and one partition, `short`; up inside its `with` block.

    Args:
        folder: for everything it writes.

    Attributes:
        environment: of the processes that are to see the cluster.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(__file__).parent / 'bin'}:{os.environ['PATH']}:{SBIN}"
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.environment["MASTER_ADDR"] = "127.0.0.1"  # ranks meet at the first node's name, which nobody resolves here

    def __enter__(self) -> Cluster:
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        lines = [NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports[1:], strict=True)]
        text = CONFIGURATION.format(host=host, port=ports[0], folder=self.folder) + "".join(lines)
        (self.folder / "slurm.conf").write_text(text)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self._as_root("dd", "if=/dev/urandom", f"of={self.folder}/munge.key", "bs=1024", "count=1", "status=none")
        self._as_root("chmod", "400", f"{self.folder}/munge.key")
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._as_root(
            "munged", "--force", *(f"--{option}={self.folder}/munge.{name}" for option, name in names.items())
        )
        self._as_root("slurmctld", "-c")
        for name in NODES:
            self._as_root("slurmd", "-N", name)
        self.wait(lambda: self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() == list(NODES), seconds=30)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["scancel", "--signal=KILL", f"--user={os.getuid()}"], env=self.environment, check=False)
        for path in sorted(self.folder.glob("*.pid"), reverse=True):  # slurmds, slurmctld, munged
            pid = path.read_text().strip()
            self._as_root("kill", pid)
            self.wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), seconds=120)

    def _as_root(self, *command: str) -> None:
        settings = [f"{name}={self.environment[name]}" for name in ("SLURM_CONF", "PATH")]
        subprocess.run([*_sudo(), "env", *settings, *command], capture_output=True, text=True, check=True)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command that sees the cluster; its standard output."""
        options = {"capture_output": True, "text": True, "cwd": cwd, "env": self.environment}
        done = subprocess.run(command, check=False, **options)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout

    def wait(self, condition, *, seconds: float) -> None:
        """Until something holds; the daemons' last words where it does not."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds} s\n{self.state()}")
            time.sleep(0.2)

    def state(self) -> str:
        """What is known of the jobs and daemons, for whoever has to find out what went wrong."""
        logs = [f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("slurm*.log"))]
        return "\n".join([self.run("squeue", "--all"), self.run("scontrol", "show", "job"), *logs])

    def warn(self, job: str) -> None:
        """Send a job the signal that Slurm sends some time before the job's end.

        It goes to the step: to a task of an array of which others wait, scancel would send it again and again.
        """
        self.run("scancel", "--signal=USR2", f"{job}.0")

    def cancel(self, job: str) -> None:
        """Send a job SIGTERM, and SIGKILL if it is still there after `KillWait`."""
        known = self.jobs()[job]  # a task of an array is not always found by its own number
        self.run("scancel", "{ArrayJobId}_{ArrayTaskId}".format(**known) if "ArrayJobId" in known else job)

    def jobs(self) -> dict[str, dict[str, str]]:
        """What Slurm knows of every job, by its raw number."""
        lines = self.run("scontrol", "show", "job", "-o").splitlines()
        fields = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        return {job["JobId"]: job for job in fields if "JobId" in job}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    sys.exit(missing())
