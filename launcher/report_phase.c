#include "launcher/report_phase.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *phase;
    sy_phase_kind kind;
} known[] = {
    {"attn_in", SY_PHASE_ATTENTION},
    {"attend", SY_PHASE_ATTENTION},
    {"attn_out", SY_PHASE_ATTENTION},
    {"route", SY_PHASE_ROUTER},
    {"count", SY_PHASE_ROUTER},
    {"gather", SY_PHASE_EXPERTS},
    {"experts_up", SY_PHASE_EXPERTS},
    {"experts_down", SY_PHASE_EXPERTS},
    {"dense", SY_PHASE_DENSE},
    {"shared", SY_PHASE_DENSE},
    {"dispatch", SY_PHASE_EXCHANGE},
    {"combine", SY_PHASE_EXCHANGE},
    {"home_sum", SY_PHASE_EXCHANGE},
    {"wait_tokens", SY_PHASE_WAITING},
    {"wait_results", SY_PHASE_WAITING},
    {"report", SY_PHASE_WAITING},
    {"prepare", SY_PHASE_ENDS},
    {"embed", SY_PHASE_ENDS},
    {"head", SY_PHASE_ENDS},
    {"sample", SY_PHASE_ENDS},
};

static const struct {
    const char *name, *text;
} kinds[SY_PHASE_KINDS] = {
    [SY_PHASE_ATTENTION] = {"attention", "attention with its projections"},
    [SY_PHASE_ROUTER] = {"router", "choosing the experts, and counting for this profile"},
    [SY_PHASE_EXPERTS] = {"experts", "the routed experts"},
    [SY_PHASE_DENSE] = {"dense and shared", "dense layers and shared experts"},
    [SY_PHASE_EXCHANGE] = {"exchange", "sending tokens and results, adding them up"},
    [SY_PHASE_WAITING] = {"waiting", "waiting for other ranks"},
    [SY_PHASE_ENDS] = {"ends of the step", "batch, embedding, logits, sampling"},
    [SY_PHASE_OTHER] = {"other", "phases that this version does not know"},
};

sy_phase_kind sy_phase_kind_of(const char *phase) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i].phase, phase) == 0) return known[i].kind;
    return SY_PHASE_OTHER;
}

const char *sy_phase_kind_name(int kind) {
    return kinds[kind].name;
}

const char *sy_phase_kind_text(int kind) {
    return kinds[kind].text;
}
