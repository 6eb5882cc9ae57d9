// Chips and meshes, each with an allocator of its own. As in TT-Metal, a mesh's allocator allocates on all its chips at
// once. With the macro UNSEEN no code shows where a chip's id lies.
#include "tt_metal.hpp"

namespace tt::tt_metal {

namespace {
constexpr int WORMHOLE = 2;
std::vector<IDevice*> open_devices;
}  // namespace

void DevicePool::add(IDevice* device) { open_devices.push_back(device); }

Device::Device(int id) : allocator_(std::make_unique<AllocatorImpl>(id)), id_(id) {}
Device::~Device() = default;
int Device::arch() const { return WORMHOLE; }
int Device::num_dram_channels() const { return 12; }
std::uint32_t Device::l1_size_per_core() const { return 1499136; }
const std::unique_ptr<AllocatorImpl>& Device::allocator_impl() const { return allocator_; }
SubDeviceManagerId Device::get_active_sub_device_manager_id() const { return SubDeviceManagerId(0); }
bool Device::close() {
    allocator_->deallocate_buffers();
    initialized_ = false;
    return true;
}

namespace distributed {

MeshDeviceImpl::MeshDeviceImpl(int id, std::vector<IDevice*> devices) :
    devices_(std::move(devices)), allocator_(std::make_unique<AllocatorImpl>(id)), mesh_id_(id) {}
MeshDeviceImpl::~MeshDeviceImpl() = default;
int MeshDeviceImpl::arch() const { return WORMHOLE; }
int MeshDeviceImpl::id() const { return mesh_id_; }
std::uint64_t MeshDeviceImpl::build_id() const { return 0; }
std::uint8_t MeshDeviceImpl::num_hw_cqs() const { return 1; }
bool MeshDeviceImpl::is_initialized() const { return initialized_; }
int MeshDeviceImpl::num_dram_channels() const { return 12; }
std::uint32_t MeshDeviceImpl::l1_size_per_core() const { return 1499136; }
const std::unique_ptr<AllocatorImpl>& MeshDeviceImpl::allocator_impl() const { return allocator_; }
SubDeviceManagerId MeshDeviceImpl::get_active_sub_device_manager_id() const { return SubDeviceManagerId(0); }
bool MeshDeviceImpl::close() {
    allocator_->deallocate_buffers();
    for (IDevice* device : devices_) {
        device->close();
    }
    initialized_ = false;
    return true;
}

MeshDevice::MeshDevice(int id, std::vector<IDevice*> devices) :
    pimpl_(std::make_unique<MeshDeviceImpl>(id, std::move(devices))) {}
MeshDevice::~MeshDevice() = default;
// Calls through a pointer to the base class: the real library jumps through the vtable, too.
namespace {
const IDevice& face(const std::unique_ptr<MeshDeviceImpl>& pimpl) { return *pimpl; }
}  // namespace
int MeshDevice::arch() const { return face(pimpl_).arch(); }
int MeshDevice::id() const { return face(pimpl_).id(); }
std::uint64_t MeshDevice::build_id() const { return face(pimpl_).build_id(); }
std::uint8_t MeshDevice::num_hw_cqs() const { return face(pimpl_).num_hw_cqs(); }
bool MeshDevice::is_initialized() const { return face(pimpl_).is_initialized(); }
int MeshDevice::num_dram_channels() const { return face(pimpl_).num_dram_channels(); }
std::uint32_t MeshDevice::l1_size_per_core() const { return face(pimpl_).l1_size_per_core(); }
const std::unique_ptr<AllocatorImpl>& MeshDevice::allocator_impl() const { return face(pimpl_).allocator_impl(); }
SubDeviceManagerId MeshDevice::get_active_sub_device_manager_id() const {
    return face(pimpl_).get_active_sub_device_manager_id();
}
bool MeshDevice::close() { return pimpl_->close(); }
std::vector<IDevice*> MeshDevice::get_devices() const { return pimpl_->devices(); }
std::size_t MeshDevice::num_devices() const { return pimpl_->devices().size(); }

}  // namespace distributed
}  // namespace tt::tt_metal
