#include "tt_metal.hpp"

#include <stdexcept>

namespace tt::tt_metal {

namespace {
constexpr DeviceAddr ALIGNMENT = 32;
constexpr DeviceAddr GIB = DeviceAddr(1) << 30;
}  // namespace

AllocatorImpl::AllocatorImpl(int device_id) :
    device_id_(device_id), view_(std::make_unique<Allocator>(this)) {
    banks_[int(BufferType::DRAM)] = {0x100020, 0x100020 + 3 * GIB, {}};
    banks_[int(BufferType::L1)] = {0x19000, 0x16e000, {}};
    banks_[int(BufferType::SYSTEM_MEMORY)] = {0x1000, GIB, {}};
    banks_[int(BufferType::L1_SMALL)] = {0x16e000, 0x176000, {}};
    banks_[int(BufferType::TRACE)] = {0xe0000000, 0xe4000000, {}};
}
AllocatorImpl::~AllocatorImpl() = default;

DeviceAddr AllocatorImpl::allocate_buffer(Buffer* buffer) {
    std::lock_guard lock(mutex_);
    const DeviceAddr size = (buffer->size() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    Bank& bank = banks_[int(buffer->buffer_type())];
    DeviceAddr address = bank.base;
    for (const auto& [taken, end] : bank.taken) {
        if (taken - address >= size) {
            break;
        }
        address = end;
    }
    if (size > bank.end - address) {
        throw std::runtime_error(
            "Out of Memory: Not enough space to allocate " + std::to_string(buffer->size()) + " B, " +
            std::to_string(bank.end - address) + " B free at the end of the bank");
    }
    bank.taken.emplace(address, address + size);
    allocated_.emplace(
        buffer,
        AllocatedBuffer{address, buffer->size(), buffer->buffer_type(), device_id_, buffer->unique_id()});
    return address;
}

void AllocatorImpl::deallocate_buffer(Buffer* buffer) {
    std::lock_guard lock(mutex_);
    banks_[int(buffer->buffer_type())].taken.erase(buffer->address());
    allocated_.erase(buffer);
}

void AllocatorImpl::deallocate_buffers() {
    std::lock_guard lock(mutex_);
    for (Bank& bank : banks_) {
        bank.taken.clear();
    }
    allocated_.clear();
}

const std::unique_ptr<Allocator>& AllocatorImpl::view() const { return view_; }

std::vector<AllocatedBuffer> AllocatorImpl::live() const {
    std::lock_guard lock(mutex_);
    std::vector<AllocatedBuffer> live;
    for (const auto& [buffer, allocated] : allocated_) {
        live.push_back(allocated);
    }
    return live;
}

}  // namespace tt::tt_metal
