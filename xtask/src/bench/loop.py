"""The program that `cargo xtask bench` measures: loop.py CLUSTER.yaml LIBTT_METAL.

Prints "ready" once the device is open. For a line "N" on stdin it allocates and frees N tensors, and
prints the nanoseconds that each took. For "N RATE" it allocates and frees RATE of N tensors a second,
and prints the nanoseconds that all took. For "dispatch N" it dispatches a cached program N times, and
prints the nanoseconds that each took.
"""

import ctypes
import gc
import os
import sys
import time

cluster, library = sys.argv[1:]
os.environ["TT_METAL_MOCK_CLUSTER_DESC_PATH"] = cluster
os.environ.setdefault("TT_LOGGER_LEVEL", "error")
# Loads this copy of the library first: the loader then uses it instead of the wheel's own of the same name.
ctypes.CDLL(library, ctypes.RTLD_GLOBAL)

import ttnn  # noqa: E402

device = ttnn.open_device(device_id=0)
answers = os.fdopen(os.dup(1), "w", buffering=1)


def run(count):
    empty, deallocate = ttnn.empty, ttnn.deallocate
    shape, dtype, layout = (1, 1, 32, 32), ttnn.bfloat16, ttnn.TILE_LAYOUT
    # Warm up: other processes have used the caches since the last turn.
    for _ in range(count // 5):
        deallocate(empty(shape, dtype, layout, device))
    start = time.perf_counter_ns()
    for _ in range(count):
        deallocate(empty(shape, dtype, layout, device))
    return (time.perf_counter_ns() - start) / count


def run_steadily(count, rate):
    empty, deallocate = ttnn.empty, ttnn.deallocate
    shape, dtype, layout = (1, 1, 32, 32), ttnn.bfloat16, ttnn.TILE_LAYOUT
    start = time.perf_counter_ns()
    for number in range(count):
        due = start + number * 1_000_000_000 // rate
        while time.perf_counter_ns() < due:
            pass
        deallocate(empty(shape, dtype, layout, device))
    return time.perf_counter_ns() - start


tensors = None


def dispatch(count):
    global tensors
    if tensors is None:
        tensors = [ttnn.empty((1, 1, 512, 512), ttnn.bfloat16, ttnn.TILE_LAYOUT, device) for _ in range(2)]
    add, (a, out) = ttnn.add, tensors
    for _ in range(count // 5):
        add(a, a, output_tensor=out)
    start = time.perf_counter_ns()
    for _ in range(count):
        add(a, a, output_tensor=out)
    return (time.perf_counter_ns() - start) / count


gc.disable()
answers.write("ready\n")
for line in sys.stdin:
    words = line.split()
    if words[0] == "dispatch":
        answer = dispatch(int(words[1]))
    elif len(words) == 1:
        answer = run(int(words[0]))
    else:
        answer = run_steadily(int(words[0]), int(words[1]))
    answers.write(f"{answer}\n")
ttnn.close_device(device)
