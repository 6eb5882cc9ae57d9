// What the functions of a buffer call: the context, the light-metal capture, the graph tracker.
#include "tt_metal.hpp"

namespace tt::tt_metal {

std::uint64_t opaque(std::uint64_t value) { return value; }

MetalContext& MetalContext::instance(ContextId) {
    static MetalContext context;
    return context;
}
Cluster& MetalContext::get_cluster() { return cluster_; }
ContextId extract_context_id(const IDevice* device) { return ContextId(device->arch() >> 8); }

LightMetalCaptureContext::LightMetalCaptureContext() = default;
LightMetalCaptureContext& LightMetalCaptureContext::get() {
    static LightMetalCaptureContext instance;
    return instance;
}
bool LightMetalCaptureContext::is_tracing() const { return tracing_; }
void CaptureBufferCreate(const std::shared_ptr<Buffer>&) {}
void CaptureBufferDelete(const Buffer&) {}
void CaptureBufferDeallocate(const Buffer&) {}
constinit thread_local int TraceScope::depth = 0;

thread_local std::vector<std::shared_ptr<IGraphProcessor>> GraphTracker::processors;
thread_local std::shared_ptr<IGraphHooks> GraphTracker::hook;

GraphTracker& GraphTracker::instance() {
    static GraphTracker tracker;
    return tracker;
}

void GraphTracker::add_hook(const std::shared_ptr<IGraphHooks>& new_hook) { hook = new_hook; }
void GraphTracker::clear_hook() { hook = nullptr; }

bool GraphTracker::hook_allocate(const Buffer* buffer) {
    if (hook == nullptr || !hook->hook_allocate(buffer)) {
        return false;
    }
    std::lock_guard lock(hooked_buffers_mutex_);
    hooked_buffers_.insert(buffer);
    return true;
}

bool GraphTracker::hook_deallocate(Buffer* buffer) {
    if (hook == nullptr || !hook->hook_deallocate(buffer)) {
        return false;
    }
    std::lock_guard lock(hooked_buffers_mutex_);
    hooked_buffers_.erase(buffer);
    return true;
}

void GraphTracker::track_allocate(const Buffer* buffer) {
    if (processors.empty()) {
        return;
    }
    for (auto& processor : processors) {
        processor->track_allocate(buffer);
    }
}

void GraphTracker::track_deallocate(Buffer* buffer) {
    if (processors.empty()) {
        return;
    }
    for (auto& processor : processors) {
        processor->track_deallocate(buffer);
    }
}

}  // namespace tt::tt_metal
