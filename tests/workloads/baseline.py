"""baseline.py [more] [less] [peak] [exit]: allocates five tensors on known lines, and prints TT-Metal's list of them at the
end. It ends by SIGKILL, or with exit code 0, without closing the device: live tensors stay live.

more: one tensor more. less: one fewer. peak: one more that is freed before the end.

The pages of these tensors fill all banks equally, so the bytes in TT-Metal's list are the tensors' own.
"""
import os, signal, sys, traceback

from common import banks, live, say, ttnn

device = ttnn.open_device(device_id=0)
banks = banks(device)
lines = {}


def new(memory, tiles):
    before = {(b["buffer_type"], b["address"]) for b in live(device)}
    shape = [1, 1, 32, 32 * tiles]
    tensor = ttnn.empty(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, device, memory)
    line = next(frame.lineno for frame in reversed(traceback.extract_stack()) if frame.name == "<module>")
    for b in live(device):
        place = b["buffer_type"], b["address"]
        if place not in before:
            lines[place] = line
    return tensor


dram, l1 = ttnn.DRAM_MEMORY_CONFIG, ttnn.L1_MEMORY_CONFIG
weights = [new(dram, 192) for _ in range(3)]
if "less" not in sys.argv:
    cache = new(dram, 384)
scratch = new(l1, 448)
if "more" in sys.argv:
    added = new(dram, 576)
if "peak" in sys.argv:
    ttnn.deallocate(new(l1, 896))
by_line = {}
for b in live(device):
    held = by_line.setdefault(b["buffer_type"], {}).setdefault(lines[b["buffer_type"], b["address"]], [0, 0])
    held[0] += 1
    held[1] += b["bytes_per_bank"] * banks[b["buffer_type"]]
say(live=by_line)
if "exit" in sys.argv:
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
