"""stacks.py [gdb]: makes thirty-four allocations on thirty-two lines, and five operations. Prints Python's own traceback of
each. gdb: first waits for a line on stdin, and makes twenty more allocations at the end (see gdb_stacks.py)."""
import os, signal, sys, threading, traceback

from common import say, ttnn

device = ttnn.open_device(device_id=0)
noted, lock = [], threading.Lock()
if "gdb" in sys.argv:
    say(pid=os.getpid())
    sys.stdin.readline()


def note(tensor):
    frames = traceback.extract_stack()[:-1]
    with lock:
        noted.append((tensor, [(frame.filename, frame.lineno, frame.name) for frame in reversed(frames)]))
    return tensor


def empty(size=32):
    return ttnn.empty((1, 1, size, size), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)


def direct():
    note(ttnn.empty((1, 1, 32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.empty((1, 1, 32, 64), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.empty((1, 1, 64, 64), dtype=ttnn.float32, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.empty((3, 1, 10, 20), dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device))
    note(ttnn.empty((1, 1, 32, 32), dtype=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.zeros((1, 1, 32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.ones((1, 1, 32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device))
    note(ttnn.full((1, 1, 32, 32), 7, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device))


def nested(depth):
    if depth == 0:
        return note(empty())
    return nested(depth - 1)


class Layer:
    weight = note(empty())

    def __init__(self):
        self.bias = note(empty())

    def forward(self):
        return note(empty())

    @classmethod
    def made(cls):
        return note(empty())

    @staticmethod
    def loose():
        return note(empty())

    @property
    def lazily(self):
        return note(empty())

    def __call__(self):
        return note(empty())


def generator():
    yield note(empty())
    yield note(empty())


def with_closure(size):
    def inner():
        return note(empty(size))

    return inner


def in_except():
    try:
        raise KeyError("no such tensor")
    except KeyError:
        note(empty())
    finally:
        note(empty())


class Context:
    def __enter__(self):
        note(empty())

    def __exit__(self, *_):
        note(empty())


direct()
nested(0)
nested(5)
nested(60)
layer = Layer()
layer.forward()
Layer.made()
Layer.loose()
layer.lazily
layer()
list(generator())
with_closure(96)()
in_except()
with Context():
    note(empty())
(lambda: note(empty()))()
[note(empty()) for _ in range(1)]
{key: note(empty()) for key in "a"}
list(map(lambda _: note(empty()), [0]))
sorted([2], key=lambda _: note(empty()).shape[0])
thread = threading.Thread(target=lambda: note(empty()))
thread.start()
thread.join()
# On one line: versions of Python differ in which line of a call they report.
eval("note(empty())")
a, b = note(empty(64)), None

b = note(ttnn.matmul(a, a))
c = note(ttnn.softmax(b, dim=-1))
d = note(ttnn.add(b, c))
e = note(ttnn.to_memory_config(d, ttnn.L1_MEMORY_CONFIG))
f = note(ttnn.multiply(d, d))

if "gdb" in sys.argv:
    for depth in range(20):
        nested(depth)

say(buffers=[{"address": tensor.buffer_address(), "frames": frames} for tensor, frames in noted])
os.kill(os.getpid(), signal.SIGKILL)
