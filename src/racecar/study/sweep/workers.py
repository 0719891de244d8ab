"""What starts the workers of a sweep: processes here, or jobs of a cluster through submitit.

A worker takes from the shared folder whatever nobody trains (:mod:`racecar.study.core.locks`), so an engine only
starts workers and says how many live; which one trains what is never its business.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

import racecar_command
from racecar.study.core.callbacks import Callbacks
from racecar.study.core.errors import StudyError
from racecar.study.core.folder import Study
from racecar.study.core.locks import BEAT, LEASE, STALL, LockError, Locks, LostError, holder_name, job_name
from racecar.study.core.processes import Stop, Stopper
from racecar.study.core.variants import Run
from racecar.study.studies import ReadyStudy

ASK = 30.0  # seconds between questions to SLURM about its queue


@dataclass(frozen=True)
class Job:
    """Runs that one worker trains together or one after the other; what is locked.

    Attributes:
        name: of its lock.
        ready: the study that they belong to.
        runs: which they are.
    """

    name: str
    ready: ReadyStudy
    runs: Sequence[Run]

    @property
    def study(self) -> Study:
        """The study's folder."""
        return self.ready.study

    @property
    def finished(self) -> bool:
        """Whether all its runs are."""
        return all(self.study.finished(r) for r in self.runs)

    def work(self) -> tuple[int, int]:
        """(all, already done), in any unit."""
        return self.ready.work(self.runs)


@dataclass(frozen=True)
class Worker:
    """Trains one job after the other until all are finished or held by others who live; picklable.

    Attributes:
        claims: the folder of their locks.
        jobs: all of the sweep, in the order in which they are taken.
        threads: of torch.
        lease, beat, stall: see :class:`racecar.study.core.locks.Locks`.
    """

    claims: Path
    jobs: Sequence[Job]
    threads: int = 1
    lease: float = LEASE
    beat: float = BEAT
    stall: float = STALL

    def __call__(self, orphaned: Stop = lambda: False) -> str:
        """Work; returns what went wrong, empty for nothing.

        Args:
            orphaned: asked beside signals; stops it at a saved state.
        """
        torch.set_num_threads(self.threads)
        try:
            with Stopper() as stopper:
                if threading.current_thread() is threading.main_thread():
                    # A terminal's Ctrl-C reaches every process and the parent passes it on: only the first one counts.
                    signal.signal(signal.SIGINT, stopper.stop)
                    signal.signal(signal.SIGTERM, stopper.stop)
                self._work(lambda: stopper() or orphaned())
        except Exception as error:
            return f"{error}" if isinstance(error, StudyError | LockError) else f"{error}\n{traceback.format_exc()}"
        return ""

    def checkpoint(self) -> Any:
        """For submitit, at a time limit or a preemption: the job is queued again as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self, stop: Stop) -> None:
        locks = Locks(self.claims, self.lease, self.beat, self.stall)
        idle = time.monotonic()
        # Who finds all held stays for a lease: a holder that died somewhere else is known by then.
        while not stop() and time.monotonic() - idle < self.lease + 2 * self.beat:
            pending = [j for j in self.jobs if not j.finished]
            if not pending:
                return
            if any(self._train(j, locks, stop) for j in pending):
                idle = time.monotonic()
            else:
                time.sleep(min(1.0, self.beat))

    def _train(self, job: Job, locks: Locks, stop: Stop) -> bool:
        """Whether it was this worker's to train."""
        if stop() or (lock := locks.take(job.name)) is None:
            return False

        def stopped() -> bool:  # asked after every step
            lock.alive()
            return stop() or lock.lost

        try:
            lock.advance(job.work()[1])
            ready = replace(job.ready, study=job.study.guarded(lock.check))
            ready.train(job.runs, Callbacks(lock.advance, stop=stopped, alive=lock.alive))
        except LostError as error:
            print(f"racecar: {error}; it is left to that one", file=sys.stderr)
        finally:
            lock.release(finished=job.finished)
        return True


class Census(NamedTuple):
    """The workers of an engine.

    Attributes:
        living: running, or waiting in a queue.
        killed: how many died without a word since the last count.
    """

    living: int
    killed: int


class Engine(Protocol):
    """Starts workers."""

    def start(self) -> None:
        """One more."""

    def count(self) -> Census:
        """How many there are.

        Raises:
            StudyError: one of them failed.
        """

    def end(self, holder: str) -> bool:
        """End a worker that hangs, so that another may be started; whether it is one of these.

        Args:
            holder: as its claims say it, see :attr:`racecar.study.core.locks.State.holder`.
        """

    def finish(self) -> None:
        """All is trained: let those of this machine end."""

    def stop(self) -> str:
        """End the sweep here; returns what the user should know."""


class Processes:
    """Workers as processes of this machine, which end with it.

    Args:
        worker: what each does.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._context = multiprocessing.get_context("spawn")
        self._running: list[tuple[Any, Any]] = []  # with what each has to say at its end; a pipe each, as a killed
        # process may take the lock of a common queue with it

    def start(self) -> None:
        """One more."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_process, args=(self.worker, os.getpid(), sender))
        process.start()
        sender.close()
        self._running.append((process, receiver))

    def count(self) -> Census:
        """How many there are."""
        ended = [(p, said) for p, said in self._running if p.exitcode is not None]
        self._running = [(p, said) for p, said in self._running if p.exitcode is None]
        for process, said in ended:
            if process.exitcode >= 0:
                _raise(said.recv() if said.poll() else f"a worker ended with code {process.exitcode}")
        return Census(len(self._running), sum(p.exitcode < 0 for p, _ in ended))

    def end(self, holder: str) -> bool:
        """Kill it: it does not listen."""
        found = [p for p, _ in self._running if p.pid is not None and holder == holder_name(p.pid)]
        for process in found:
            process.kill()
        return bool(found)

    def finish(self) -> None:
        """They have nothing left to do."""
        self.stop()

    def stop(self) -> str:
        """Stop them at a saved state."""
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()
        return ""


def _process(worker: Worker, parent: int, sender: Any) -> None:
    said = worker(lambda: os.getppid() != parent)
    with suppress(OSError):  # nobody listens any more
        sender.send(said)


def check(engine: str) -> None:
    """Refuse an engine that is not here, before anything is prepared.

    Raises:
        StudyError: submitit is not installed, or there is no SLURM.
    """
    if engine != "local" and (missing := racecar_command.remedy("submitit")):
        raise StudyError(f"this engine needs {missing}; or --engine local")
    if engine == "slurm" and shutil.which("sbatch") is None:
        raise StudyError("no SLURM here (no sbatch): call this on a cluster's login node, or --engine local")


class Submitted:
    """Workers as jobs of SLURM, through submitit. They go on without the process that submitted them.

    Args:
        worker: what each does.
        folder: for the jobs' files and logs; seen by all machines.
        cluster: ``"slurm"``, or ``"local"``: submitit's own, processes of this machine.
        parameters: of :meth:`submitit.AutoExecutor.update_parameters`.

    Raises:
        StudyError: submitit does not know such a parameter, or refuses its value.
    """

    def __init__(self, worker: Worker, folder: Path, cluster: str, parameters: Mapping[str, Any]) -> None:
        import submitit

        self.worker, self.cluster, self._asked = worker, cluster, time.monotonic()
        self._missing: set[str] = set()  # jobs that had left the queue without a result when it was last asked
        defaults = {"name": "racecar-sweep", "timeout_min": 24 * 60, "cpus_per_task": worker.threads}
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**defaults | dict(parameters))
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise StudyError(f"submitit: {' '.join(str(error).split())}") from error
        # What an earlier call has submitted and is still in the queue or running.
        known = [p.name.removesuffix(_PICKLE) for p in sorted(folder.glob(f"*{_PICKLE}"))] if cluster == "slurm" else []
        queue = _queue() if known else {}
        self._running: list[Any] = [submitit.SlurmJob(folder, n) for n in known if queue is None or n in queue]

    def start(self) -> None:
        """Submit one more.

        Raises:
            StudyError: the cluster refuses it.
        """
        try:
            self._running.append(self._executor.submit(self.worker))
        except Exception as error:  # submitit raises many kinds
            raise StudyError(f"the job was not accepted: {' '.join(str(error).split())}") from error

    def count(self) -> Census:
        """How many there are."""
        ended = [j for j in self._running if j.done()] if self.cluster == "local" else self._left()
        self._running = [job for job in self._running if job not in ended]
        killed = 0
        for job in ended:
            if not job.paths.result_pickle.exists():
                killed += 1
            elif (failure := job.exception()) is not None:
                _raise(str(failure))
            else:
                _raise(job.result())
        return Census(len(self._running), killed)

    def _left(self) -> list[Any]:
        """Jobs that have left SLURM's queue; without a result they count from the second time on, as that may be late.

        What is in the queue lives, with a result too: it was stopped, and is queued again.
        """
        if time.monotonic() - self._asked < ASK:
            return []
        self._asked, queue = time.monotonic(), _queue()
        left = [] if queue is None else [job for job in self._running if job.job_id not in queue]
        before, self._missing = self._missing, {j.job_id for j in left if not j.paths.result_pickle.exists()}
        return [job for job in left if job.job_id in before or job.job_id not in self._missing]

    def end(self, holder: str) -> bool:
        """Cancel its job, unless SLURM has seen it end too: it may be queued again, or train something else by now."""
        queue = _queue() or {} if self.cluster == "slurm" else {job.job_id: "" for job in self._running}
        names = {number: job_name(number, restarts) for number, restarts in queue.items()}
        found = [job for job in self._running if job.job_id in names and holder.endswith(names[job.job_id])]
        for job in found:
            job.cancel(check=False)
        return bool(found)

    def finish(self) -> None:
        """Jobs of SLURM see for themselves that nothing is left."""
        if self.cluster == "local":
            for job in self._running:
                job.wait()

    def stop(self) -> str:
        """SLURM's jobs go on; submitit's own processes end."""
        if self.cluster == "local":
            for job in self._running:
                job.cancel()
            return ""
        if not self._running:
            return ""
        names = " ".join(str(job.job_id) for job in self._running)
        return f"racecar: submitted jobs go on; `scancel {names}` ends them, the same command shows how far they are"


_PICKLE = "_submitted.pkl"


def _queue() -> dict[str, str] | None:
    """The user's jobs in SLURM's queue, and how often each was queued again; None where it does not answer.

    submitit asks sacct, which knows nothing on a cluster without an accounting database.
    """
    question = ["squeue", "--noheader", "--Format=JobID,RestartCnt", f"--user={os.getuid()}"]
    try:
        said = subprocess.run(question, check=True, capture_output=True, text=True, timeout=60).stdout
        return dict(line.split() for line in said.splitlines())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _raise(failure: str) -> None:
    if failure:
        raise StudyError(f"training failed; finished runs are kept. {failure}")
