"""Fills the banks of a device, makes holes in them, and prints after each step what TT-Metal reports of each bank.

bank_maps.py [mesh] [full] [close]. mesh: on two chips. full: asks for more than there is, at the end. close: closes the
device while buffers are live. Waits for a line on stdin after each step.
"""
import os, sys

from common import say, ttnn, wait

TYPES = ttnn.BufferType.DRAM, ttnn.BufferType.L1, ttnn.BufferType.L1_SMALL, ttnn.BufferType.TRACE
# By default these two types of memory have no bytes.
sizes = dict(l1_small_size=32 << 10, trace_region_size=1 << 20) if "full" in sys.argv else {}
if "mesh" in sys.argv:
    device = ttnn.open_mesh_device(ttnn.MeshShape(1, 2), **sizes)
else:
    device = ttnn.open_device(device_id=0, **sizes)


def view():
    """TT-Metal's figures of each bank, by type."""
    figures = {}
    for kind in TYPES:
        of = ttnn.get_memory_view(device, kind)
        figures[kind.name] = dict(
            banks=of.num_banks,
            bytes=of.total_bytes_per_bank,
            allocated=of.total_bytes_allocated_per_bank,
            free=of.total_bytes_free_per_bank,
            largest_free=of.largest_contiguous_bytes_free_per_bank,
        )
    return figures


def interleaved(shape, buffer_type=ttnn.BufferType.DRAM, layout=ttnn.TILE_LAYOUT, dtype=ttnn.bfloat16):
    memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.INTERLEAVED, buffer_type)
    return ttnn.empty(shape, dtype=dtype, layout=layout, device=device, memory_config=memory)


def sharded(kind, shape, shard, grid, layout=ttnn.TILE_LAYOUT, buffer_type=ttnn.BufferType.L1):
    cores = ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(*grid))})
    spec = ttnn.ShardSpec(cores, shard, ttnn.ShardOrientation.ROW_MAJOR)
    memory = ttnn.MemoryConfig(kind, buffer_type, spec)
    return ttnn.empty(shape, dtype=ttnn.bfloat16, layout=layout, device=device, memory_config=memory)


L1, SMALL = ttnn.BufferType.L1, ttnn.BufferType.L1_SMALL
HEIGHT = ttnn.TensorMemoryLayout.HEIGHT_SHARDED
WIDTH = ttnn.TensorMemoryLayout.WIDTH_SHARDED
BLOCK = ttnn.TensorMemoryLayout.BLOCK_SHARDED
held = [
    interleaved((1, 1, 512, 512)),
    interleaved((1, 1, 32, 32)),
    interleaved((1, 1, 1056, 96)),
    # Pages that aren't a multiple of any alignment.
    interleaved((1, 1, 37, 25), layout=ttnn.ROW_MAJOR_LAYOUT),
    interleaved((3, 1, 5, 7), layout=ttnn.ROW_MAJOR_LAYOUT),
    interleaved((1, 1, 64, 96), buffer_type=L1),
    interleaved((1, 1, 3, 9), buffer_type=L1, layout=ttnn.ROW_MAJOR_LAYOUT),
    # The last core's shard is larger than what is left for it.
    sharded(HEIGHT, (1, 1, 96, 64), (64, 64), (0, 1)),
    sharded(HEIGHT, (1, 1, 100, 32), (40, 32), (2, 0), layout=ttnn.ROW_MAJOR_LAYOUT),
    sharded(WIDTH, (1, 1, 32, 256), (32, 64), (3, 0)),
    sharded(BLOCK, (1, 1, 128, 128), (64, 64), (1, 1)),
    sharded(HEIGHT, (1, 1, 64, 32), (32, 32), (1, 0), buffer_type=ttnn.BufferType.DRAM),
]
# Holes of several sizes, one of them from two adjacent buffers.
for freed in (1, 2, 5, 8):
    ttnn.deallocate(held[freed])
say(view=view(), live=len(held) - 4, pid=os.getpid())
wait()
# Some of these fit into the holes, others don't.
held += [
    interleaved((1, 1, 32, 64)),
    interleaved((2, 1, 512, 512)),
    interleaved((1, 1, 2, 5), buffer_type=L1, layout=ttnn.ROW_MAJOR_LAYOUT),
    sharded(HEIGHT, (1, 1, 320, 64), (64, 64), (4, 0)),
]
ttnn.deallocate(held[0])
ttnn.deallocate(held[9])
say(view=view(), live=len(held) - 6)
wait()
if "full" in sys.argv:
    for memory in (ttnn.BufferType.DRAM, L1):
        try:
            interleaved((64, 1, 16384, 16384), buffer_type=memory)
        except RuntimeError:
            say(view=view(), asked=memory.name)
            wait()
        # So that other blocks are free at the next failure.
        held.append(interleaved((1, 1, 64, 64), buffer_type=memory))
    say(view=view(), live=len(held) - 6)
if "close" in sys.argv:
    (ttnn.close_mesh_device if "mesh" in sys.argv else ttnn.close_device)(device)
# Ends without freeing the live buffers.
os._exit(0)
