/* The phases of a step, in the order in which a token passes them. Names are those of profile.json;
 * docs/profile.md says what each holds. */
#ifndef SY_RUNTIME_PROFILE_PHASE_H
#define SY_RUNTIME_PROFILE_PHASE_H

/* clang-format off */
#define SY_PHASE_LIST(X)                       \
    X(SY_PHASE_PREPARE, "prepare")             \
    X(SY_PHASE_EMBED, "embed")                 \
    X(SY_PHASE_ATTN_IN, "attn_in")             \
    X(SY_PHASE_ATTEND, "attend")               \
    X(SY_PHASE_ATTN_OUT, "attn_out")           \
    X(SY_PHASE_DENSE, "dense")                 \
    X(SY_PHASE_ROUTE, "route")                 \
    X(SY_PHASE_COUNT, "count")                 \
    X(SY_PHASE_DISPATCH, "dispatch")           \
    X(SY_PHASE_SHARED, "shared")               \
    X(SY_PHASE_WAIT_TOKENS, "wait_tokens")     \
    X(SY_PHASE_GATHER, "gather")               \
    X(SY_PHASE_EXPERTS_UP, "experts_up")       \
    X(SY_PHASE_EXPERTS_DOWN, "experts_down")   \
    X(SY_PHASE_COMBINE, "combine")             \
    X(SY_PHASE_WAIT_RESULTS, "wait_results")   \
    X(SY_PHASE_HOME_SUM, "home_sum")           \
    X(SY_PHASE_HEAD, "head")                   \
    X(SY_PHASE_SAMPLE, "sample")               \
    X(SY_PHASE_REPORT, "report")
/* clang-format on */

typedef enum sy_profile_phase {
#define X(name, text) name,
    SY_PHASE_LIST(X)
#undef X
        SY_PHASES
} sy_profile_phase;

#endif
