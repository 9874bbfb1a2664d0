"""Print the bytes of memory that are resident in this process."""

import os
import sys


def resident() -> int:
    """Bytes resident now where the system tells, else the peak.

    Linux is asked through /proc: there, the peak of getrusage includes what the parent had before `exec`.
    """
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(resident())
