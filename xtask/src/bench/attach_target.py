"""The program that `cargo xtask bench` attaches to: attach_target.py CLUSTER.yaml BUFFERS one|many.

Holds BUFFERS device buffers and 2 GiB of resident memory, in one block or in many small ones. Prints
"ready", then loops as fast as it can. For each line on stdin it prints its resident memory in KiB and
the longest iteration since the last line in nanoseconds.
"""

import os
import sys
import threading
import time

cluster, buffers, kind = sys.argv[1:]
os.environ["TT_METAL_MOCK_CLUSTER_DESC_PATH"] = cluster
os.environ.setdefault("TT_LOGGER_LEVEL", "error")
import ttnn  # noqa: E402

GIB = 1 << 30
device = ttnn.open_device(device_id=0)
kept = [
    ttnn.empty((1, 1, 32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
    for _ in range(int(buffers))
]
# Small enough for malloc's heap, large enough to be written quickly.
memory = bytearray(b"1") * (2 * GIB) if kind == "one" else [bytearray(b"1") * 60000 for _ in range(2 * GIB // 60016)]

asked = threading.Event()


def listen():
    for _ in sys.stdin:
        asked.set()
    os._exit(0)


threading.Thread(target=listen, daemon=True).start()
# The listening thread needs the interpreter only when a line comes.
answers = os.fdopen(os.dup(1), "w", buffering=1)
answers.write("ready\n")
longest, last = 0, time.perf_counter_ns()
while True:
    now = time.perf_counter_ns()
    longest, last = max(longest, now - last), now
    if asked.is_set():
        asked.clear()
        resident = int(open("/proc/self/statm").read().split()[1]) * 4
        answers.write(f"{resident} {longest}\n")
        longest, last = 0, time.perf_counter_ns()
