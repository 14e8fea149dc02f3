/* The access checker: races, reads of shared memory that nobody wrote, blocks that write one place.
 *
 * The kernels are compiled with -fsanitize=thread, so the compiler calls __tsan_readN or
 * __tsan_writeN before each access; these functions are here, and libtsan is not linked.
 *
 * A race is two accesses to one byte by different threads, one of them a plain write, with nothing
 * between that orders them: a barrier between threads of a block, __syncwarp of all its lanes
 * between those of a warp, the end of the launch between blocks. (Shuffles order no memory.) It is
 * found whatever order the threads happened to run in. A fence in any block of a launch makes the
 * checker believe that the launch's blocks know what they do. */
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "traffic.h"

enum { WRITE = 1, ATOMIC = 2 };
enum { NOBODY = -1, SEVERAL_OF_WARP = -2, SEVERAL_WARPS = -3 };
enum { PAGE_BYTES = 4096 };

namespace {

/* When: barriers of the block, and __syncwarps of the warp, that had been passed. */
struct moment {
    uint32_t epoch, warp_epoch;
};

struct history { /* of one byte */
    uint64_t block;
    moment written, read;
    const void *write_pc, *read_pc;
    int16_t writer, reader; /* thread, or NOBODY.. */
    int16_t reader_warp;
    bool write_was_atomic;
};

} // namespace

static history *dynamic_history, *static_history;
static std::map<uintptr_t, history *> pages; /* of global memory that a kernel wrote */
static uintptr_t last_page = (uintptr_t)-1;
static history *last_page_history;
static uint32_t warp_epoch[EMU_MAX_THREADS / 32];
static unsigned synced[EMU_MAX_THREADS / 32];
static bool fenced;
static std::set<std::pair<const void *, const void *>> reported;
static const void *reported_of_kernel;

bool emu_checks_accesses(void) {
    return true;
}

/* ---- reports ---- */

static void report(const char *what, const void *pc, const void *other, const void *address) {
    if (!reported.insert({pc, other}).second) return;
    std::string text = std::string(what) + " at " + emu_place(pc);
    if (other != nullptr) text += ", the other access: " + emu_place(other);
    emu_report("%s; address %p; %s", text.c_str(), address, emu_where().c_str());
}

/* ---- one byte ---- */

static history *fresh(history *h) {
    *h = history();
    h->block = emu_now.block;
    h->writer = h->reader = NOBODY;
    return h;
}

/* Is something between an access at `then` by a thread of that warp, and now? */
static bool ordered(moment then, int warp) {
    return then.epoch != emu_now.epoch ||
           (warp == emu_self->warp && then.warp_epoch != warp_epoch[warp]);
}

static moment now(void) {
    return {emu_now.epoch, warp_epoch[emu_self->warp]};
}

static void touch_write(history *h, const void *at, bool atomic, const void *pc) {
    const emu_thread *t = emu_self;
    if (!atomic && h->reader != NOBODY && h->reader != t->id) {
        bool safe = h->reader == SEVERAL_WARPS ? h->read.epoch != emu_now.epoch
                                               : ordered(h->read, h->reader_warp);
        if (!safe) report("race: write after read", pc, h->read_pc, at);
    }
    h->writer = (int16_t)t->id;
    h->written = now();
    h->write_pc = pc;
    h->write_was_atomic = atomic;
}

static void touch_read(history *h, const void *pc) {
    const emu_thread *t = emu_self;
    bool others = h->reader != NOBODY && h->reader != t->id && h->read.epoch == emu_now.epoch;
    if (others && h->reader_warp == t->warp && h->read.warp_epoch != warp_epoch[t->warp])
        others = h->reader == SEVERAL_WARPS;
    if (!others)
        h->reader = (int16_t)t->id;
    else if (h->reader == SEVERAL_WARPS || h->reader_warp != t->warp)
        h->reader = SEVERAL_WARPS;
    else
        h->reader = SEVERAL_OF_WARP;
    h->reader_warp = (int16_t)t->warp;
    h->read = now();
    h->read_pc = pc;
}

/* Within the block whose history this is. */
static void touch_byte(history *h, const void *at, int kind, const void *pc) {
    bool write = (kind & WRITE) != 0, atomic = (kind & ATOMIC) != 0;
    if (h->writer != NOBODY && h->writer != emu_self->id && !(h->write_was_atomic && atomic) &&
        !ordered(h->written, h->writer / 32))
        report(write ? "race: write after write" : "race: read after write", pc, h->write_pc,
               at);
    if (write)
        touch_write(h, at, atomic, pc);
    else
        touch_read(h, pc);
}

static void touch_shared(history *h, const char *at, int n, int kind, const void *pc) {
    for (int i = 0; i < n; i++) {
        history *byte = h + i;
        if (byte->block != emu_now.block) fresh(byte);
        if (byte->writer == NOBODY && kind != WRITE)
            report("read of shared memory that nobody wrote", pc, nullptr, at + i);
        touch_byte(byte, at + i, kind, pc);
    }
}

static void touch_global_byte(history *h, const void *at, int kind, const void *pc) {
    bool write = (kind & WRITE) != 0, atomic = (kind & ATOMIC) != 0;
    if (h->block < emu_now.first_block) { /* nothing of this launch */
        if (write) touch_byte(fresh(h), at, kind, pc);
        return;
    }
    if (h->block == emu_now.block) {
        touch_byte(h, at, kind, pc);
        return;
    }
    if (h->writer != NOBODY && !(h->write_was_atomic && atomic) && !fenced)
        report(write ? "two blocks write one place" : "read of what another block wrote", pc,
               h->write_pc, at);
    if (write) touch_byte(fresh(h), at, kind, pc);
}

/* ---- memories ---- */

static history *page_of(uintptr_t page, bool create) {
    if (page == last_page && (last_page_history != nullptr || !create))
        return last_page_history;
    history *&h = pages[page];
    if (h == nullptr && create) {
        h = (history *)calloc(PAGE_BYTES, sizeof *h);
        if (h == nullptr) abort();
    }
    last_page = page;
    last_page_history = h;
    return h;
}

static void touch_global(char *at, int n, int kind, const void *pc) {
    int width = n > 16 ? 16 : n;
    if ((width & (width - 1)) == 0 && (uintptr_t)at % (uintptr_t)width != 0)
        report("misaligned access", pc, nullptr, at);
    for (int i = 0; i < n; i++) {
        uintptr_t address = (uintptr_t)at + (uintptr_t)i;
        history *h = page_of(address / PAGE_BYTES, (kind & WRITE) != 0);
        if (h != nullptr) touch_global_byte(h + address % PAGE_BYTES, at + i, kind, pc);
    }
}

/* The device memory that p lies in or just behind, NULL if none. */
static const emu_range *range_of(const char *p) {
    static size_t last;
    const std::vector<emu_range> &r = emu_device_ranges();
    if (last < r.size() && p >= r[last].begin && p < r[last].begin + r[last].bytes + EMU_GUARD)
        return &r[last];
    size_t low = 0, high = r.size();
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (r[middle].begin <= p)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || p >= r[low - 1].begin + r[low - 1].bytes + EMU_GUARD) return nullptr;
    last = low - 1;
    return &r[last];
}

void emu_touch(const void *p, int n, int kind, const void *pc) {
    /* Host code of a .cu file calls __tsan_ functions as well. */
    if (emu_self == nullptr || n <= 0 || !emu_on_device()) return;
    char *at = (char *)p;
    size_t offset = (size_t)(at - emu_shared);
    if (offset < EMU_SHARED_ROOM) {
        if (offset + (size_t)n > emu_now.shared_bytes)
            report("access past the launch's shared memory", pc, nullptr, p);
        else
            touch_shared(dynamic_history + offset, at, n, kind, pc);
        emu_count(true, (kind & WRITE) != 0, pc, offset, n);
        return;
    }
    offset = (size_t)(at - emu_static_shared);
    if (offset < emu_static_shared_bytes) {
        touch_shared(static_history + offset, at, n, kind, pc);
        emu_count(true, (kind & WRITE) != 0, pc, offset, n);
        return;
    }
    const emu_range *r = range_of(at);
    if (r == nullptr) return; /* the thread's own stack; or for AddressSanitizer to see */
    if (at + n > r->begin + r->bytes)
        report("access past the end of device memory", pc, nullptr, p);
    touch_global(at, n, kind, pc);
    emu_count(false, (kind & WRITE) != 0, pc, (uintptr_t)at, n);
}

/* ---- hooks ---- */

void emu_check_launch(void) {
    fenced = false;
    if (reported_of_kernel != emu_now.kernel) reported.clear(); /* say it again of another */
    reported_of_kernel = emu_now.kernel;
    emu_freeze_ranges();
    if (dynamic_history == nullptr) {
        dynamic_history = (history *)calloc(EMU_SHARED_ROOM, sizeof *dynamic_history);
        static_history = (history *)calloc(emu_static_shared_bytes + 1, sizeof *static_history);
        if (dynamic_history == nullptr || static_history == nullptr) abort();
    }
    emu_count_launch();
}

void emu_check_block_begin(void) {
    memset(warp_epoch, 0, sizeof warp_epoch);
    memset(synced, 0, sizeof synced);
}

void emu_check_block_end(void) {
    emu_count_block();
}

void emu_check_exit(void) {
    if (emu_environment().stats) emu_print_traffic();
}

/* Masks of parts of a warp are taken together: the lanes that have met since the last time. */
void emu_syncwarp_mark(unsigned mask) {
    int warp = emu_self->warp;
    synced[warp] |= mask;
    int lanes = emu_now.n_threads - warp * 32;
    unsigned all = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    if ((synced[warp] & all) != all) return;
    synced[warp] = 0;
    warp_epoch[warp]++;
}

void emu_fence_mark(void) {
    fenced = true;
}

/* ---- what the compiler calls ---- */

#define CALLER __builtin_return_address(0)
#define ACCESS(n)                                                                              \
    void __tsan_read##n(void *p) {                                                             \
        emu_touch(p, n, 0, CALLER);                                                            \
    }                                                                                          \
    void __tsan_write##n(void *p) {                                                            \
        emu_touch(p, n, WRITE, CALLER);                                                        \
    }                                                                                          \
    void __tsan_unaligned_read##n(void *p) {                                                   \
        emu_touch(p, n, 0, CALLER);                                                            \
    }                                                                                          \
    void __tsan_unaligned_write##n(void *p) {                                                  \
        emu_touch(p, n, WRITE, CALLER);                                                        \
    }                                                                                          \
    void __tsan_volatile_read##n(void *p) {                                                    \
        emu_touch(p, n, 0, CALLER);                                                            \
    }                                                                                          \
    void __tsan_volatile_write##n(void *p) {                                                   \
        emu_touch(p, n, WRITE, CALLER);                                                        \
    }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
void __tsan_read_range(void *p, unsigned long n) {
    emu_touch(p, (int)n, 0, CALLER);
}
void __tsan_write_range(void *p, unsigned long n) {
    emu_touch(p, (int)n, WRITE, CALLER);
}
}
