"""many.py COUNT [ROWS COLUMNS]: allocates many tensors, on one chip or on a mesh of that shape, and frees some of them.

Prints TT-Metal's list of live buffers and its figures of the banks, waits for a line on stdin, frees and allocates
more, and prints the list again.
"""
import os, signal, sys

from common import live, say, ttnn, wait

count, shape = int(sys.argv[1]), sys.argv[2:]
device = ttnn.open_mesh_device(ttnn.MeshShape(int(shape[0]), int(shape[1]))) if shape else ttnn.open_device(device_id=0)


def tensor(i):
    return ttnn.empty(
        (1, 1, 32, 32 * (1 + i % 7)),
        dtype=ttnn.bfloat16,
        layout=ttnn.TILE_LAYOUT,
        device=device,
        memory_config=ttnn.L1_MEMORY_CONFIG if i % 100 == 1 else ttnn.DRAM_MEMORY_CONFIG,
    )


def banks():
    views = {t.name: ttnn.get_memory_view(device, t) for t in (ttnn.BufferType.DRAM, ttnn.BufferType.L1, ttnn.BufferType.L1_SMALL, ttnn.BufferType.TRACE)}
    return {
        name: dict(
            banks=view.num_banks,
            bytes_per_bank=view.total_bytes_per_bank,
            allocated_per_bank=view.total_bytes_allocated_per_bank,
            free_per_bank=view.total_bytes_free_per_bank,
            largest_free_per_bank=view.largest_contiguous_bytes_free_per_bank,
        )
        for name, view in views.items()
    }


# Every fifth tensor is freed again, so that there are holes.
tensors = [tensor(i) for i in range(count * 5 // 4)]
tensors = [t for i, t in enumerate(tensors) if i % 5]
say(live=live(device), banks=banks())
wait()
del tensors[::2]
tensors += [tensor(i) for i in range(10)]
say(live=live(device))
os.kill(os.getpid(), signal.SIGKILL)
