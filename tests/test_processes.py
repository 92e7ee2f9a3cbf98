"""Forks, pools and other users of OpenMP: no child ever hangs, and it computes with all its threads what the parent does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/task").is_dir(), reason="needs fork and /proc"),
]

# Seconds that a child may take, which does some milliseconds of work. A child that hangs takes all of them.
LIMIT = 5.0

# What the scripts below share. `work` is one parallel fit; `watched` one whose threads are counted as well.
COMMON = """
    import faulthandler, hashlib, json, os, signal, sys, threading, time, warnings
    import numpy as np

    warnings.filterwarnings("ignore", "This process.*is multi-threaded, use of fork", DeprecationWarning)
    LIMIT = {limit}

    def data(n=30_000, d=16, seed=0):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, d)).astype("f4")  # above a megabyte, so that a team works on it
        return X, (X[:, 0] + rng.standard_normal(n) > 0).astype("f4")

    def work(seed=0):
        import gdfast
        X, y = data(seed=seed)
        newton = gdfast.LogisticRegression(n_jobs=2).fit(X, y)
        sgd = gdfast.SGDClassifier("log_loss", optimizer="adam", batch_size=4096, max_iter=2, tol=None, n_jobs=2,
                                   random_state=0).fit(X, y)
        assert newton.fit_report_["threads"] == sgd.fit_report_["threads"] == 2
        found = newton.coef_.tobytes() + sgd.coef_.tobytes() + newton.predict_proba(X).tobytes()
        return hashlib.sha256(found).hexdigest()

    def watched(seed=0):
        '''(result of work, most threads beside those that were there before)'''
        seen, done = [], threading.Event()

        def watch():
            while not done.is_set():
                seen.append(len(os.listdir("/proc/self/task")))
                time.sleep(0.0005)  # and leave the interpreter to the others

        import gdfast.estimators  # threads that other libraries begin on import are not ours
        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.2)  # workers that rest end themselves, and threads take a moment to leave the table
        seen.clear()
        idle = len(os.listdir("/proc/self/task"))
        result = work(seed)
        if max(seen, default=0) - idle < 2:  # a team lives some milliseconds, which a busy watcher may miss
            X, y = data(300_000, 40)
            gdfast.LogisticRegression(n_jobs=2).fit(X, y)
        done.set()
        watcher.join()
        return result, max(seen) - idle

    def in_child(job):
        '''The exit code of a forked child: 0 where job() is true, 1 where not, 2 for an exception, 9 for a hang.'''
        pid = os.fork()
        if pid == 0:
            code = 2
            faulthandler.register(signal.SIGUSR1)
            try:
                code = 0 if job() else 1
            except BaseException as error:
                sys.stderr.write(f"{{type(error).__name__}}: {{error}}\\n")
            finally:
                sys.stderr.flush()
                os._exit(code)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(pid, signal.SIGUSR1)  # where does it hang?
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 9

    def as_parent_with_a_team(expected):
        result, threads = watched()
        if result != expected or threads < 2:
            sys.stderr.write(f"equal: {{result == expected}}, threads: {{threads}}\\n")
        return result == expected and threads >= 2
"""


def run(tmp_path: Path, code: str, *arguments: Any, limit: float = 60) -> Any:
    """Runs COMMON and `code` as a file of its own (spawned children import it), and reads the JSON that it prints last."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(COMMON.format(limit=LIMIT)) + textwrap.dedent(code))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "LOKY_", "GDFAST_"))}
    done = subprocess.run(
        [sys.executable, str(file), *map(str, arguments)], capture_output=True, text=True, timeout=limit, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr[-3000:]


def assert_all_well(found: tuple[list[int], str], count: int) -> None:
    codes, words = found
    assert len(codes) == count
    hangs, wrong = codes.count(9), [code for code in codes if code not in (0, 9)]
    assert (hangs, wrong) == (0, []), f"of {count} children {hangs} hung, others ended with {wrong}; {words}"


# --- fork -------------------------------------------------------------------------------------------------------------

AFTER_A_FIT = """
    expected, threads = watched()
    assert threads >= 2, threads
    print(json.dumps([in_child(lambda: as_parent_with_a_team(expected)) for _ in range(int(sys.argv[1]))]))
"""
AFTER_A_CALL = """
    from gdfast.backends import cpu
    from gdfast.losses import LogLoss
    from gdfast.plan import Examples

    X = np.random.default_rng(0).standard_normal((100_000, 28), dtype=np.float32)
    examples, w = Examples(X, (X[:, 0] > 0).astype("f4"), None), np.zeros((29, 1), np.float32)

    def gradient():
        return cpu.gradient(examples, LogLoss(), w, True, 2)[1].tobytes()

    def threads():
        return len(os.listdir("/proc/self/task"))

    before, expected = threads(), gradient()
    assert gradient() == expected
    resting, deadline = threads(), time.monotonic() + LIMIT
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    codes = [0 if resting == before + 2 and threads() == before else 1]  # the worker and the other member of its team
    assert gradient() == expected
    codes += [in_child(lambda: gradient() == expected) for _ in range(int(sys.argv[1]))]
    child = os.fork()
    if child == 0:
        sys.exit(gradient() != expected)  # all is torn down at its end
    print(json.dumps([*codes, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]))
"""
GRANDCHILD = """
    expected = work()

    def child():
        return as_parent_with_a_team(expected) and in_child(lambda: as_parent_with_a_team(expected)) == 0

    print(json.dumps([in_child(child) for _ in range(int(sys.argv[1]))]))
"""


def test_a_call_outside_of_a_fit_leaves_a_team_that_ends_itself_and_no_child_needs(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, AFTER_A_CALL, 5), 7)


def test_children_of_a_process_that_has_fitted(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, AFTER_A_FIT, 20, limit=60 + 20 * LIMIT), 20)


@pytest.mark.long
def test_a_hundred_children_of_a_process_that_has_fitted(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, AFTER_A_FIT, 100, limit=60 + 100 * LIMIT), 100)


def test_grandchildren(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, GRANDCHILD, 5), 5)


@pytest.mark.long
def test_a_hundred_grandchildren(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, GRANDCHILD, 100, limit=60 + 100 * LIMIT), 100)


def test_child_and_parent_fit_at_the_same_time(tmp_path: Path) -> None:
    code = """
        expected = work()
        pids = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if work() == expected else 1)
            pids.append(pid)
            assert work() == expected
        codes, end = [], time.monotonic() + LIMIT
        for pid in pids:
            while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
                time.sleep(0.002)
            if done == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            codes.append(9 if done == (0, 0) else os.waitstatus_to_exitcode(done[1]))
        print(json.dumps(codes))
    """
    assert_all_well(run(tmp_path, code), 4)


DURING_A_FIT = """
    expected = work()
    stop, fits = threading.Event(), []

    def keep_fitting():
        while not stop.is_set():
            fits.append(work())

    thread = threading.Thread(target=keep_fitting)
    thread.start()
    while not fits:
        time.sleep(0.001)
    codes = []
    for i in range(int(sys.argv[1])):
        time.sleep(0.003 * (i % 7))
        codes.append(in_child(lambda: as_parent_with_a_team(expected)))
    stop.set()
    thread.join()
    assert set(fits) == {expected}
    print(json.dumps(codes))
"""


def test_children_born_while_another_python_thread_is_fitting(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, DURING_A_FIT, 10), 10)


@pytest.mark.long
def test_a_hundred_children_born_while_another_python_thread_is_fitting(tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, DURING_A_FIT, 100, limit=60 + 100 * LIMIT), 100)


def test_children_born_in_the_middle_of_a_fit_of_the_same_thread(tmp_path: Path) -> None:
    """A callback runs between epochs, inside of the fit: the child has the fit's worker object, but not its thread."""
    code = """
        import gdfast
        expected, codes = work(), []
        X, y = data()
        model = gdfast.SGDClassifier("log_loss", optimizer="adam", batch_size=4096, max_iter=5, tol=None, n_jobs=2)

        def callback(epoch, loss):
            codes.append(in_child(lambda: as_parent_with_a_team(expected)))

        model._callback = callback
        model.fit(X, y)
        assert work() == expected
        print(json.dumps(codes))
    """
    assert_all_well(run(tmp_path, code), 5)


# --- other users of OpenMP before the fork ----------------------------------------------------------------------------

# gdfast comes into the child first: nothing of it can have prepared the parent
FIRST_IMPORT_IN_THE_CHILD = """
    {other}
    assert "gdfast" not in sys.modules
    count, expected = int(sys.argv[1]), sys.argv[2]
    print(json.dumps([in_child(lambda: as_parent_with_a_team(expected)) for _ in range(count)]))
"""
BOOSTING = """
        from sklearn.ensemble import HistGradientBoostingClassifier
        X, y = data()
        HistGradientBoostingClassifier(max_iter=3).fit(X, y)
"""
TORCH = """
        import torch
        torch.set_num_threads(2)
        a = torch.ones(1000, 1000)
        (a @ a).exp().sum().item()
"""
GOMP = """
        import ctypes
        assert ctypes.CDLL({library!r}).team() == 2
"""


@pytest.fixture(scope="module")
def gomp_user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small library that makes a team with the OpenMP library of the system."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("openmp")
    (folder / "team.c").write_text(
        """
        #include <omp.h>
        int team(void) {
            int size = 0;
            #pragma omp parallel num_threads(2)
            {
                #pragma omp single
                size = omp_get_num_threads();
            }
            return size;
        }
        """
    )
    command = [compiler, "-fopenmp", "-shared", "-fPIC", "-o", str(folder / "team.so"), str(folder / "team.c")]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs a C compiler with OpenMP")
    return folder / "team.so"


def first_import(tmp_path: Path, other: str, count: int = 3) -> None:
    expected, _ = run(tmp_path, "print(json.dumps(work()))")
    code = FIRST_IMPORT_IN_THE_CHILD.replace("    {other}\n", textwrap.indent(textwrap.dedent(other), "    "))
    assert_all_well(run(tmp_path, code, count, expected, limit=60 + count * LIMIT), count)


def test_first_import_in_a_child_of_a_parent_that_boosted(tmp_path: Path) -> None:
    first_import(tmp_path, BOOSTING)


def test_first_import_in_a_child_of_a_parent_that_used_openmp(tmp_path: Path, gomp_user: Path) -> None:
    first_import(tmp_path, GOMP.format(library=str(gomp_user)))


def test_first_import_in_a_child_of_a_parent_that_used_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    first_import(tmp_path, TORCH)


@pytest.mark.long
def test_first_import_in_a_hundred_children(tmp_path: Path, gomp_user: Path) -> None:
    first_import(tmp_path, GOMP.format(library=str(gomp_user)), 50)
    first_import(tmp_path, BOOSTING, 50)


def test_fork_after_gdfast_and_another_user_of_openmp(tmp_path: Path, gomp_user: Path) -> None:
    code = (
        """
        expected = work()
        import ctypes
        assert ctypes.CDLL(LIBRARY).team() == 2
        from sklearn.ensemble import HistGradientBoostingClassifier
        HistGradientBoostingClassifier(max_iter=3).fit(*data())
        assert work() == expected
        print(json.dumps([in_child(lambda: as_parent_with_a_team(expected)) for _ in range(5)]))
    """
    ).replace("LIBRARY", repr(str(gomp_user)))
    assert_all_well(run(tmp_path, code), 5)


# --- pools ------------------------------------------------------------------------------------------------------------

POOL = """
    def job(i):
        return [os.getpid(), *watched(i % 3)]

    def main():
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        method, executor = sys.argv[1:3]
        expected = [work(i % 3) for i in range(8)]
        context = multiprocessing.get_context(method)
        if executor == "Pool":
            with context.Pool(2) as pool:
                found = pool.map_async(job, range(8), chunksize=1).get(timeout=45)
        else:
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                found = list(pool.map(job, range(8), timeout=45))
        assert [row[1] for row in found] == expected
        assert os.getpid() not in {row[0] for row in found}
        print(json.dumps([0 if row[2] >= 2 else 1 for row in found]))

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("executor", ["Pool", "ProcessPoolExecutor"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_of_processes(method: str, executor: str, tmp_path: Path) -> None:
    assert_all_well(run(tmp_path, POOL, method, executor), 8)


def test_loky_workers_compute_what_the_parent_does(tmp_path: Path) -> None:
    code = """
    def job(i):
        import gdfast
        X, y = data(seed=i)
        model = gdfast.LogisticRegression(n_jobs=2).fit(X, y)
        return model.coef_.tobytes().hex(), model.fit_report_["threads"], os.getpid()

    def main():
        import joblib
        here = [job(i) for i in range(4)]
        there = joblib.Parallel(n_jobs=2)(joblib.delayed(job)(i) for i in range(4))
        assert [row[0] for row in there] == [row[0] for row in here]
        assert {row[1] for row in here} == {2}
        assert os.getpid() not in {row[2] for row in there}
        print(json.dumps([row[1] - 1 for row in there]))

    if __name__ == "__main__":
        main()
    """
    assert_all_well(run(tmp_path, code), 4)


# --- the test of the test ---------------------------------------------------------------------------------------------


def test_a_plain_user_of_openmp_does_hang_after_a_fork(tmp_path: Path, gomp_user: Path) -> None:
    """What the children above are spared: without it, this file would prove nothing."""
    code = """
        import ctypes
        library = ctypes.CDLL(LIBRARY)
        assert library.team() == 2
        LIMIT = 1.0
        print(json.dumps([in_child(lambda: library.team() == 2) for _ in range(2)]))
    """.replace("LIBRARY", repr(str(gomp_user)))
    codes, _ = run(tmp_path, code)
    assert codes == [9, 9]
