/* Capture and graphs. What a stream is given while it captures goes into a graph, with its
 * arguments as they are then; a graph is a list of such operations in their order.
 *
 * A call that CUDA forbids during a capture gives the error that CUDA gives, and makes the capture
 * invalid, so that its end reports it as well. */
#include <atomic>

#include "inside.h"

struct emu_graph_exec {
    std::vector<emu_work> work;
};

static thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

uint64_t emu_thread_number(void) {
    static std::atomic<uint64_t> last;
    static thread_local uint64_t number = ++last;
    return number;
}

static bool forbids(const emu_capture *c) {
    if (c->mode == cudaStreamCaptureModeRelaxed || thread_mode == cudaStreamCaptureModeRelaxed)
        return false;
    if (c->owner == emu_thread_number()) return true;
    return c->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
}

cudaError_t emu_unsafe_call(void) {
    cudaError_t error = cudaSuccess;
    for (cudaStream_t s : emu_streams()) {
        emu_capture *c = emu_capture_of(s);
        if (c == nullptr || !forbids(c)) continue;
        c->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
    cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (!emu_known_stream(s)) return emu_error(cudaErrorInvalidResourceHandle);
    if (s == nullptr) return emu_error(cudaErrorStreamCaptureUnsupported);
    if (emu_sticky != cudaSuccess) return emu_error(emu_sticky);
    if (emu_capture_of(s) != nullptr) return emu_error(cudaErrorIllegalState);
    emu_capture_of(s) = new emu_capture{new emu_graph, mode, emu_thread_number(), false};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    std::lock_guard<std::mutex> held(emu_lock);
    *out = nullptr;
    if (!emu_known_stream(s)) return emu_error(cudaErrorInvalidResourceHandle);
    emu_capture *c = emu_capture_of(s);
    if (c == nullptr) return emu_error(cudaErrorIllegalState);
    if (c->owner != emu_thread_number() && c->mode != cudaStreamCaptureModeRelaxed) {
        c->invalid = true;
        return emu_error(cudaErrorStreamCaptureWrongThread);
    }
    emu_graph *graph = c->graph;
    bool invalid = c->invalid;
    delete c;
    emu_capture_of(s) = nullptr;
    if (invalid || emu_sticky != cudaSuccess) {
        delete graph;
        return emu_error(invalid ? cudaErrorStreamCaptureInvalidated : emu_sticky);
    }
    *out = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (!emu_known_stream(s)) return emu_error(cudaErrorInvalidResourceHandle);
    const emu_capture *c = emu_capture_of(s);
    *status = c == nullptr ? cudaStreamCaptureStatusNone
              : c->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

/* ---- graphs ---- */

/* nodes NULL: only how many there are. A node is a handle that nothing takes. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n) {
    if (graph == nullptr) return emu_error(cudaErrorInvalidValue);
    size_t there = graph->work.size();
    for (size_t i = 0; nodes != nullptr && i < *n; i++)
        nodes[i] = i < there ? (cudaGraphNode_t)(void *)&graph->work[i] : nullptr;
    if (nodes == nullptr || there < *n) *n = there;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = nullptr;
    if (graph == nullptr) return emu_error(cudaErrorInvalidValue);
    if (emu_graph_fails()) return emu_error(cudaErrorMemoryAllocation);
    *out = new emu_graph_exec{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (exec == nullptr) return emu_error(cudaErrorInvalidValue);
    if (!emu_known_stream(s)) return emu_error(cudaErrorInvalidResourceHandle);
    if (emu_capture_of(s) != nullptr) return emu_error(cudaErrorStreamCaptureUnsupported);
    return emu_sticky == cudaSuccess ? cudaSuccess : emu_error(emu_sticky);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (exec == nullptr) return emu_error(cudaErrorInvalidValue);
    cudaError_t error = emu_append(s, exec->work.data(), exec->work.size());
    return error == cudaSuccess ? error : emu_error(error);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

/* What has been launched keeps its operations. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
