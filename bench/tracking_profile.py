"""Profile the CPU time of a driver of instant trials, by thread and by function.

    python bench/tracking_profile.py --trials 500

Every few milliseconds, a sampling thread assigns the CPU time that each other thread has used since the last sample to
the functions on its stack. The profile covers the time from the first report to the end of the command, in milliseconds
per trial. Ray's native threads have no Python stack and are listed by name.
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

# A short interval. Otherwise, the sampler sees threads mostly where they wait for something and release the GIL.
SWITCH_SECONDS = 1e-4


class Sampler(threading.Thread):
    """CPU nanoseconds by thread, by function including its callees, and by function alone."""

    def __init__(self, log, *, seconds):
        super().__init__(name="sampler", daemon=True)
        self._log, self._seconds = log, seconds
        self._used_ns: dict[int, int] = {}
        self._ended = threading.Event()
        self.threads, self.inclusive, self.own = Counter(), Counter(), Counter()

    def run(self):
        while not self._log.stat().st_size and not self._ended.wait(self._seconds):
            pass
        self._sample(count=False)
        while not self._ended.wait(self._seconds):
            self._sample()

    def end(self):
        self._ended.set()
        self.join()

    def _sample(self, *, count=True):
        sys.setswitchinterval(1)  # a frame that runs while its stack is read can cause a crash
        stacks = {ident: stack_codes(frame) for ident, frame in sys._current_frames().items()}
        sys.setswitchinterval(SWITCH_SECONDS)
        names = {thread.native_id: (thread.name, stacks.get(thread.ident, [])) for thread in threading.enumerate()}
        for task in os.scandir("/proc/self/task"):
            number = int(task.name)
            try:
                total = int(Path(task.path, "schedstat").read_text(encoding="utf-8").split()[0])
                name, stack = names.get(number) or (
                    f"native: {Path(task.path, 'comm').read_text(encoding='utf-8').strip()}",
                    [],
                )
            except (OSError, IndexError):
                continue  # the thread has ended
            used, self._used_ns[number] = total - self._used_ns.get(number, 0), total
            if count and used and name != self.name:
                self.threads[name] += used
                self.own.update(dict.fromkeys(stack[:1], used))
                self.inclusive.update(dict.fromkeys(stack, used))


def stack_codes(frame):
    """Return the code objects of a stack, innermost first."""
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return codes


def describe(code):
    """Return the file and name of a code object, such as `toprung/records/ledger.py write_epoch`."""
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
    parser.add_argument("--milliseconds", type=float, default=5, help="sampling interval")
    options = parser.parse_args()

    from toprung.cli import main as toprung

    with tempfile.TemporaryDirectory() as folder:
        project = lanes.create_project(Path(folder) / "project")
        size = lanes.Size(options.trials, options.reports)
        log = project / "reports.log"
        log.touch()
        os.environ["TOPRUNG_BENCH_LOG"] = str(log)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(project)
        command = lanes.TOPRUNG.command(size, storage="storage", startup=options.trials + 1)
        sys.argv = command[command.index("toprung") :]
        sys.setswitchinterval(SWITCH_SECONDS)
        sampler = Sampler(log, seconds=options.milliseconds / 1000)
        sampler.start()
        start = time.time()
        try:
            toprung()
        except SystemExit as error:
            print(f"toprung ended with {error.code} after {time.time() - start:.0f} s")
        sampler.end()
        os.chdir("/")
    print_costs("thread", sampler.threads, options)
    print_costs("function including its callees", by_name(sampler.inclusive), options)
    print_costs("function alone", by_name(sampler.own), options)


def by_name(costs):
    result = Counter()
    for code, nanoseconds in costs.items():
        result[describe(code)] += nanoseconds
    return result


def print_costs(kind, costs, options):
    print(f"\nCPU ms per trial, by {kind}")
    for name, nanoseconds in costs.most_common(options.rows):
        print(f"  {nanoseconds / 1e6 / options.trials:8.2f}  {name}")


if __name__ == "__main__":
    main()
