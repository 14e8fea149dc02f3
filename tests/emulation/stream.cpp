/* Streams, events, and the OS thread that is "the device".
 *
 * The device runs the operations of all streams, one at a time, in an order that keeps what CUDA
 * promises (each stream's own order, and events) and is otherwise drawn from the seed. With a seed
 * it is late besides: nothing runs until the host waits or asks, so that a forgotten wait shows. */
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <set>
#include <thread>

#include "inside.h"

/* A host that blocks elsewhere, in MPI, while a peer needs this device gets on after that long. */
enum { LATEST_MS = 20, POLL_US = 20 };

struct emu_event {
    uint64_t recorded, done; /* how often */
    int64_t time_ns;
    int queued; /* operations that name it */
    bool timed, captured, destroyed;
};

namespace {

struct operation {
    enum { work, record, wait } kind;
    emu_work fn;
    emu_event *event;
    uint64_t version; /* of the event */
    uint64_t ticket;  /* when it was enqueued */
};

} // namespace

struct emu_stream {
    std::deque<operation> queue;
    uint64_t pushed, popped;
    emu_capture *capture;
};

/* None of these is ever destroyed: the device's thread may wait on them while the program ends. */
std::mutex &emu_lock = *new std::mutex;
static std::condition_variable &wake_device = *new std::condition_variable;
static std::condition_variable &wake_host = *new std::condition_variable;
static emu_stream &default_stream = *new emu_stream();
static std::vector<cudaStream_t> &streams = *new std::vector<cudaStream_t>{&default_stream};
static std::set<cudaEvent_t> &events = *new std::set<cudaEvent_t>;
static uint64_t tickets, random_state;
static int waiting_hosts;
static bool polled, started;

static emu_stream *stream_of(cudaStream_t s) {
    return s != nullptr ? s : &default_stream;
}

bool emu_known_stream(cudaStream_t s) {
    return s == nullptr || std::find(streams.begin(), streams.end(), s) != streams.end();
}

const std::vector<cudaStream_t> &emu_streams(void) {
    return streams;
}

emu_capture *&emu_capture_of(cudaStream_t s) {
    return stream_of(s)->capture;
}

static bool all_idle(void) {
    for (const emu_stream *s : streams)
        if (!s->queue.empty()) return false;
    return true;
}

/* ---- the device ---- */

static void release_event(emu_event *e) {
    if (--e->queued == 0 && e->destroyed) delete e;
}

static int64_t now_ns(void) {
    auto t = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(t).count();
}

/* Runs the first operation of a stream. False if that must wait for something. */
static bool advance(emu_stream *s, std::unique_lock<std::mutex> *held) {
    operation op = s->queue.front();
    bool done = true;
    if (op.kind == operation::wait) {
        done = op.event->done >= op.version;
    } else if (op.kind == operation::record) {
        op.event->done = std::max(op.event->done, op.version);
        op.event->time_ns = now_ns();
    } else if (emu_sticky == cudaSuccess) { /* a broken device does nothing any more */
        emu_open_memory(true);
        held->unlock();
        done = (*op.fn)();
        held->lock();
    }
    if (!done) return false;
    s->queue.pop_front();
    s->popped++;
    if (op.event != nullptr) release_event(op.event);
    return true;
}

/* The streams that have something to do, the one to be tried first in front. */
static std::vector<emu_stream *> candidates(void) {
    std::vector<emu_stream *> c;
    for (emu_stream *s : streams)
        if (!s->queue.empty()) c.push_back(s);
    if (emu_environment().seed == 0) {
        std::sort(c.begin(), c.end(), [](const emu_stream *a, const emu_stream *b) {
            return a->queue.front().ticket < b->queue.front().ticket;
        });
    } else {
        for (size_t i = c.size(); i > 1; i--)
            std::swap(c[i - 1], c[(random_state = emu_mix(random_state)) % i]);
    }
    return c;
}

static bool wanted(void) {
    return waiting_hosts > 0 || polled;
}

static void device_main(void) {
    const bool late = emu_environment().seed != 0;
    bool overdue = false;
    emu_block_prepare();
    std::unique_lock<std::mutex> held(emu_lock);
    for (;;) {
        if (all_idle()) {
            emu_open_memory(false);
            overdue = false;
            wake_host.notify_all();
            wake_device.wait(held, [] { return !all_idle(); });
        }
        if (late && !overdue && !wanted()) {
            emu_open_memory(false);
            overdue = !wake_device.wait_for(held, std::chrono::milliseconds(LATEST_MS), wanted);
        }
        polled = false;
        bool moved = false;
        for (emu_stream *s : candidates())
            if ((moved = advance(s, &held))) break;
        if (waiting_hosts > 0) wake_host.notify_all();
        if (!moved) { /* all wait: for a peer, or for a record that the host has yet to enqueue */
            emu_open_memory(false);
            wake_device.wait_for(held, std::chrono::microseconds(POLL_US));
        }
    }
}

/* ---- enqueueing ---- */

static void start(void) {
    if (started) return;
    started = true;
    random_state = emu_mix(emu_environment().seed);
    std::thread(device_main).detach();
}

static void push(emu_stream *s, operation op) {
    start();
    op.ticket = tickets++;
    if (op.event != nullptr) op.event->queued++;
    s->queue.push_back(std::move(op));
    s->pushed++;
    wake_device.notify_one();
}

cudaError_t emu_append(cudaStream_t cs, const emu_work *work, size_t n) {
    if (!emu_known_stream(cs)) return cudaErrorInvalidResourceHandle;
    if (emu_sticky != cudaSuccess) return emu_sticky;
    emu_stream *s = stream_of(cs);
    if (s->capture != nullptr) {
        if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
        auto &to = s->capture->graph->work;
        to.insert(to.end(), work, work + n);
        return cudaSuccess;
    }
    for (size_t i = 0; i < n; i++)
        push(s, {operation::work, work[i], nullptr, 0, 0});
    return cudaSuccess;
}

cudaError_t emu_enqueue(cudaStream_t s, std::function<bool()> fn) {
    emu_work work = std::make_shared<const std::function<bool()>>(std::move(fn));
    std::lock_guard<std::mutex> held(emu_lock);
    cudaError_t error = emu_append(s, &work, 1);
    return error == cudaSuccess ? error : emu_error(error);
}

/* ---- waiting ---- */

template <class Condition> static void wait_until(Condition reached) {
    std::unique_lock<std::mutex> held(emu_lock);
    waiting_hosts++;
    wake_device.notify_one();
    wake_host.wait(held, reached);
    waiting_hosts--;
}

void emu_wait_idle(void) {
    wait_until(all_idle);
}

void emu_wait_stream(cudaStream_t cs) {
    emu_stream *s = stream_of(cs);
    uint64_t all;
    {
        std::lock_guard<std::mutex> held(emu_lock);
        all = s->pushed;
    }
    wait_until([=] { return s->popped >= all; });
}

/* What a waiting call returns once it has waited. */
static cudaError_t waited(void) {
    std::lock_guard<std::mutex> held(emu_lock);
    return emu_sticky == cudaSuccess ? cudaSuccess : emu_error(emu_sticky);
}

/* Captures of these streams do not survive that the host waits for them. */
static cudaError_t refuse_wait(const cudaStream_t *s, size_t n) {
    cudaError_t error = cudaSuccess;
    std::lock_guard<std::mutex> held(emu_lock);
    for (size_t i = 0; i < n; i++) {
        if (!emu_known_stream(s[i])) return emu_error(cudaErrorInvalidResourceHandle);
        emu_capture *c = emu_capture_of(s[i]);
        if (c == nullptr) continue;
        c->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error == cudaSuccess ? error : emu_error(error);
}

cudaError_t cudaDeviceSynchronize(void) {
    std::vector<cudaStream_t> all;
    {
        std::lock_guard<std::mutex> held(emu_lock);
        all = streams;
    }
    cudaError_t error = refuse_wait(all.data(), all.size());
    if (error != cudaSuccess) return error;
    emu_wait_idle();
    return waited();
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    cudaError_t error = refuse_wait(&s, 1);
    if (error != cudaSuccess) return error;
    emu_wait_stream(s);
    return waited();
}

static void poll(void) {
    polled = true;
    wake_device.notify_one();
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
    cudaError_t error = refuse_wait(&s, 1);
    if (error != cudaSuccess) return error;
    std::lock_guard<std::mutex> held(emu_lock);
    if (emu_sticky != cudaSuccess) return emu_error(emu_sticky);
    if (stream_of(s)->queue.empty()) return cudaSuccess;
    poll();
    return cudaErrorNotReady;
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    if (flags > cudaStreamNonBlocking) return emu_error(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> held(emu_lock);
    *out = new emu_stream();
    streams.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    {
        std::lock_guard<std::mutex> held(emu_lock);
        if (s == nullptr || !emu_known_stream(s))
            return emu_error(cudaErrorInvalidResourceHandle);
    }
    emu_wait_stream(s);
    std::lock_guard<std::mutex> held(emu_lock);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    if (s->capture != nullptr) delete s->capture->graph;
    delete s->capture;
    delete s;
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    emu_event *e = new emu_event();
    e->timed = (flags & cudaEventDisableTiming) == 0;
    std::lock_guard<std::mutex> held(emu_lock);
    events.insert(e);
    *out = e;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (events.erase(e) == 0) return emu_error(cudaErrorInvalidResourceHandle);
    e->destroyed = true;
    if (e->queued == 0) delete e;
    return cudaSuccess;
}

static cudaError_t check_event(cudaEvent_t e) {
    if (events.count(e) == 0) return emu_error(cudaErrorInvalidResourceHandle);
    if (emu_sticky != cudaSuccess) return emu_error(emu_sticky);
    return cudaSuccess;
}

/* Within a capture the order of one stream is all there is: captures of several streams into one
 * graph are not modelled. */
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t cs) {
    std::lock_guard<std::mutex> held(emu_lock);
    cudaError_t error = check_event(e);
    if (error != cudaSuccess) return error;
    if (!emu_known_stream(cs)) return emu_error(cudaErrorInvalidResourceHandle);
    emu_stream *s = stream_of(cs);
    if (s->capture != nullptr && s->capture->invalid)
        return emu_error(cudaErrorStreamCaptureInvalidated);
    e->captured = s->capture != nullptr;
    if (!e->captured) push(s, {operation::record, nullptr, e, ++e->recorded, 0});
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t cs, cudaEvent_t e, unsigned flags) {
    std::lock_guard<std::mutex> held(emu_lock);
    cudaError_t error = check_event(e);
    if (error != cudaSuccess) return error;
    if (!emu_known_stream(cs)) return emu_error(cudaErrorInvalidResourceHandle);
    if (flags != 0) return emu_error(cudaErrorInvalidValue);
    emu_stream *s = stream_of(cs);
    if (s->capture != nullptr && s->capture->invalid)
        return emu_error(cudaErrorStreamCaptureInvalidated);
    if (e->captured != (s->capture != nullptr)) {
        if (s->capture != nullptr) s->capture->invalid = true;
        return emu_error(e->captured ? cudaErrorNotSupported : cudaErrorStreamCaptureIsolation);
    }
    if (!e->captured && e->done < e->recorded)
        push(s, {operation::wait, nullptr, e, e->recorded, 0});
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    std::lock_guard<std::mutex> held(emu_lock);
    cudaError_t error = check_event(e);
    if (error != cudaSuccess) return error;
    if (e->captured) return emu_error(cudaErrorCapturedEvent);
    if (e->done >= e->recorded) return cudaSuccess;
    poll();
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    uint64_t version;
    {
        std::lock_guard<std::mutex> held(emu_lock);
        cudaError_t error = check_event(e);
        if (error != cudaSuccess) return error;
        if (e->captured) return emu_error(cudaErrorCapturedEvent);
        version = e->recorded;
    }
    wait_until([=] { return e->done >= version; });
    return waited();
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    std::lock_guard<std::mutex> held(emu_lock);
    cudaEvent_t both[] = {begin, end};
    bool ready = true;
    for (cudaEvent_t e : both) {
        cudaError_t error = check_event(e);
        if (error != cudaSuccess) return error;
        if (!e->timed || e->captured || e->recorded == 0)
            return emu_error(cudaErrorInvalidResourceHandle);
        ready = ready && e->done >= e->recorded;
    }
    if (!ready) return cudaErrorNotReady;
    *milliseconds = (float)((double)(end->time_ns - begin->time_ns) * 1e-6);
    return cudaSuccess;
}
