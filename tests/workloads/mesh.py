"""mesh.py ROWSxCOLUMNS kill|close: allocates tensors on a mesh, frees one, waits for a line on stdin, and ends."""
import os, signal, sys

from common import live, say, ttnn, wait

mesh = ttnn.open_mesh_device(ttnn.MeshShape(*map(int, sys.argv[1].split("x"))))
spec = dict(dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=mesh)
a = ttnn.empty((1, 1, 512, 512), **spec)
b = ttnn.empty((1, 1, 1024, 512), **spec)
s = ttnn.empty((1, 1, 512, 512), memory_config=ttnn.L1_MEMORY_CONFIG, **spec)
c = ttnn.add(a, a)
ttnn.deallocate(b)
# In some releases (0.71.2) its non-owning buffers on the chips live as long as the Python object.
del b
say(pid=os.getpid(), mesh=mesh.id(), chips=mesh.get_device_ids(), live=live(mesh))
wait()
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
ttnn.close_mesh_device(mesh)
say(closed=True)
