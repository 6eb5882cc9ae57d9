"""Asks for more memory than there is, catches TT-Metal's exception, and continues.

out_of_memory.py [wait]. wait: first reads lines on stdin. For a line "poke" it allocates and frees a small tensor; any
other line lets it continue.
"""
import os, sys

from common import live, say, ttnn, wait

device = ttnn.open_device(device_id=0)
spec = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)
say(ready=True)
while "wait" in sys.argv and wait() == "poke":
    ttnn.deallocate(ttnn.empty((1, 1, 32, 32), **spec))
before = ttnn.empty((1, 1, 512, 512), **spec)
for memory in (ttnn.DRAM_MEMORY_CONFIG, ttnn.L1_MEMORY_CONFIG, ttnn.DRAM_MEMORY_CONFIG):
    try:
        ttnn.empty((64, 1, 16384, 16384), memory_config=memory, **spec)
        say(error=None)
    except RuntimeError as error:
        # The backtrace that follows has addresses, which differ in each process.
        say(error=str(error).split("backtrace:")[0])
after = ttnn.empty((1, 1, 256, 512), **spec)
say(live=live(device))
# Ends without freeing the live buffers.
os._exit(0)
