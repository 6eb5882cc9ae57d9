"""marks.py: allocates and frees tensors in four steps. After each step it prints TT-Metal's list of live buffers by the line
that allocated them, and waits for a line on stdin. At the end it kills itself, so that live buffers stay live.

The pages of these tensors fill all banks equally, so the bytes in TT-Metal's list are the tensors' own.
"""
import os, signal, traceback

from common import banks, live, say, ttnn, wait

device = ttnn.open_device(device_id=0)
banks = banks(device)
lines = {}


def listed():
    """The bytes of each live buffer, by type and address."""
    return {(b["buffer_type"], b["address"]): b["bytes_per_bank"] * banks[b["buffer_type"]] for b in live(device)}


def new(memory, tiles):
    before = listed()
    shape = [1, 1, 32, 32 * tiles]
    tensor = ttnn.empty(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, device, memory)
    line = next(frame.lineno for frame in reversed(traceback.extract_stack()) if frame.name == "<module>")
    for place in listed().keys() - before.keys():
        lines[place] = line
    return tensor


def step(**more):
    by_line = {}
    for (memory, address), size in listed().items():
        held = by_line.setdefault(memory, {}).setdefault(lines[memory, address], [0, 0])
        held[0] += 1
        held[1] += size
    say(pid=os.getpid(), live=by_line, **more)
    wait()


dram, l1 = ttnn.DRAM_MEMORY_CONFIG, ttnn.L1_MEMORY_CONFIG
weights = [new(dram, 192) for _ in range(3)]
cache = new(dram, 384)
scratch = new(l1, 448)
step()
ttnn.deallocate(weights.pop())
ttnn.deallocate(scratch)
kept = new(dram, 192)
for _ in range(5):
    ttnn.deallocate(new(dram, 192))
step()
more = [new(l1, 448), new(dram, 576)]
ttnn.deallocate(cache)
step()
ttnn.deallocate(kept)
step()
os.kill(os.getpid(), signal.SIGKILL)
