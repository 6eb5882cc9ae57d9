"""Replaces its tensors in a loop until a line comes on stdin; then once more, and prints the list of live buffers.

loop.py kill|close: how it ends.
"""
import os, select, signal, sys

from common import live, say, ttnn

device = ttnn.open_device(device_id=0)
spec = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
tensors = {}
rounds = 0


def round():
    """Replaces each tensor. The old ones are freed by deallocate, or by the end of their last reference."""
    global rounds
    rounds += 1
    for name, height in (("a", 512), ("b", 1024), ("c", 64)):
        old = tensors.get(name)
        tensors[name] = ttnn.empty((1, 1, height, 512), **spec)
        if old is not None and rounds % 2:
            ttnn.deallocate(old)
    tensors["l1"] = ttnn.empty((1, 1, 256, 256), memory_config=ttnn.L1_MEMORY_CONFIG, **spec)
    tensors["sum"] = ttnn.add(tensors["a"], tensors["a"])


round()
say(ready=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    round()
round()
say(rounds=rounds, live=live(device))
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
ttnn.close_device(device)
say(closed=True)
