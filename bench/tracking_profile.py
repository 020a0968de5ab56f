"""Where the driver of a sweep of instant trials spends its processor time, by thread and by function.

    python bench/tracking_profile.py --trials 500

A thread looks at all others every few milliseconds and gives the CPU time that each has used since the last look to
the functions on its stack. From the first report to the end of the command; milliseconds a trial. Time that Ray's own
native threads use has no Python stack and stands under their names.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import tracking_lanes as lanes

# Short, or the sampler sees a thread mostly where it waits for something and gives up Python's lock by itself.
GIVE_UP_LOCK_SECONDS = 1e-4


class Sampler(threading.Thread):
    """CPU nanoseconds by thread, by function with all it calls, and by function alone."""

    def __init__(self, log, *, seconds):
        super().__init__(name="sampler", daemon=True)
        self._log, self._seconds = log, seconds
        self._spent: dict[int, int] = {}
        self._over = threading.Event()
        self.threads, self.inclusive, self.own = Counter(), Counter(), Counter()

    def run(self):
        while not self._log.stat().st_size and not self._over.wait(self._seconds):
            pass
        self._look(count=False)
        while not self._over.wait(self._seconds):
            self._look()

    def end(self):
        self._over.set()
        self.join()

    def _look(self, *, count=True):
        sys.setswitchinterval(1)  # at once: a frame that goes on while it is walked leads nowhere, or to a crash
        stacks = {ident: walked(frame) for ident, frame in sys._current_frames().items()}
        sys.setswitchinterval(GIVE_UP_LOCK_SECONDS)
        names = {thread.native_id: (thread.name, stacks.get(thread.ident, [])) for thread in threading.enumerate()}
        for task in os.scandir("/proc/self/task"):
            number = int(task.name)
            try:
                spent = int(Path(task.path, "schedstat").read_text(encoding="utf-8").split()[0])
                name, stack = names.get(number) or (
                    f"native: {Path(task.path, 'comm').read_text(encoding='utf-8').strip()}",
                    [],
                )
            except (OSError, IndexError):
                continue  # it ended meanwhile
            used, self._spent[number] = spent - self._spent.get(number, 0), spent
            if count and used and name != self.name:
                self.threads[name] += used
                self.own.update(dict.fromkeys(stack[:1], used))
                self.inclusive.update(dict.fromkeys(stack, used))


def walked(frame):
    """The codes on a stack, the innermost first."""
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return codes


def described(code):
    """`toprung/ledger.py write_epoch`: the file from its package on."""
    parts = Path(code.co_filename).parts
    for root in ("site-packages", "src", f"python{sys.version_info[0]}.{sys.version_info[1]}"):
        if root in parts:
            parts = parts[len(parts) - parts[::-1].index(root) :]
            break
    return f"{'/'.join(parts)} {code.co_qualname}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--reports", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--milliseconds", type=float, default=5, help="between two looks")
    options = parser.parse_args()

    from toprung.cli import main as toprung

    with tempfile.TemporaryDirectory() as folder:
        project = lanes.workbench(Path(folder) / "project")
        size = lanes.Size(options.trials, options.reports)
        log = project / "reports.log"
        log.touch()
        os.environ["TOPRUNG_BENCH_LOG"] = str(log)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(project)
        command = lanes.TOPRUNG.command(size, storage="storage", startup=options.trials + 1)
        sys.argv = command[command.index("toprung") :]
        sys.setswitchinterval(GIVE_UP_LOCK_SECONDS)
        sampler = Sampler(log, seconds=options.milliseconds / 1000)
        sampler.start()
        began = time.time()
        try:
            toprung()
        except SystemExit as ended:
            print(f"toprung ended with {ended.code} after {time.time() - began:.0f} s")
        sampler.end()
        os.chdir("/")
    print_spent("thread", sampler.threads, options)
    print_spent("function with all it calls", by_name(sampler.inclusive), options)
    print_spent("function alone", by_name(sampler.own), options)


def by_name(spent):
    named = Counter()
    for code, nanoseconds in spent.items():
        named[described(code)] += nanoseconds
    return named


def print_spent(what, spent, options):
    print(f"\nCPU ms a trial, by {what}")
    for name, nanoseconds in spent.most_common(options.rows):
        print(f"  {nanoseconds / 1e6 / options.trials:8.2f}  {name}")


if __name__ == "__main__":
    main()
