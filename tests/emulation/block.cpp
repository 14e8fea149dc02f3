/* The threads of one block.
 *
 * Runnable threads are a stack of pointers. A thread that must wait takes the next from there and
 * switches to it, with no scheduler between; one that ends takes the next on its own stack, if
 * that has not started yet. So a kernel without barriers is a plain loop over its threads. */
#include <algorithm>
#include <csignal>
#include <link.h>
#include <map>
#include <pthread.h>
#include <sys/mman.h>

#define EMU_DEFINE_STACK_SWITCH
#include "stack.h"

enum { STACK_BYTES = EMU_ASAN ? 512 * 1024 : 128 * 1024, GUARD_BYTES = 16 * 1024, WARPS = 32 };
enum { GROUPS = 4 }; /* parts of a warp that may be at different instructions */

namespace {

/* A warp instruction that lanes have begun. */
struct meeting {
    unsigned mask, arrived; /* mask 0: none */
    emu_warp_fn fn;
    const char *file;
    int line;
    void *arg[32];
};

struct barrier {
    int arrived, sum, result;
    const char *file;
    int line;
    unsigned lanes[WARPS]; /* who waits */
};

} // namespace

emu_thread *emu_self;
uint3 blockIdx;
dim3 blockDim, gridDim;
emu_run emu_now;
char *emu_shared, *emu_static_shared;
size_t emu_static_shared_bytes;

#ifdef __clang__
extern "C" char __start_sy_shared[] __attribute__((weak));
extern "C" char __stop_sy_shared[] __attribute__((weak));
#endif

static emu_thread thread_[EMU_MAX_THREADS];
static emu_stack stack_[EMU_MAX_THREADS];
static emu_stack *idle[EMU_MAX_THREADS];
static int n_stacks, n_idle;
static emu_stack device_stack; /* of the OS thread, from which blocks are started */
static emu_stack *entering;    /* being switched to: so a fresh one learns which it is */

static emu_thread *ready[EMU_MAX_THREADS]; /* the last runs next */
static int n_ready, alive;
static unsigned warp_alive[WARPS];
static meeting meetings[WARPS][GROUPS];
static barrier block_barrier;
static const std::function<void()> *body;
static cudaError_t failure;

/* ---- order ---- */

static uint64_t random_state;

static unsigned draw(unsigned n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * n >> 32);
}

template <class T> static void shuffle(T *v, int n) {
    for (int i = n - 1; i > 0; i--)
        std::swap(v[i], v[draw((unsigned)i + 1)]);
}

/* Makes the lanes of n warps runnable: in ascending order; with a seed, warps in random order and
 * their lanes too, and one time in eight all lanes of all warps mixed. */
static void make_ready(const unsigned *lanes, int first_warp, int n_warps) {
    bool random = emu_environment().seed != 0;
    unsigned char order[WARPS];
    int begin = n_ready;
    for (int i = 0; i < n_warps; i++)
        order[i] = (unsigned char)(n_warps - 1 - i);
    if (random) shuffle(order, n_warps);
    for (int i = 0; i < n_warps; i++) {
        emu_thread *warp = &thread_[(first_warp + order[i]) * 32];
        int from = n_ready;
        for (unsigned rest = lanes[order[i]]; rest != 0;) {
            int lane = 31 - __builtin_clz(rest);
            rest &= ~(1u << lane);
            warp[lane].waits = emu_thread::running;
            ready[n_ready++] = &warp[lane];
        }
        if (random) shuffle(ready + from, n_ready - from);
    }
    if (random && n_warps > 1 && draw(8) == 0) shuffle(ready + begin, n_ready - begin);
}

/* ---- stacks ---- */

static void thread_main(void);

static emu_stack *new_stack(void) {
    if (n_idle > 0) return idle[--n_idle];
    emu_stack *s = &stack_[n_stacks++];
    if (s->low == nullptr) {
        size_t bytes = STACK_BYTES + GUARD_BYTES;
        void *m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED || mprotect(m, GUARD_BYTES, PROT_NONE) != 0) {
            perror("emu: no memory for the stacks of a kernel's threads");
            abort();
        }
        s->low = (char *)m + GUARD_BYTES;
        s->bytes = STACK_BYTES;
    }
    emu_lay(s, thread_main);
    return s;
}

static void go_to(emu_stack *from, emu_stack *to) {
    entering = to;
    emu_go(from, to);
}

static emu_stack *stack_of(emu_thread *t) {
    if (t->stack == nullptr) {
        t->stack = new_stack();
        t->stack->runs = t;
    }
    return t->stack;
}

/* ---- failure ---- */

[[noreturn]] static void abandon(cudaError_t error) {
    failure = error;
    go_to(emu_self->stack, &device_stack);
    abort(); /* nobody switches back */
}

void emu_fail(const char *what, const char *file, int line) {
    emu_report("%s:%d: %s; %s", file, line, what, emu_where().c_str());
    abandon(cudaErrorLaunchFailure);
}

[[noreturn]] static void fail_stuck(void) {
    std::map<std::pair<std::string, int>, int> waiting;
    std::string text;
    for (int i = 0; i < emu_now.n_threads; i++)
        if (thread_[i].waits != emu_thread::running)
            waiting[{thread_[i].file, thread_[i].line}]++;
    for (auto &w : waiting)
        text += "; " + std::to_string(w.second) + " wait at " + w.first.first + ":" +
                std::to_string(w.first.second);
    emu_report("dead-lock: no thread can go on%s; %d of %d have left; %s", text.c_str(),
               emu_now.n_threads - alive, emu_now.n_threads, emu_where().c_str());
    abandon(cudaErrorLaunchFailure);
}

/* A kernel that touches what is not mapped ends as on a device, with cudaErrorIllegalAddress. */
static struct sigaction host_segv, host_bus; /* what the program does otherwise */
static pthread_t device_thread;

bool emu_on_device(void) {
    return pthread_equal(pthread_self(), device_thread) != 0;
}

static void on_fault(int, siginfo_t *info, void *) {
    if (!emu_on_device() || emu_self == nullptr) {
        sigaction(SIGSEGV, &host_segv, nullptr); /* again, and then to whom it belongs */
        sigaction(SIGBUS, &host_bus, nullptr);
        return;
    }
    char *at = (char *)info->si_addr, *low = emu_self->stack->low;
    bool overflow = at < low && at >= low - GUARD_BYTES;
    emu_report("%s %p; %s", overflow ? "stack overflow at" : "access to illegal address",
               (void *)at, emu_where().c_str());
    abandon(cudaErrorIllegalAddress);
}

static void catch_faults(void) {
    static char fault_stack[64 * 1024];
    stack_t alternative = {};
    struct sigaction action = {};
    alternative.ss_sp = fault_stack;
    alternative.ss_size = sizeof fault_stack;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaltstack(&alternative, nullptr);
    sigaction(SIGSEGV, &action, &host_segv);
    sigaction(SIGBUS, &action, &host_bus);
}

#ifndef __clang__
/* Of the program itself (the first object), the calling thread's variables. */
static int find_thread_locals(struct dl_phdr_info *info, size_t, void *) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
        emu_static_shared = (char *)info->dlpi_tls_data;
        emu_static_shared_bytes = info->dlpi_phdr[i].p_memsz;
    }
    return 1;
}
#endif

static void find_static_shared(void) {
#ifdef __clang__
    emu_static_shared = __start_sy_shared;
    if (__start_sy_shared != nullptr)
        emu_static_shared_bytes = (size_t)(__stop_sy_shared - __start_sy_shared);
#else
    dl_iterate_phdr(find_thread_locals, nullptr);
#endif
}

void emu_block_prepare(void) {
    pthread_attr_t attributes;
    void *low;
    device_thread = pthread_self();
    find_static_shared();
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &low, &device_stack.bytes);
    pthread_attr_destroy(&attributes);
    device_stack.low = (char *)low;
    emu_shared = (char *)mmap(nullptr, EMU_SHARED_ROOM, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (emu_shared == MAP_FAILED) {
        perror("emu: no memory for a block's shared memory");
        abort();
    }
    if (!EMU_ASAN) catch_faults();
}

/* ---- waiting ---- */

static void wait_here(decltype(emu_thread::waits) why, const char *file, int line) {
    emu_thread *self = emu_self;
    self->waits = why;
    self->file = file;
    self->line = line;
    if (n_ready == 0) fail_stuck();
    go_to(self->stack, stack_of(ready[--n_ready]));
    emu_self = self; /* back: whoever let us go on has put us among the ready */
}

static void release_barrier(void) {
    barrier *b = &block_barrier;
    unsigned lanes[WARPS];
    int n_warps = (emu_now.n_threads + 31) / 32;
    memcpy(lanes, b->lanes, sizeof lanes);
    memset(b->lanes, 0, sizeof b->lanes);
    b->arrived = 0;
    b->result = b->sum;
    emu_now.epoch++;
    make_ready(lanes, 0, n_warps);
}

int emu_barrier(int value, const char *file, int line) {
    barrier *b = &block_barrier;
    emu_thread *self = emu_self;
    if (b->arrived == 0) {
        b->sum = 0;
        b->file = file;
        b->line = line;
    } else if (b->line != line || strcmp(b->file, file) != 0) {
        std::string what = std::string("divergent barrier: others wait at the one of ") +
                           b->file + ":" + std::to_string(b->line);
        emu_fail(what.c_str(), file, line);
    }
    b->arrived++;
    b->sum += value;
    if (b->arrived == alive) {
        release_barrier();
    } else {
        b->lanes[self->warp] |= 1u << self->lane;
        wait_here(emu_thread::at_barrier, file, line);
    }
    return b->result;
}

/* All lanes of a meeting that are still there have arrived: one computes for all. */
static void hold(meeting *m, int warp) {
    unsigned lanes = m->arrived;
    m->fn(lanes, m->arg);
    m->mask = 0;
    if (emu_self->warp == warp) lanes &= ~(1u << emu_self->lane);
    if (lanes != 0) make_ready(&lanes, warp, 1);
}

static meeting *find_meeting(unsigned mask, int warp) {
    meeting *none = nullptr;
    for (meeting &m : meetings[warp]) {
        if (m.mask == mask) return &m;
        if (m.mask == 0 && none == nullptr) none = &m;
    }
    return none;
}

void emu_warp(unsigned mask, emu_warp_fn fn, void *arg, const char *file, int line) {
    emu_thread *self = emu_self;
    unsigned lane = 1u << self->lane;
    if ((mask & lane) == 0)
        emu_fail("wrong mask: a warp instruction's lacks the calling lane", file, line);
    meeting *m = find_meeting(mask, self->warp);
    if (m == nullptr) emu_fail("more parts of one warp than the emulation holds", file, line);
    if (m->mask == 0) {
        m->mask = mask;
        m->arrived = 0;
        m->fn = fn;
        m->file = file;
        m->line = line;
    } else if (m->fn != fn || m->line != line || strcmp(m->file, file) != 0) {
        std::string what = std::string("divergent warp instruction: others are at ") + m->file +
                           ":" + std::to_string(m->line);
        emu_fail(what.c_str(), file, line);
    }
    m->arg[self->lane] = arg;
    m->arrived |= lane;
    if (m->arrived == (mask & warp_alive[self->warp]))
        hold(m, self->warp);
    else
        wait_here(emu_thread::at_warp_instruction, file, line);
}

void emu_warp_aligned(emu_warp_fn fn, void *arg, const char *file, int line) {
    if (warp_alive[emu_self->warp] != ~0u)
        emu_fail("an instruction for all 32 lanes, but some have left or never were", file,
                 line);
    emu_warp(~0u, fn, arg, file, line);
}

/* ---- the course of a block ---- */

/* Others do not wait for a thread that has left. */
static void leave(emu_thread *t) {
    warp_alive[t->warp] &= ~(1u << t->lane);
    alive--;
    for (meeting &m : meetings[t->warp])
        if (m.mask != 0 && m.arrived == (m.mask & warp_alive[t->warp])) hold(&m, t->warp);
    if (block_barrier.arrived > 0 && block_barrier.arrived == alive) release_barrier();
}

static void thread_main(void) {
#if EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    emu_stack *s = entering;
    for (;;) {
        s->runs->stack = s;
        emu_self = s->runs;
        (*body)();
        leave(emu_self);
        emu_thread *next = n_ready > 0 ? ready[--n_ready] : nullptr;
        if (next != nullptr && next->stack == nullptr) {
            s->runs = next;
            continue;
        }
        if (next == nullptr && alive > 0) fail_stuck();
        idle[n_idle++] = s;
        go_to(s, next != nullptr ? next->stack : &device_stack);
    }
}

static void lay_out_threads(void) {
    uint3 tid = {0, 0, 0};
    memset(warp_alive, 0, sizeof warp_alive);
    for (int i = 0; i < emu_now.n_threads; i++) {
        emu_thread *t = &thread_[i];
        t->tid = tid;
        t->id = i;
        t->warp = i / 32;
        t->lane = i % 32;
        t->stack = nullptr;
        t->n_copies = t->n_groups = 0;
        warp_alive[t->warp] |= 1u << t->lane;
        if (++tid.x < blockDim.x) continue;
        tid.x = 0;
        if (++tid.y < blockDim.y) continue;
        tid.y = 0;
        tid.z++;
    }
}

/* All ones: NaN as a float of any kind, -1 as an integer. */
static void fill_shared(void) {
    if (emu_static_shared_bytes > 0) memset(emu_static_shared, 0xff, emu_static_shared_bytes);
    memset(emu_shared, 0xff, emu_now.shared_bytes + EMU_GUARD);
}

cudaError_t emu_run_block(const std::function<void()> &thread_body, uint64_t order) {
    random_state = order | 1;
    body = &thread_body;
    failure = cudaSuccess;
    memset(&block_barrier, 0, sizeof block_barrier);
    for (auto &warp : meetings)
        for (meeting &m : warp)
            m.mask = 0;
    fill_shared();
    emu_now.epoch = 0;
    emu_now.block++;
    emu_check_block_begin();
    lay_out_threads();
    alive = emu_now.n_threads;
    n_ready = 0;
    make_ready(warp_alive, 0, (emu_now.n_threads + 31) / 32);
    go_to(&device_stack, stack_of(ready[--n_ready]));
    if (failure != cudaSuccess) n_stacks = n_idle = 0; /* all stacks are laid out anew */
    emu_self = nullptr;
    emu_check_block_end();
    return failure;
}

void *emu_dynamic_shared(void) {
    return emu_shared;
}
