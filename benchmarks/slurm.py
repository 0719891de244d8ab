"""A sweep on a real SLURM that is disturbed in every way it has, beside the same sweep left in peace.

    python benchmarks/slurm.py --table results/slurm.md

Needs root and Debian's packages (`apt-get install slurmd slurmctld slurm-client munge sshfs openssh-sftp-server`). The
cluster lives in a temporary folder: munged, slurmctld and two slurmd on loopback, one CPU each. Each node has a host
name, process numbers and mounts of its own, so that nodes see no more of each other than two machines do, and to kill
a node's first process is to pull its plug. Whoever replaces a finished run is seen on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from racecar.study.core.environment import environment, pasted
from racecar.study.core.files import write_text
from racecar.study.report.markdown import markdown

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "unshare", "nsenter", "sshfs")
SFTP = Path("/usr/lib/openssh/sftp-server")
NODES = ("node1", "node2")
LATE = 20  # seconds for which the last trials' nodes believe what they have seen of the shared folder
SWEEP = [
    *["mutual-information", "--preset", "quick", "--variants", "Std", "RR1", "--seeds", "2", "--snapshots", "2"],
    *["--training.epochs", "150", "--training.epochs_b", "75", "--weights", "1e-3", "1e-2", "3e-2", "--workers", "2"],
]
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={work}/munge/socket
CredType=cred/munge
StateSaveLocation={work}/controller
SlurmdSpoolDir={work}/%n
SlurmctldPidFile={work}/controller/pid
SlurmdPidFile={work}/%n/pid
SlurmctldLogFile={work}/controller.log
SlurmdLogFile={work}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=15
MessageTimeout=10
KillWait=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname=node1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=node2 NodeHostname=node2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=low Nodes=node1,node2 Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=high Nodes=node1,node2 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def say(*command: str) -> str:
    """What a command prints; an error where it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def until(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait for it, or end with what was waited for."""
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def send(machine: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """A signal to the first process of a machine, which ends it; all others of it end as well."""
    for inner in Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split():
        os.kill(int(inner), number)
    machine.wait(60)


class Cluster:
    """SLURM on loopback, in a folder of its own.

    Args:
        work: the folder; ``disk`` in it is what nodes share, under the name ``shared``.
    """

    def __init__(self, work: Path) -> None:
        self.work, self.shared = work, work / "shared"
        for name in ("munge", "controller", "disk", "shared", *NODES):
            (work / name).mkdir()
        work.chmod(0o755)  # munged refuses a socket that others cannot reach
        (work / "munge" / "key").write_bytes(os.urandom(1024))
        (work / "munge" / "key").chmod(0o400)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        os.environ["SLURM_CONF"] = str(work / "slurm.conf")
        Path(os.environ["SLURM_CONF"]).write_text(
            CONFIGURATION.format(host=socket.gethostname(), ports=ports, work=work)
        )
        (work / "sftp").write_text(f"#!/bin/sh\nexec {SFTP}\n")
        (work / "sftp").chmod(0o755)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        munge = [f"--{n}={work}/munge/{n.split('-')[0]}" for n in ("socket", "key-file", "pid-file", "seed-file")]
        self._daemon("munge", "munged", "--force", "--foreground", f"--log-file={work}/munge/log", *munge)
        until((work / "munge" / "socket").exists, "munged", 20)
        self._daemon("controller", "slurmctld", "-D")
        for name in NODES:
            self.start(name)
        self.ready()

    def _daemon(self, name: str, *command: str) -> None:
        with (self.work / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def start(self, node: str, *, late: bool = False) -> None:
        """A node; ``late``: it sees the shared folder through sshfs, which believes for a while what it has seen."""
        self._daemon(node, *self.machine(node, "slurmd -D", late))

    def machine(self, name: str, command: str, late: bool) -> list[str]:
        """A command on a machine of its own: host name, process numbers, mounts, among them the shared folder."""
        times = ",".join(f"{n}_timeout={LATE}" for n in ("dcache", "entry", "negative", "attr"))
        mount = f"sshfs -o ssh_command={self.work}/sftp,{times} disk:" if late else "mount --bind "
        line = f"hostname {name}; {mount}{self.work}/disk {self.shared}; exec {command}"
        spaces = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*spaces, "sh", "-ec", line]

    def ready(self) -> None:
        """Wait for the nodes."""
        idle = lambda: say("sinfo", "-h", "-p", "low", "-o", "%T %D") == f"idle {len(NODES)}"  # noqa: E731
        until(idle, "nodes that are idle", 120)

    def kill(self, node: str) -> None:
        """Pull a node's plug."""
        send(self.daemons[node], signal.SIGKILL)

    def stop(self) -> None:
        """All of it."""
        for name in NODES:
            if self.daemons[name].poll() is None:
                self.kill(name)
        for name in ("controller", "munge"):
            self.daemons[name].terminate()
            self.daemons[name].wait(30)


@dataclass
class Trial:
    """One sweep on the cluster, and what was done to it.

    Attributes:
        cluster: where it runs.
        name: of its folder.
        late: whether nodes and command see the shared folder late.
    """

    cluster: Cluster
    name: str
    late: bool = False
    replaced: list[str] = field(default_factory=list)
    most: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _command: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        """The sweep's folder, as the disk has it."""
        return self.cluster.work / "disk" / self.name

    def start(self) -> None:
        """The command, as on a login node."""
        out = str(self.cluster.shared / self.name)
        words = pasted([sys.executable, "-m", "racecar.study.cli", "sweep", *SWEEP, "--engine", "slurm", "--out", out])
        with (self.cluster.work / f"{self.name}.log").open("ab") as log:
            machine = self.cluster.machine("login", words, self.late)
            self._command = subprocess.Popen(machine, stdout=log, stderr=log)

    def interrupt(self) -> None:
        """Ctrl-C."""
        assert self._command is not None
        send(self._command, signal.SIGINT)

    def look(self) -> bool:
        """See what is finished, and whether any of it was replaced; always true."""
        for path in self.disk.glob("*/runs/*/*/run.json"):
            with suppress(FileNotFoundError):
                key, found = str(path.relative_to(self.disk)), path.stat().st_ino
                if self._seen.setdefault(key, found) != found:
                    self.replaced.append(key)
                    self._seen[key] = found
        self.most = max(self.most, sum(state != "COMPLETING" for state in jobs().values()))
        return True

    def training(self, count: int = 1) -> dict[str, dict[str, object]]:
        """Claims that are held, by name, once there are so many, and each has a saved state to go on from."""
        found: dict[str, dict[str, object]] = {}

        def there() -> bool:
            if self._command is not None and self._command.poll() is not None:
                raise TimeoutError("the command ended before runs were in training")
            self.look()
            found.clear()
            found.update({n: c for n, c in self.claims().items() if c.get("state") == "held" and c.get("done")})
            return len(found) >= count and len(list(self.disk.glob("*/progress-*.safetensors"))) >= count

        until(there, "runs in training")
        return dict(found)

    def claims(self) -> dict[str, dict[str, object]]:
        """The last one of every name."""
        found = {}
        for folder in (self.disk / "claims").glob("*"):
            numbers = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
            with suppress(OSError, ValueError):
                found[folder.name] = json.loads((folder / str(numbers[-1])).read_text())
        return found

    def end(self, seconds: float = 600) -> float:
        """Wait for the command, and for the queue to be empty; how long the command took from now on."""
        began, command = time.monotonic(), self._command
        assert command is not None
        until(lambda: self.look() and command.poll() is not None, "the command's end", seconds)
        took = time.monotonic() - began
        until(lambda: self.look() and not jobs(), "an empty queue", seconds)
        return took

    def judge(self, reference: Path) -> list[str]:
        """What is not as it has to be; nothing is what is hoped for."""
        wrong = []
        assert self._command is not None
        if self._command.returncode:
            wrong.append(f"the command ended with {self._command.returncode}")
        found, known = contents(self.disk), contents(reference)
        lists = {
            "missing": known.keys() - found.keys(),
            "too many": found.keys() - known.keys(),
            "not the same bytes": {n for n in known.keys() & found.keys() if known[n] != found[n]},
            "written again when finished": set(self.replaced),
        }
        wrong += [f"{len(names)} files {what}, e.g. {min(names)}" for what, names in lists.items() if names]
        for folder in sorted((self.disk / "claims").glob("*-seed-*")):
            ends = Counter(json.loads(p.read_text() or "{}").get("state") for p in folder.iterdir())
            if ends["finished"] != 1:
                wrong.append(f"{folder.name} was finished {ends['finished']} times")
        wrong += [f"{n} is still held" for n, c in self.claims().items() if c["state"] == "held"]
        if self.most > 2:
            wrong.append(f"{self.most} jobs in the queue where two workers were asked for")
        return wrong

    @property
    def taken(self) -> str:
        """How often claims were made, in words."""
        folders = list((self.disk / "claims").glob("*-seed-*"))
        return f"{sum(len(list(f.iterdir())) for f in folders)} for {len(folders)} jobs"


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a sweep's runs, and its table."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("*/runs/**/*")) if p.is_file()}
    return found | {"sweep.md": (folder / "sweep.md").read_bytes()} if (folder / "sweep.md").exists() else found


def jobs() -> dict[str, str]:
    """This sweep's jobs in the queue, and their states."""
    lines = say("squeue", "-h", "-n", "racecar-sweep", "-o", "%A %T").splitlines()
    return dict(line.split() for line in lines)


def job_of(claim: dict[str, object]) -> str:
    """The job that made a claim."""
    return str(claim["holder"]).rpartition(", job ")[2]


def plain(trial: Trial) -> None:
    """nothing"""
    trial.start()


def requeued(trial: Trial) -> None:
    """`scontrol requeue` of a worker in training"""
    trial.start()
    say("scontrol", "requeue", job_of(next(iter(trial.training(2).values()))))


def preempted(trial: Trial) -> None:
    """a job of a higher partition takes a node from a worker for 20 s"""
    trial.start()
    trial.training(2)
    say("sbatch", "-p", "high", "-o", "/dev/null", "--wrap", "sleep 20")
    until(lambda: trial.look() and "PENDING" in jobs().values(), "a worker put back into the queue", 60)


def unplugged(trial: Trial) -> None:
    """SIGKILL of a node: slurmd, worker and all; the node is back after 45 s"""
    trial.start()
    trial.training(2)
    trial.cluster.kill("node1")
    limit = time.monotonic() + 45
    until(lambda: trial.look() and time.monotonic() > limit, "45 s")
    trial.cluster.start("node1")


def killed(trial: Trial) -> None:
    """SIGKILL of both workers, the command goes on"""
    trial.start()
    trial.training(2)
    for job in jobs():
        say("scancel", "--signal=KILL", job)


def called_again(trial: Trial) -> None:
    """Ctrl-C for the command, `scancel` of one of its two workers, and the command once more"""
    trial.start()
    claim = next(iter(trial.training(2).values()))
    trial.interrupt()
    say("scancel", job_of(claim))
    trial.start()


TRIALS: dict[str, Callable[[Trial], None]] = {
    "plain": plain,
    "requeue": requeued,
    "preempt": preempted,
    "node": unplugged,
    "workers": killed,
    "again": called_again,
    "late": plain,
    "late-node": unplugged,
}


def table(rows: list[list[str]], known: int) -> list[str]:
    """What is written."""
    where = environment()
    sshfs = next(line for line in say("sshfs", "-V").splitlines() if line.startswith("SSHFS"))
    return [
        "# A sweep on SLURM, disturbed",
        "",
        f"`{pasted(['python', 'benchmarks/slurm.py', *sys.argv[1:]])}`",
        "",
        f"{where['processor']}, accelerator: {where['accelerator']}; torch {where['torch']}, Python {where['python']}, "
        f"{say('slurmd', '-V')}, submitit {version('submitit')}, {sshfs}, revision "
        f"{where['revision']}. One trial each (n = 1); other programs were running on the same cores, so that seconds "
        "say little.",
        "",
        "A cluster on loopback: two nodes of one CPU, each with a host name, process numbers and mounts of its own; no "
        "accounting database; a partition that preempts the other one (REQUEUE). On it `racecar sweep "
        f"{pasted(SWEEP)} --engine slurm`: two seeds of Std and of RR^1 with three λ, four jobs for two workers.",
        "",
        "Expected of every trial: the command ends with 0; the queue gets empty; each of the runs' files "
        f"({known}, and the table) is there with the bytes of the same sweep run locally and left in peace; no "
        "run.json is replaced once it is there; every job was finished by one claim alone, and none is held; no more "
        "than two jobs of the sweep were queued or running at any time.",
        "",
        *markdown(["trial", "what was done to it", "claims", "time", "what happened"], rows),
        "",
        "The late trials stand for a network file system: the nodes and the command mount the folder by sshfs, each "
        "for itself. For attributes, names (also of what is not there) and listings, sshfs and the kernel each believe "
        f"for {LATE} s what they have seen. sshfs is no NFS: not tried are NFS and Lustre themselves, more than one "
        "real machine, GPUs, and an accounting database.",
    ]


def tried(cluster: Cluster, name: str, reference: Path) -> list[str]:
    """A row of the table."""
    cluster.ready()
    late = name.startswith("late")
    if late:
        for node in NODES:
            cluster.kill(node)
            cluster.start(node, late=True)
        time.sleep(2)
        cluster.ready()
    trial, began = Trial(cluster, name, late), time.monotonic()
    try:
        TRIALS[name](trial)
        trial.end()
        wrong = trial.judge(reference)
    except TimeoutError as error:
        wrong = [str(error)]
        say("scancel", "-n", "racecar-sweep", "--signal=KILL")
        say("scancel", "-n", "racecar-sweep")
    finally:
        if trial._command is not None and trial._command.poll() is None:
            send(trial._command, signal.SIGKILL)
    seen = "nodes and command see changes late" if late else ""
    done = "; ".join(filter(None, [seen, TRIALS[name].__doc__ if not (late and TRIALS[name] is plain) else ""]))
    row = [name, done, trial.taken, f"{time.monotonic() - began:.0f} s", "; ".join(wrong) or "as expected"]
    print(" | ".join(row), flush=True)
    return row


def main() -> None:
    """Run the trials; a table of what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--table", type=Path, help="file to write")
    parser.add_argument("--keep", type=Path, help="a new folder for the cluster, kept afterwards")
    options = parser.parse_args()
    missing = [p for p in PROGRAMS if shutil.which(p) is None] + ([] if SFTP.exists() else [str(SFTP)])
    missing += [] if find_spec("submitit") else ["submitit"]
    if missing or os.geteuid() != 0:
        sys.exit(
            "needs root, Debian's packages slurmd, slurmctld, slurm-client, munge, sshfs and openssh-sftp-server, and "
            f"racecar-training[sweep]; missing: {', '.join(missing) or 'root'}"
        )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped"))  # through the blocks that end the cluster
    os.environ["OMP_NUM_THREADS"] = "1"
    work = options.keep or Path(tempfile.mkdtemp(prefix="racecar-slurm-"))
    work.mkdir(exist_ok=True)
    reference = work / "reference"
    say(sys.executable, "-m", "racecar.study.cli", "sweep", *SWEEP, "--out", str(reference))
    cluster = Cluster(work)
    try:
        rows = [tried(cluster, name, reference) for name in options.trials]
        lines = table(rows, len(contents(reference)) - 1)
    finally:
        cluster.stop()
        if options.keep is None:
            shutil.rmtree(work)
    if options.table:
        write_text(options.table, "\n".join(lines) + "\n")
    if any(row[-1] != "as expected" for row in rows):
        sys.exit("not all as expected")


if __name__ == "__main__":
    main()
