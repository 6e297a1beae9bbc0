"""What the other sides of the benches share: resident memory and its peak, and the loop that answers words from
standard input. See measure.lua."""

import ctypes
import gc
import sys


def status(field):
    """MB of a field of /proc/self/status: "VmRSS", "VmHWM"."""
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024


def memory_mark():
    """MB now; the peak starts again from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not the network's
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass
    return status("VmRSS")


def serve(**answers):
    """Answers one line for each line "word argument ...", until a word is unknown; every side knows mark and peak."""
    answers.update(mark=memory_mark, peak=lambda: status("VmHWM"))
    for line in sys.stdin:
        words = line.split()
        if not words or words[0] not in answers:
            break
        print(answers[words[0]](*words[1:]), flush=True)
