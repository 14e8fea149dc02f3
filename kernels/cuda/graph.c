/* Recordings: the launches of a step as CUDA graphs, cut wherever a call has to be made outside.
 *
 * A recording is a list of parts; a part is a graph, then a call (none behind the last graph).
 * While one is under way the stream captures, in thread-local mode, since other threads may go
 * on using the device (a loader, NCCL's own). Graphs are made ready to run, which takes device
 * memory, when all are captured: if that fails, the launches themselves were still made in full. */
#include <stdlib.h>

#include "kernels/cuda/cuda.h"

typedef struct part {
    cudaGraph_t captured;  /* until the recording ends */
    cudaGraphExec_t graph; /* then; NULL: nothing was launched before the call */
    sy_status (*fn)(void *);
    void *argument;
} part;

struct sy_recording {
    part *part;
    int n, room;
    sy_recording_size size;
};

static sy_status begin_capture(sy_cuda *cu) {
    return SY_CUDA(cu, cudaStreamBeginCapture(cu->stream, cudaStreamCaptureModeThreadLocal));
}

static sy_status append(sy_recording *r, const part *p) {
    if (r->n == r->room) {
        int room = r->room == 0 ? 16 : 2 * r->room;
        part *more = realloc(r->part, (size_t)room * sizeof *more);
        if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a recording");
        r->part = more;
        r->room = room;
    }
    r->part[r->n++] = *p;
    return SY_OK;
}

/* Makes what was captured since the last call into a part. */
static sy_status end_part(sy_cuda *cu, sy_status (*fn)(void *), void *argument) {
    sy_status st = SY_OK;
    sy_recording *r = cu->recording;
    part p = {.fn = fn, .argument = argument};
    SY_TRY(SY_CUDA(cu, cudaStreamEndCapture(cu->stream, &p.captured)));
    SY_TRY(append(r, &p));
    p.captured = NULL;
done:
    if (p.captured != NULL) cudaGraphDestroy(p.captured);
    return st;
}

static sy_status make_ready(sy_cuda *cu, sy_recording *r) {
    sy_status st = SY_OK;
    for (int i = 0; i < r->n; i++) {
        part *p = &r->part[i];
        size_t nodes = 0;
        SY_TRY(SY_CUDA(cu, cudaGraphGetNodes(p->captured, NULL, &nodes)));
        if (nodes > 0) {
            SY_TRY(SY_CUDA(cu, cudaGraphInstantiate(&p->graph, p->captured, 0)));
            SY_TRY(SY_CUDA(cu, cudaGraphUpload(p->graph, cu->stream)));
            r->size.nodes += (int64_t)nodes;
            r->size.graphs++;
        }
        cudaGraphDestroy(p->captured);
        p->captured = NULL;
    }
done:
    return st;
}

sy_status sy_cuda_record_begin(sy_backend *be) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    if (cu->recording != NULL) SY_FAIL(SY_ERR_INTERNAL, "a recording within a recording");
    SY_TRY(SY_CUDA(cu, cudaStreamSynchronize(cu->stream)));
    cu->recording = calloc(1, sizeof *cu->recording);
    if (cu->recording == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a recording");
    cu->recording_status = SY_OK;
    st = begin_capture(cu);
    if (st != SY_OK) {
        free(cu->recording);
        cu->recording = NULL;
    }
done:
    return st;
}

sy_status sy_cuda_outside(sy_backend *be, sy_status (*fn)(void *), void *argument) {
    sy_cuda *cu = sy_cuda_of(be);
    if (cu->recording == NULL) return fn(argument);
    if (cu->recording_status != SY_OK) return cu->recording_status;
    sy_status st = end_part(cu, fn, argument);
    if (st == SY_OK) st = begin_capture(cu);
    cu->recording_status = st;
    return st;
}

sy_status sy_cuda_record_end(sy_backend *be, sy_recording **out) {
    sy_cuda *cu = sy_cuda_of(be);
    sy_status st = cu->recording_status;
    bool no_room = false;
    *out = NULL;
    if (cu->recording == NULL) return sy_fail(SY_ERR_INTERNAL, "the end of no recording");
    if (st == SY_OK) {
        st = end_part(cu, NULL, NULL);
        if (st == SY_OK) {
            st = make_ready(cu, cu->recording);
            no_room = st == SY_ERR_MEMORY;
        }
    } else { /* the stream may still capture: leave that state */
        cudaGraph_t graph = NULL;
        if (cudaStreamEndCapture(cu->stream, &graph) == cudaSuccess && graph != NULL)
            cudaGraphDestroy(graph);
        (void)cudaGetLastError();
    }
    if (st == SY_OK)
        *out = cu->recording;
    else
        sy_cuda_record_free(be, cu->recording);
    cu->recording = NULL;
    cu->recording_status = SY_OK;
    return no_room ? SY_OK : st;
}

sy_status sy_cuda_replay(sy_backend *be, const sy_recording *recording) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    for (int i = 0; i < recording->n; i++) {
        const part *p = &recording->part[i];
        if (p->graph != NULL) SY_TRY(SY_CUDA(cu, cudaGraphLaunch(p->graph, cu->stream)));
        if (p->fn != NULL) SY_TRY(p->fn(p->argument));
    }
done:
    return st;
}

void sy_cuda_record_free(sy_backend *be, sy_recording *recording) {
    (void)be;
    if (recording == NULL) return;
    for (int i = 0; i < recording->n; i++) {
        const part *p = &recording->part[i];
        if (p->graph != NULL) cudaGraphExecDestroy(p->graph);
        if (p->captured != NULL) cudaGraphDestroy(p->captured);
    }
    free(recording->part);
    free(recording);
}

sy_recording_size sy_cuda_record_size(const sy_recording *recording) {
    return recording->size;
}
