// Creation, allocation, deallocation and destruction of buffers. Macros change one accessor, for tests of machine code
// that does not show clearly where a field lies (device.cpp has one more, UNSEEN):
//   DISAGREE   the accessor of a field reads another field than the constructor writes
//   OPAQUE     the accessor of a field calls a function that no reader of machine code can follow; the constructor
//              still shows where the field lies
//   CROSSED    the accessor and the constructor agree on a member for page_size that later holds something else: only
//              a running program shows that it isn't the page size
#include "tt_metal.hpp"

#include <stdexcept>

namespace tt::tt_metal {

namespace {
bool emulated_device_seen = false;

[[noreturn]] void fail(const char* what) { throw std::runtime_error(what); }

bool emulated(const IDevice* device) {
    return MetalContext::instance(extract_context_id(device)).get_cluster().target_type == TargetDevice::Emule;
}

#if defined(CROSSED)
DeviceAddr kept_page_size(DeviceAddr page_size) { return opaque(page_size); }
#else
DeviceAddr kept_page_size(DeviceAddr page_size) { return page_size; }
#endif

bool default_bottom_up(BufferType type) { return type == BufferType::DRAM || type == BufferType::TRACE; }
}  // namespace

#if GENERATION == 1

std::atomic<std::size_t> Buffer::next_unique_id = 0;

OUT_OF_LINE Buffer::Buffer(
    IDevice* device,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id,
    bool owns_data,
    Private) :
    size_(size),
    device_(device),
    buffer_layout_(sharding_args.buffer_layout()),
    buffer_type_(buffer_type),
    sub_device_id_(sub_device_id),
    bottom_up_(bottom_up.value_or(default_bottom_up(buffer_type))),
    owns_data_(owns_data),
    page_size_(kept_page_size(page_size)),
    shard_spec_(sharding_args.shard_spec()) {
#if defined(CROSSED)
    reserved_ = page_size;
#endif
    if (device_ == nullptr) {
        fail("Device needs to not be null.");
    }
    if (sub_device_id_.has_value()) {
        sub_device_manager_id_ = device_->get_active_sub_device_manager_id();
    }
    allocator_ = device->allocator_impl().get();
    if (size != 0 && size % page_size != 0) {
        fail("For valid non-interleaved buffers page size must divide buffer size.");
    }
    unique_id_ = next_unique_id.fetch_add(1);
}

std::shared_ptr<Buffer> Buffer::create(
    IDevice* device,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id) {
    TraceScope scope;
    auto buffer = std::make_shared<Buffer>(
        device, size, page_size, buffer_type, sharding_args, bottom_up, sub_device_id, true, Private());
    if (buffer->size_ == 0) {
        buffer->allocation_status_ = AllocationStatus::ALLOCATED;
        return buffer;
    }
    buffer->allocate_impl();
    if (TraceScope::capturing()) {
        CaptureBufferCreate(buffer);
    }
    return buffer;
}

std::shared_ptr<Buffer> Buffer::create(
    IDevice* device,
    DeviceAddr address,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id) {
    TraceScope scope;
    auto buffer = std::make_shared<Buffer>(
        device, size, page_size, buffer_type, sharding_args, bottom_up, sub_device_id, false, Private());
    buffer->address_ = address;
    buffer->allocation_status_ = AllocationStatus::ALLOCATED;
    if (emulated(device)) {
        emulated_device_seen = true;
    }
    if (TraceScope::capturing()) {
        CaptureBufferCreate(buffer);
    }
    return buffer;
}

OUT_OF_LINE void Buffer::allocate_impl() {
    if (GraphTracker::instance().hook_allocate(this)) {
        address_ = 0;
        hooked_allocation_ = true;
    } else {
        if (sub_device_manager_id_.has_value() &&
            **sub_device_manager_id_ != *device_->get_active_sub_device_manager_id()) {
            fail("Sub-device manager changed");
        }
        address_ = allocator_->allocate_buffer(this);
        if (emulated(device_)) {
            emulated_device_seen = true;
        }
    }
#if defined(CROSSED)
    reserved_ = 3;
#endif
    allocation_status_ = AllocationStatus::ALLOCATED;
    GraphTracker::instance().track_allocate(this);
}

void Buffer::deallocate() {
    if (owns_data_) {
        deallocate_impl();
        return;
    }
    if (emulated_device_seen) {
        allocation_status_ = AllocationStatus::DEALLOCATED;
    }
}

void Buffer::mark_as_deallocated() { allocation_status_ = AllocationStatus::DEALLOCATED; }

OUT_OF_LINE void Buffer::deallocate_impl() {
    if (allocation_status_ != AllocationStatus::ALLOCATED) {
        return;
    }
    if (device_->is_initialized() && size_ != 0) {
        GraphTracker::instance().track_deallocate(this);
        if (!GraphTracker::instance().hook_deallocate(this) && !hooked_allocation_) {
            if (emulated(device_)) {
                emulated_device_seen = true;
            }
            allocator_->deallocate_buffer(this);
        }
        TraceScope scope;
        if (TraceScope::capturing()) {
            CaptureBufferDeallocate(*this);
        }
    }
    allocation_status_ = AllocationStatus::DEALLOCATED;
}

Buffer::~Buffer() {
    TraceScope scope;
    if (TraceScope::capturing()) {
        CaptureBufferDelete(*this);
    }
    if (allocation_status_ != AllocationStatus::DEALLOCATED) {
        if (owns_data_) {
            deallocate_impl();
        } else if (emulated_device_seen) {
            allocation_status_ = AllocationStatus::DEALLOCATED;
        }
    }
}

std::uint32_t Buffer::address() const {
    if (allocation_status_ == AllocationStatus::ALLOCATION_REQUESTED) {
        fail("Can only query the address of a buffer that has been allocated");
    }
    return address_;
}
#if defined(DISAGREE) || defined(CROSSED)
DeviceAddr Buffer::page_size() const { return reserved_; }
#elif defined(OPAQUE)
DeviceAddr Buffer::page_size() const { return opaque(page_size_); }
#else
DeviceAddr Buffer::page_size() const { return page_size_; }
#endif
bool Buffer::is_allocated() const { return allocation_status_ == AllocationStatus::ALLOCATED; }
bool Buffer::is_dram() const { return buffer_type_ == BufferType::DRAM || buffer_type_ == BufferType::TRACE; }
bool Buffer::is_l1() const { return buffer_type_ == BufferType::L1 || buffer_type_ == BufferType::L1_SMALL; }
bool Buffer::is_trace() const { return buffer_type_ == BufferType::TRACE; }
std::uint32_t Buffer::num_pages() const { return page_size_ == 0 ? 0 : size_ / page_size_; }
ShardSpecBuffer Buffer::shard_spec() const {
    if (!is_sharded(buffer_layout_)) {
        fail("Buffer not sharded");
    }
    return shard_spec_.value();
}
bool Buffer::is_valid_region(const BufferRegion& region) const { return region.offset + region.size <= size_; }
bool Buffer::is_valid_partial_region(const BufferRegion& region) const {
    return is_valid_region(region) && (region.offset > 0 || region.size != size_);
}
const std::shared_ptr<const BufferPageMapping>& Buffer::get_buffer_page_mapping() {
    if (!is_sharded(buffer_layout_)) {
        fail("Buffer not sharded");
    }
    if (buffer_page_mapping_ == nullptr) {
        buffer_page_mapping_ = std::make_shared<const BufferPageMapping>();
    }
    return buffer_page_mapping_;
}
Allocator* Buffer::allocator() const { return allocator_->view().get(); }

#else

std::atomic<std::size_t> BufferImpl::next_unique_id = 0;

OUT_OF_LINE BufferImpl::BufferImpl(
    IDevice* device,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id,
    bool owns_data) :
    page_size_(kept_page_size(page_size)),
    device_(device),
    size_(size),
    buffer_layout_(sharding_args.buffer_layout()),
    bottom_up_(bottom_up.value_or(default_bottom_up(buffer_type))),
    owns_data_(owns_data),
    sub_device_id_(sub_device_id),
    buffer_type_(buffer_type),
    shard_spec_(sharding_args.shard_spec()) {
#if defined(CROSSED)
    reserved_ = page_size;
#endif
    if (device_ == nullptr) {
        fail("Device needs to not be null.");
    }
    if (sub_device_id_.has_value()) {
        sub_device_manager_id_ = device_->get_active_sub_device_manager_id();
    }
    allocator_ = device->allocator_impl().get();
    if (size != 0 && size % page_size != 0) {
        fail("For valid non-interleaved buffers page size must divide buffer size.");
    }
    unique_id_ = next_unique_id.fetch_add(1);
}

std::shared_ptr<Buffer> BufferImpl::create(
    IDevice* device,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id) {
    TraceScope scope;
    auto buffer = std::make_shared<Buffer>(
        BufferImpl(device, size, page_size, buffer_type, sharding_args, bottom_up, sub_device_id, true));
    BufferImpl* impl = buffer->impl_.get();
    if (impl == nullptr) {
        fail("Buffer is not initialized");
    }
    if (impl->size_ == 0) {
        impl->allocation_status_ = AllocationStatus::ALLOCATED;
        return buffer;
    }
    impl->allocate_impl(*buffer);
    if (TraceScope::capturing()) {
        CaptureBufferCreate(buffer);
    }
    return buffer;
}

std::shared_ptr<Buffer> BufferImpl::create(
    IDevice* device,
    DeviceAddr address,
    DeviceAddr size,
    DeviceAddr page_size,
    BufferType buffer_type,
    const BufferShardingArgs& sharding_args,
    std::optional<bool> bottom_up,
    std::optional<SubDeviceId> sub_device_id) {
    TraceScope scope;
    auto buffer = std::make_shared<Buffer>(
        BufferImpl(device, size, page_size, buffer_type, sharding_args, bottom_up, sub_device_id, false));
    BufferImpl* impl = buffer->impl_.get();
    if (impl == nullptr) {
        fail("Buffer is not initialized");
    }
    impl->address_ = address;
    impl->allocation_status_ = AllocationStatus::ALLOCATED;
    if (emulated(device)) {
        emulated_device_seen = true;
    }
    if (TraceScope::capturing()) {
        CaptureBufferCreate(buffer);
    }
    return buffer;
}

OUT_OF_LINE void BufferImpl::allocate_impl(Buffer& owner) {
    if (GraphTracker::instance().hook_allocate(&owner)) {
        address_ = 0;
        hooked_allocation_ = true;
    } else {
        if (sub_device_manager_id_.has_value() &&
            **sub_device_manager_id_ != *device_->get_active_sub_device_manager_id()) {
            fail("Sub-device manager changed");
        }
        address_ = allocator_->allocate_buffer(&owner);
        if (emulated(device_)) {
            emulated_device_seen = true;
        }
    }
#if defined(CROSSED)
    reserved_ = 3;
#endif
    allocation_status_ = AllocationStatus::ALLOCATED;
    GraphTracker::instance().track_allocate(&owner);
}

void BufferImpl::deallocate(Buffer& owner) {
    if (owns_data_) {
        deallocate_impl(owner);
        return;
    }
    if (emulated_device_seen) {
        allocation_status_ = AllocationStatus::DEALLOCATED;
    }
}

OUT_OF_LINE void BufferImpl::deallocate_impl(Buffer& owner) {
    if (allocation_status_ != AllocationStatus::ALLOCATED) {
        return;
    }
    if (device_->is_initialized() && size_ != 0) {
        GraphTracker::instance().track_deallocate(&owner);
        if (!GraphTracker::instance().hook_deallocate(&owner) && !hooked_allocation_) {
            if (emulated(device_)) {
                emulated_device_seen = true;
            }
            allocator_->deallocate_buffer(&owner);
        }
        TraceScope scope;
        if (TraceScope::capturing()) {
            CaptureBufferDeallocate(owner);
        }
    }
    allocation_status_ = AllocationStatus::DEALLOCATED;
}

bool BufferImpl::is_valid_region(const BufferRegion& region) const { return region.offset + region.size <= size_; }
bool BufferImpl::is_valid_partial_region(const BufferRegion& region) const {
    return is_valid_region(region) && (region.offset > 0 || region.size != size_);
}

OUT_OF_LINE Buffer::Buffer(BufferImpl impl) : impl_(std::make_unique<BufferImpl>(std::move(impl))) {}

Buffer::~Buffer() {
    TraceScope scope;
    if (TraceScope::capturing()) {
        CaptureBufferDelete(*this);
    }
    if (impl_ != nullptr && impl_->allocation_status_ != AllocationStatus::DEALLOCATED) {
        if (impl_->owns_data_) {
            impl_->deallocate_impl(*this);
        } else if (emulated_device_seen) {
            impl_->allocation_status_ = AllocationStatus::DEALLOCATED;
        }
    }
}

BufferImpl* Buffer::impl() {
    if (impl_ == nullptr) {
        fail("Buffer is not initialized");
    }
    return impl_.get();
}
const BufferImpl* Buffer::impl() const {
    if (impl_ == nullptr) {
        fail("Buffer is not initialized");
    }
    return impl_.get();
}
IDevice* Buffer::device() const { return impl_->device_; }
#if defined(DISAGREE)
DeviceAddr Buffer::size() const { return impl_->page_size_; }
#elif defined(OPAQUE)
DeviceAddr Buffer::size() const { return opaque(impl_->size_); }
#else
DeviceAddr Buffer::size() const { return impl_->size_; }
#endif
BufferType Buffer::buffer_type() const { return impl_->buffer_type_; }
TensorMemoryLayout Buffer::buffer_layout() const { return impl_->buffer_layout_; }
std::size_t Buffer::unique_id() const { return impl_->unique_id_; }
bool Buffer::is_allocated() const { return impl_->allocation_status_ == AllocationStatus::ALLOCATED; }
std::uint32_t Buffer::address() const {
    if (impl_->allocation_status_ == AllocationStatus::ALLOCATION_REQUESTED) {
        fail("Can only query the address of a buffer that has been allocated");
    }
    return impl_->address_;
}
#if defined(CROSSED)
DeviceAddr Buffer::page_size() const { return impl_->reserved_; }
#else
DeviceAddr Buffer::page_size() const { return impl_->page_size_; }
#endif
bool Buffer::is_dram() const {
    return impl_->buffer_type_ == BufferType::DRAM || impl_->buffer_type_ == BufferType::TRACE;
}
bool Buffer::is_l1() const {
    return impl_->buffer_type_ == BufferType::L1 || impl_->buffer_type_ == BufferType::L1_SMALL;
}
std::uint32_t Buffer::num_pages() const { return impl_->page_size_ == 0 ? 0 : impl_->size_ / impl_->page_size_; }
bool Buffer::has_shard_spec() const { return impl_->shard_spec_.has_value(); }
ShardSpecBuffer Buffer::shard_spec() const {
    if (!is_sharded(impl_->buffer_layout_)) {
        fail("Buffer not sharded");
    }
    return impl_->shard_spec_.value();
}
const std::shared_ptr<const BufferPageMapping>& Buffer::get_buffer_page_mapping() {
    if (!is_sharded(impl_->buffer_layout_)) {
        fail("Buffer not sharded");
    }
    if (impl_->buffer_page_mapping_ == nullptr) {
        impl_->buffer_page_mapping_ = std::make_shared<const BufferPageMapping>();
    }
    return impl_->buffer_page_mapping_;
}
Allocator* Buffer::allocator() const { return impl_->allocator_->view().get(); }

#endif

}  // namespace tt::tt_metal
