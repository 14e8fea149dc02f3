/* Why a run ended: gathers what ranks, watchdogs, mpirun and the user say, and picks the one
 * thing that is reported. */
#ifndef SY_LAUNCHER_ENDING_H
#define SY_LAUNCHER_ENDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "launcher/mpirun.h"

typedef struct sy_ending {
    bool started;      /* MPI is up on all ranks                          */
    bool interrupted;  /* the user wanted to end, before any failure      */
    bool remote_error; /* the report is a line of a rank on another host  */
    int rank_lost;     /* whose connection broke without a word, -1: none */
    sy_status status;  /* the strongest report so far                     */
    sy_error_text text;
    int mpirun_status; /* as waitpid says */
    sy_mpirun_text mpirun_text;
    char *kept; /* what mpirun printed, shown if nothing else explains the failure */
    size_t kept_used;
} sy_ending;

sy_status sy_ending_init(sy_ending *e);
void sy_ending_free(sy_ending *e);

/* The user wants to end. What failed before stays the reason. */
void sy_ending_interrupted(sy_ending *e);
/* The last word of a rank: a status code and a text of n bytes. */
void sy_ending_status(sy_ending *e, int32_t code, const char *text, size_t n);
/* A rank's connection broke without a last word. */
void sy_ending_lost(sy_ending *e, int rank);
/* The ranks did not start, or not end, in time. */
void sy_ending_overdue(sy_ending *e, double start_limit);
/* mpirun has ended. */
void sy_ending_mpirun(sy_ending *e, int wait_status);

typedef enum sy_ending_line_kind {
    SY_ENDING_SHOW,    /* to be shown at once */
    SY_ENDING_KEPT,    /* mpirun's own: kept */
    SY_ENDING_STARTED, /* the ranks have started, says one on another host */
    SY_ENDING_FAILED   /* the error line of a rank on another host */
} sy_ending_line_kind;
sy_ending_line_kind sy_ending_line(sy_ending *e, const char *line, const char *token);

/* What the user is told; out_errno is stdout's. Prints mpirun's own text if there is no better
 * explanation. */
sy_status sy_ending_verdict(sy_ending *e, int out_errno);

#endif
