/* Inside launcher/report*: the phases of a step in few enough kinds for as many colours. */
#ifndef SY_LAUNCHER_REPORT_PHASE_H
#define SY_LAUNCHER_REPORT_PHASE_H

typedef enum sy_phase_kind {
    SY_PHASE_ATTENTION,
    SY_PHASE_ROUTER,
    SY_PHASE_EXPERTS,
    SY_PHASE_DENSE,
    SY_PHASE_EXCHANGE,
    SY_PHASE_WAITING,
    SY_PHASE_ENDS,
    SY_PHASE_OTHER, /* phases that this version does not know */
    SY_PHASE_KINDS
} sy_phase_kind;

/* Never fails: what is unknown is SY_PHASE_OTHER. */
sy_phase_kind sy_phase_kind_of(const char *phase);
/* "waiting", and what belongs to it in a sentence. */
const char *sy_phase_kind_name(int kind);
const char *sy_phase_kind_text(int kind);

#endif
