/* Whether rows can be exchanged by a recording: tried out, since it depends on NCCL, the driver and
 * the way between the devices. */
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "comm/exchange_device.h"

/* What the probe sends: byte i of rank `from` to rank `to`. */
static unsigned char probe_byte(int from, int to, uint64_t i) {
    return (unsigned char)(1 + 7 * from + 31 * to + 3 * (int)i);
}

typedef struct probe {
    char *device; /* [3][R][unit] bytes: out, in, gathered */
    unsigned char *host;
    uint64_t unit, bytes;
    sy_recording *recording;
} probe;

static sy_status record_probe(sy_exchange *ex, probe *p) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    const sy_device_ops *device = ex->be->ops->device;
    int size = sy_comm_size(ex->comm), me = sy_comm_rank(ex->comm);
    p->unit = 4096;
    p->bytes = 3 * (uint64_t)size * p->unit;
    SY_TRY(sy_mem_alloc(&p->host, p->bytes, "recorded exchange"));
    SY_TRY(ex->be->ops->alloc(ex->be, &p->device, p->bytes, "recorded exchange"));
    for (int r = 0; r < size; r++) {
        for (uint64_t i = 0; i < p->unit; i++)
            p->host[(uint64_t)r * p->unit + i] = probe_byte(me, r, i);
        f->part[r] = (sy_device_wire_part){r, p->device + (uint64_t)r * p->unit, p->unit,
                                           p->device + (uint64_t)(size + r) * p->unit, p->unit};
    }
    SY_TRY(ex->be->ops->write(ex->be, p->device, p->host, p->bytes, NULL));
    SY_TRY(device->record_begin(ex->be));
    st = f->wire->ops->exchange(f->wire, size, f->part);
    sy_device_wire_gather gather = {p->device + (uint64_t)me * p->unit,
                                    p->device + 2 * (uint64_t)size * p->unit, p->unit};
    if (st == SY_OK) st = f->wire->ops->all_gather(f->wire, 1, &gather);
    sy_status ended = device->record_end(ex->be, &p->recording);
    if (st == SY_OK) st = ended;
    if (st == SY_OK && p->recording == NULL) st = SY_ERR_MEMORY;
done:
    return st;
}

/* Whether host holds what all sent here, then what all gathered. */
static bool arrived_all(const probe *p, int me, int size) {
    const unsigned char *in = p->host, *gathered = p->host + (uint64_t)size * p->unit;
    for (int r = 0; r < size; r++)
        for (uint64_t i = 0, at = (uint64_t)r * p->unit; i < p->unit; i++, at++)
            if (in[at] != probe_byte(r, me, i) || gathered[at] != probe_byte(r, r, i))
                return false;
    return true;
}

static sy_status run_probe(sy_exchange *ex, probe *p, double deadline) {
    sy_status st = SY_OK;
    sy_device_wire *wire = ex->device->wire;
    int size = sy_comm_size(ex->comm), me = sy_comm_rank(ex->comm);
    uint64_t region = (uint64_t)size * p->unit;
    for (int i = 0; i < 2; i++) { /* a recording is run again and again */
        memset(p->host, 0, 2 * region);
        SY_TRY(ex->be->ops->write(ex->be, p->device + region, p->host, 2 * region, NULL));
        SY_TRY(ex->be->ops->device->replay(ex->be, p->recording));
        SY_TRY(wire->ops->wait(wire, deadline, true));
        SY_TRY(ex->be->ops->read(ex->be, p->host, p->device + region, 2 * region, NULL));
        if (!arrived_all(p, me, size))
            SY_FAIL(SY_ERR_COMM, "a recorded exchange brought other bytes");
    }
done:
    return st;
}

/* A lack of memory can be mended, so it is said aloud. */
static void tell(sy_status why, const char *what) {
    sy_log(why == SY_ERR_MEMORY ? SY_LOG_WARNING : SY_LOG_DEBUG, "%s: %s", what,
           sy_last_error());
}

/* Whether all ranks say so. */
static sy_status all_say(sy_comm *comm, bool mine, bool *all) {
    sy_status st = SY_OK;
    int n = sy_comm_size(comm);
    int32_t *said = NULL, word = mine;
    SY_TRY(sy_comm_agree(comm, sy_mem_alloc(&said, (uint64_t)n * sizeof *said, "answers")));
    SY_TRY(sy_comm_all_gather(comm, &word, sizeof word, said));
    *all = true;
    for (int r = 0; r < n; r++)
        *all = *all && said[r] != 0;
done:
    sy_mem_free(said, (uint64_t)n * sizeof *said);
    return st;
}

sy_status sy_device_form_probe(sy_exchange *ex, double deadline, bool *works) {
    sy_status st = SY_OK;
    struct sy_device_form *f = ex->device;
    probe p = {0};
    *works = true;
    if (f->wire == NULL) return SY_OK; /* nothing but kernels to record */
    st = record_probe(ex, &p);
    if (st != SY_OK) tell(st, "recording an exchange of rows");
    SY_TRY(all_say(ex->comm, st == SY_OK, works));
    if (*works) {
        st = run_probe(ex, &p, deadline);
        if (st != SY_OK) tell(st, "a recorded exchange of rows");
        SY_TRY(all_say(ex->comm, st == SY_OK, works));
    }
    if (!*works) { /* what is half done in the wire goes with it, after what refers to it */
        ex->be->ops->device->record_free(ex->be, p.recording);
        p.recording = NULL;
        f->wire->ops->destroy(f->wire);
        f->wire = NULL;
        SY_TRY(sy_device_form_connect(ex, NULL));
    }
done:
    ex->be->ops->device->record_free(ex->be, p.recording);
    ex->be->ops->free(ex->be, p.device, p.bytes);
    sy_mem_free(p.host, p.bytes);
    return st;
}
