/* profile.json. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/file_print.h"
#include "runtime/profile_print.h"

enum { MOST_SPECIALISED = 16 };

typedef struct printer {
    FILE *f;
    sy_profile_data *d;
    const sy_comm *comm;
    const sy_profile_options *options;
    const sy_profile_about *about;
    double *x, *y; /* [larger of E and R] */
} printer;

static double seconds(uint64_t ns) {
    return (double)ns * 1e-9;
}

static const sy_ffn_spec *ffn_of(const printer *p, int moe) {
    return &p->d->spec->layer[p->d->layer[moe]].ffn;
}

/* ---- lists ---- */

static void print_counts(FILE *f, const char *name, const uint64_t *x, int64_t n) {
    fprintf(f, "\"%s\": [", name);
    for (int64_t i = 0; i < n; i++)
        fprintf(f, "%s%" PRIu64, i == 0 ? "" : ", ", x[i]);
    fputc(']', f);
}

static void print_reals(FILE *f, const char *name, const double *x, int64_t n) {
    fprintf(f, "\"%s\": [", name);
    for (int64_t i = 0; i < n; i++) { /* JSON has no name for what is not a number */
        fputs(i == 0 ? "" : ", ", f);
        if (isfinite(x[i]))
            fprintf(f, "%.9g", x[i]);
        else
            fputs("null", f);
    }
    fputc(']', f);
}

static void print_measures(FILE *f, const sy_balance *b) {
    fprintf(f,
            "\"max_over_mean\": %.6g, \"excess_over_mean\": %.6g, \"balancedness\": %.6g, "
            "\"cv\": %.6g, \"entropy\": %.6g, \"unused\": %.6g",
            b->max_over_mean, b->excess_over_mean, b->balancedness, b->cv, b->entropy,
            b->unused);
}

static void
print_balance(FILE *f, const char *name, const sy_balance *b, const sy_balance *uniform) {
    fprintf(f, "\"%s\": {", name);
    print_measures(f, b);
    if (uniform != NULL) {
        fputs(", \"uniform\": {", f);
        print_measures(f, uniform);
        fputc('}', f);
    }
    fputc('}', f);
}

/* ---- head ---- */

static const char *last_part(const char *path, char *buf, size_t size) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    snprintf(buf, size, "%.*s", (int)sy_min((int64_t)(end - begin), (int64_t)size - 1),
             path + begin);
    return buf;
}

static void print_model(const printer *p) {
    char name[256];
    const sy_model_spec *spec = p->d->spec;
    int top_k = 0, shared = 0;
    for (int moe = 0; moe < p->d->n_moe; moe++) {
        top_k = (int)sy_max(top_k, ffn_of(p, moe)->top_k);
        shared = (int)sy_max(shared, ffn_of(p, moe)->shared_inter);
    }
    fputs(" \"model\": {\"name\": ", p->f);
    sy_json_print_text(p->f, last_part(p->about->model_path, name, sizeof name));
    fputs(", \"family\": ", p->f);
    sy_json_print_text(p->f, spec->family);
    fprintf(
        p->f,
        ", \"layers\": %d, \"moe_layers\": %d, \"hidden\": %d, \"vocab\": %d, \"experts\": %d, "
        "\"top_k\": %d, \"shared_inter\": %d},\n",
        spec->n_layers, p->d->n_moe, spec->hidden, spec->vocab, p->d->n_experts, top_k, shared);
}

static void print_ranks(const printer *p) {
    fputs(" \"ranks\": [", p->f);
    for (int r = 0; r < p->d->n_ranks; r++)
        fprintf(p->f,
                "%s{\"rank\": %d, \"host\": %d, \"clock_offset_ns\": %" PRId64
                ", \"clock_error_ns\": %" PRId64 "}",
                r == 0 ? "" : ",\n  ", r, sy_comm_host(p->comm, r), p->d->clock[2 * r],
                p->d->clock[2 * r + 1]);
    fputs("],\n \"hosts\": [", p->f);
    for (int h = 0; h < sy_comm_n_hosts(p->comm); h++) {
        int r = 0;
        while (r < p->d->n_ranks - 1 && sy_comm_host(p->comm, r) != h)
            r++;
        if (h > 0) fputs(", ", p->f);
        sy_json_print_text(p->f, sy_comm_host_name(p->comm, r));
    }
    fputs("],\n", p->f);
}

static void print_head(const printer *p) {
    const sy_profile_about *a = p->about;
    fputs("{\"version\": 1,\n \"switchyard\": ", p->f);
    sy_json_print_text(p->f, a->program);
    fputs(",\n \"command\": ", p->f);
    sy_json_print_text(p->f, a->command);
    fputs(",\n \"options\": ", p->f);
    sy_json_print_text(p->f, a->options);
    fputs(",\n", p->f);
    print_model(p);
    print_ranks(p);
    fputs(" \"device\": ", p->f);
    sy_json_print_text(p->f, a->device);
    fprintf(p->f,
            ",\n \"threads\": %d, \"synchronised\": %s, \"tokens\": %" PRIu64
            ", \"seconds\": %.9g,\n",
            a->n_threads, p->d->synchronised ? "true" : "false", p->d->total.tokens,
            seconds(p->d->times[0].step_ns));
}

/* ---- loads ---- */

static sy_status print_balances(const printer *p, const sy_profile_label *label, int moe) {
    sy_profile_balance b;
    sy_status st = sy_profile_balance_of(p->d, label, moe, &b);
    if (st != SY_OK) return st;
    fputs(",\n   ", p->f);
    print_balance(p->f, "expert_balance", &b.experts, &b.uniform_experts);
    fputs(",\n   ", p->f);
    print_balance(p->f, "rank_balance", &b.ranks, &b.uniform_ranks);
    return SY_OK;
}

static void print_loads(const printer *p, const sy_profile_label *label, int moe) {
    const sy_profile_data *d = p->d;
    int64_t first = d->slot_first[moe];
    print_counts(p->f, "counts", label->count + first, d->slot_first[moe + 1] - first);
    fputs(",\n   ", p->f);
    print_reals(p->f, "weights", label->weight + (size_t)moe * (size_t)d->n_experts,
                ffn_of(p, moe)->experts);
}

static void print_slots(const printer *p, int moe) {
    const sy_placement_layer *layer = &p->d->placement->layer[p->d->layer[moe]];
    fputs("\"slot_rank\": [", p->f);
    for (int r = 0; r < p->d->n_ranks; r++)
        for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++)
            fprintf(p->f, "%s%d", s == 0 ? "" : ", ", r);
    fputs("],\n   \"slot_expert\": [", p->f);
    for (int s = 0; s < layer->slot_first[p->d->n_ranks]; s++)
        fprintf(p->f, "%s%" PRId32, s == 0 ? "" : ", ", layer->slot_expert[s]);
    fputs("],\n   ", p->f);
}

static void print_pairs(const printer *p, int moe) {
    const sy_profile_data *d = p->d;
    const sy_profile_pair *pair = d->pair + (size_t)moe * SY_PROFILE_TOP_PAIRS;
    sy_profile_expert_counts(d, &d->total, moe, p->x);
    fputs(",\n   \"pairs\": [", p->f);
    for (int i = 0; i < d->n_pairs[moe]; i++) {
        double expected = p->x[pair[i].a] * p->x[pair[i].b] / (double)d->total.tokens;
        fprintf(p->f, "%s[%" PRId32 ", %" PRId32 ", %" PRIu64 ", %.4g]", i == 0 ? "" : ", ",
                pair[i].a, pair[i].b, pair[i].n, (double)pair[i].n / expected);
    }
    fputc(']', p->f);
}

static sy_status print_layers(const printer *p) {
    fprintf(p->f, " \"pairs_counted\": %s,\n \"layers\": [",
            p->d->pairs_counted ? "true" : "false");
    for (int moe = 0; moe < p->d->n_moe; moe++) {
        fprintf(p->f, "%s\n  {\"layer\": %d, \"experts\": %d, \"top_k\": %d,\n   ",
                moe == 0 ? "" : ",", p->d->layer[moe], ffn_of(p, moe)->experts,
                ffn_of(p, moe)->top_k);
        print_slots(p, moe);
        print_loads(p, &p->d->total, moe);
        sy_status st = print_balances(p, &p->d->total, moe);
        if (st != SY_OK) return st;
        print_pairs(p, moe);
        fputc('}', p->f);
    }
    fputs("],\n", p->f);
    return SY_OK;
}

/* Of all layers together, and of the fullest rank layer by layer, which the others wait for. */
static void print_whole_balance(const printer *p) {
    sy_balance b;
    double mean = 0, most = 0;
    for (int r = 0; r < p->d->n_ranks; r++)
        p->y[r] = 0;
    for (int moe = 0; moe < p->d->n_moe; moe++) {
        double fullest = 0;
        sy_profile_rank_counts(p->d, &p->d->total, moe, p->x);
        for (int r = 0; r < p->d->n_ranks; r++) {
            p->y[r] += p->x[r];
            mean += p->x[r] / p->d->n_ranks;
            fullest = fmax(fullest, p->x[r]);
        }
        most += fullest;
    }
    sy_balance_of(p->y, p->d->n_ranks, &b);
    fputs(" \"balance\": {", p->f);
    print_balance(p->f, "ranks", &b, NULL);
    fprintf(p->f, ", \"layerwise_balancedness\": %.6g},\n", most > 0 ? mean / most : 1);
}

static sy_status print_labels(const printer *p) {
    fputs(" \"labels\": [", p->f);
    for (int i = 0; i < p->d->n_labels; i++) {
        const sy_profile_label *label = &p->d->label[i];
        fprintf(p->f, "%s\n {\"name\": ", i == 0 ? "" : ",");
        sy_json_print_text(p->f, label->name);
        fprintf(p->f, ", \"tokens\": %" PRIu64 ", \"layers\": [", label->tokens);
        for (int moe = 0; moe < p->d->n_moe; moe++) {
            fprintf(p->f, "%s\n  {\"layer\": %d,\n   ", moe == 0 ? "" : ",", p->d->layer[moe]);
            print_loads(p, label, moe);
            sy_status st = print_balances(p, label, moe);
            if (st != SY_OK) return st;
            fputc('}', p->f);
        }
        fputs("]}", p->f);
    }
    fputs("],\n", p->f);
    return SY_OK;
}

/* ---- comparisons ---- */

/* The experts whose shares differ most for their number, most first. */
static void print_specialised(const printer *p,
                              const sy_profile_label *a,
                              const sy_profile_label *b,
                              const sy_ffn_spec *ffn) {
    int chosen[MOST_SPECIALISED], n = 0;
    double z[MOST_SPECIALISED], pairs_a, pairs_b;
    for (int e = 0; e < ffn->experts; e++) {
        double d =
            sy_balance_difference(p->x[e], (double)a->tokens, p->y[e], (double)b->tokens);
        if (d == 0 || (n == MOST_SPECIALISED && fabs(d) <= fabs(z[n - 1]))) continue;
        int at = n < MOST_SPECIALISED ? n++ : n - 1;
        for (; at > 0 && fabs(z[at - 1]) < fabs(d); at--) {
            z[at] = z[at - 1];
            chosen[at] = chosen[at - 1];
        }
        z[at] = d;
        chosen[at] = e;
    }
    pairs_a = fmax(1, (double)a->tokens * ffn->top_k);
    pairs_b = fmax(1, (double)b->tokens * ffn->top_k);
    fputs(", \"specialised\": [", p->f);
    for (int i = 0; i < n; i++)
        fprintf(p->f, "%s[%d, %.6g, %.6g, %.4g]", i == 0 ? "" : ", ", chosen[i],
                p->x[chosen[i]] / pairs_a, p->y[chosen[i]] / pairs_b, z[i]);
    fputc(']', p->f);
}

static sy_status
print_comparison(const printer *p, const sy_profile_label *a, const sy_profile_label *b) {
    fputs("{\"a\": ", p->f);
    sy_json_print_text(p->f, a->name);
    fputs(", \"b\": ", p->f);
    sy_json_print_text(p->f, b->name);
    fputs(", \"layers\": [", p->f);
    for (int moe = 0; moe < p->d->n_moe; moe++) {
        const sy_ffn_spec *ffn = ffn_of(p, moe);
        double by_chance;
        sy_profile_expert_counts(p->d, a, moe, p->x);
        sy_profile_expert_counts(p->d, b, moe, p->y);
        sy_status st = sy_balance_uniform_overlap(p->x, p->y, ffn->experts, &by_chance);
        if (st != SY_OK) return st;
        fprintf(p->f, "%s\n  {\"layer\": %d, \"overlap\": %.6g, \"uniform_overlap\": %.6g",
                moe == 0 ? "" : ",", p->d->layer[moe],
                sy_balance_overlap(p->x, p->y, ffn->experts), by_chance);
        print_specialised(p, a, b, ffn);
        fputc('}', p->f);
    }
    fputs("]}", p->f);
    return SY_OK;
}

static sy_status print_comparisons(const printer *p) {
    bool first = true;
    fputs(" \"comparisons\": [", p->f);
    for (int i = 0; p->about->compare && i < p->d->n_labels; i++) {
        for (int k = i + 1; k < p->d->n_labels; k++) {
            fputs(first ? "\n " : ",\n ", p->f);
            first = false;
            sy_status st = print_comparison(p, &p->d->label[i], &p->d->label[k]);
            if (st != SY_OK) return st;
        }
    }
    fputs("],\n", p->f);
    return SY_OK;
}

/* ---- links and times ---- */

/* `offset` of one number within sy_exchange_peer. */
static void print_matrix(const printer *p, const char *name, size_t offset) {
    int R = p->d->n_ranks;
    fprintf(p->f, "\"%s\": [", name);
    for (int a = 0; a < R; a++) {
        fputs(a == 0 ? "[" : ",\n   [", p->f);
        for (int b = 0; b < R; b++) {
            const char *peer = (const char *)&p->d->link[(size_t)a * (size_t)R + (size_t)b];
            uint64_t n;
            memcpy(&n, peer + offset, sizeof n);
            fprintf(p->f, "%s%" PRIu64, b == 0 ? "" : ", ", n);
        }
        fputc(']', p->f);
    }
    fputc(']', p->f);
}

static void print_links(const printer *p) {
    fputs(" \"links\": {\n  ", p->f);
    print_matrix(p, "dispatch_rows", offsetof(sy_exchange_peer, dispatch_sent.rows));
    fputs(",\n  ", p->f);
    print_matrix(p, "dispatch_bytes", offsetof(sy_exchange_peer, dispatch_sent.bytes));
    fputs(",\n  ", p->f);
    print_matrix(p, "combine_rows", offsetof(sy_exchange_peer, combine_sent.rows));
    fputs(",\n  ", p->f);
    print_matrix(p, "combine_bytes", offsetof(sy_exchange_peer, combine_sent.bytes));
    fputs("},\n", p->f);
}

static void print_rank_times(const printer *p, int r) {
    const sy_profile_times *t = &p->d->times[r];
    fprintf(p->f,
            "%s{\"rank\": %d, \"steps\": %" PRIu64 ", \"step_seconds\": %.9g, "
            "\"between_seconds\": %.9g, \"wait_seconds\": %.9g,\n    \"phase_seconds\": [",
            r == 0 ? "" : ",\n   ", r, t->steps, seconds(t->step_ns), seconds(t->between_ns),
            seconds(sy_profile_wait_total(p->d, r)));
    for (int i = 0; i < SY_PHASES; i++)
        fprintf(p->f, "%s%.9g", i == 0 ? "" : ", ",
                seconds(sy_profile_phase_total(p->d, r, i)));
    fputs("]}", p->f);
}

static void print_layer_times(const printer *p, int layer) {
    fprintf(p->f, "%s{\"layer\": %d, \"phase_seconds\": [", layer == 0 ? "" : ",\n   ", layer);
    for (int r = 0; r < p->d->n_ranks; r++) {
        fputs(r == 0 ? "[" : ", [", p->f);
        for (int i = 0; i < SY_PHASES; i++)
            fprintf(p->f, "%s%.6g", i == 0 ? "" : ", ",
                    seconds(sy_profile_rank_phase_ns(p->d, r, layer, i)));
        fputc(']', p->f);
    }
    fputs("]}", p->f);
}

static void print_times(const printer *p) {
    static const char *const names[] = {
#define X(name, text) text,
        SY_PHASE_LIST(X)
#undef X
    };
    fputs(" \"times\": {\n  \"phases\": [", p->f);
    for (int i = 0; i < SY_PHASES; i++)
        fprintf(p->f, "%s\"%s\"", i == 0 ? "" : ", ", names[i]);
    fputs("],\n  \"ranks\": [", p->f);
    for (int r = 0; r < p->d->n_ranks; r++)
        print_rank_times(p, r);
    fputs("],\n  \"layers\": [", p->f);
    for (int l = 0; l < p->d->spec->n_layers; l++)
        print_layer_times(p, l);
    fputs("]},\n", p->f);
}

static void print_steps(const printer *p) {
    bool first = true;
    fputs(" \"steps\": [", p->f);
    for (int i = 0; i < SY_PROFILE_BUCKETS; i++) {
        const sy_profile_bucket *b = &p->d->bucket[i];
        if (b->steps == 0) continue;
        fprintf(p->f,
                "%s{\"rows_from\": %" PRId64 ", \"rows_to\": %" PRId64 ", \"steps\": %" PRIu64
                ", \"tokens\": %" PRIu64 ", \"seconds\": %.9g}",
                first ? "" : ",\n  ", i == 0 ? 1 : ((int64_t)1 << (i - 1)) + 1, (int64_t)1 << i,
                b->steps, b->tokens, seconds(b->ns));
        first = false;
    }
    fputs("],\n", p->f);
}

static void print_file_facts(const printer *p) {
    uint64_t events = 0, dropped = 0;
    for (int r = 0; r < p->d->n_ranks; r++) {
        events += p->d->times[r].events;
        dropped += p->d->times[r].dropped;
    }
    fprintf(p->f,
            " \"trace\": {\"events\": %" PRIu64 ", \"dropped\": %" PRIu64
            ", \"capacity_per_rank\": %" PRId64 "},\n \"routes\": %" PRId64
            ", \"coactivation\": %s\n}\n",
            events, dropped, p->options->events, p->d->n_routes,
            p->about->all_pairs && p->d->pairs_counted ? "true" : "false");
}

sy_status sy_profile_print_json(FILE *f,
                                sy_profile_data *data,
                                const sy_comm *comm,
                                const sy_profile_options *options,
                                const sy_profile_about *about) {
    sy_status st = SY_OK;
    size_t n = (size_t)sy_max(sy_max(data->n_experts, data->n_ranks), 1);
    printer p = {
        f, data, comm, options, about, calloc(n, sizeof(double)), calloc(n, sizeof(double))};
    if (p.x == NULL || p.y == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for profile.json");
    print_head(&p);
    SY_TRY(print_layers(&p));
    print_whole_balance(&p);
    SY_TRY(print_labels(&p));
    SY_TRY(print_comparisons(&p));
    print_links(&p);
    print_times(&p);
    print_steps(&p);
    print_file_facts(&p);
done:
    free(p.x);
    free(p.y);
    return st;
}
