/* Labels and their comparisons, links, times and steps of a profile. */
#include "launcher/report_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/report_json.h"

enum { MOST_LABELS = 256, MOST_PHASES = 64, MOST_SPECIAL = 256, MOST_STEPS = 256, WHERE = 96 };

/* ---- labels ---- */

static sy_status read_label(sy_report *r, const json_t *in, int index, sy_report_label *out) {
    sy_status st = SY_OK;
    json_t *array;
    char where[WHERE];
    size_t n = (size_t)r->n_layers;
    snprintf(where, sizeof where, "labels[%d]", index);
    SY_TRY(sy_report_text(in, where, "name", &out->name));
    SY_TRY(sy_report_number(in, where, "tokens", &out->tokens));
    SY_TRY(sy_report_array(in, where, "layers", n, n, &array));
    SY_TRY(sy_report_take(r, n, sizeof *out->load, &out->load));
    for (size_t i = 0; i < n; i++) {
        snprintf(where, sizeof where, "labels[%d].layers[%zu]", index, i);
        SY_TRY(sy_report_read_load(r, json_array_get(array, i), where, &r->layer[i],
                                   &out->load[i]));
    }
done:
    return st;
}

static sy_status read_labels(sy_report *r) {
    sy_status st = SY_OK;
    json_t *array;
    SY_TRY(sy_report_array(r->root, "profile", "labels", 0, MOST_LABELS, &array));
    r->n_labels = (int)json_array_size(array);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_labels, sizeof *r->label, &r->label));
    for (int i = 0; i < r->n_labels; i++)
        SY_TRY(read_label(r, json_array_get(array, (size_t)i), i, &r->label[i]));
done:
    return st;
}

/* ---- comparisons ---- */

static sy_status find_label(const sy_report *r, const json_t *in, const char *key, int *out) {
    sy_status st = SY_OK;
    const char *name;
    SY_TRY(sy_report_text(in, "comparisons[]", key, &name));
    for (*out = 0; *out < r->n_labels; ++*out)
        if (strcmp(r->label[*out].name, name) == 0) goto done;
    SY_FAIL(SY_ERR_FORMAT, "comparisons[].%s: there is no such label", key);
done:
    return st;
}

/* [e, p, q, z]; z alone may be below 0. */
static sy_status
read_special(const json_t *in, const char *where, int n_experts, sy_report_special *out) {
    double x[4];
    if (json_array_size(in) != 4)
        return sy_fail(SY_ERR_FORMAT, "%s.specialised: expected four numbers", where);
    for (size_t i = 0; i < 4; i++) {
        json_t *value = json_array_get(in, i);
        x[i] = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(fabs(x[i]) <= SY_REPORT_MOST) || (i < 3 && x[i] < 0))
            return sy_fail(SY_ERR_FORMAT, "%s.specialised: entry %zu is no number in range",
                           where, i);
    }
    if (x[0] >= n_experts)
        return sy_fail(SY_ERR_FORMAT, "%s.specialised: no such expert", where);
    *out = (sy_report_special){(int)x[0], x[1], x[2], x[3]};
    return SY_OK;
}

static sy_status read_comparison_layer(sy_report *r,
                                       const json_t *in,
                                       const char *where,
                                       int l,
                                       sy_report_comparison *out) {
    sy_status st = SY_OK;
    json_t *array;
    SY_TRY(sy_report_number(in, where, "overlap", &out->overlap[l]));
    SY_TRY(sy_report_number(in, where, "uniform_overlap", &out->uniform_overlap[l]));
    SY_TRY(sy_report_array(in, where, "specialised", 0, MOST_SPECIAL, &array));
    size_t n = json_array_size(array);
    out->n_special[l] = (int)n;
    SY_TRY(sy_report_take(r, n, sizeof **out->list, &out->list[l]));
    for (size_t i = 0; i < n; i++)
        SY_TRY(read_special(json_array_get(array, i), where, r->layer[l].n_experts,
                            &out->list[l][i]));
done:
    return st;
}

static sy_status read_comparisons(sy_report *r) {
    sy_status st = SY_OK;
    json_t *all, *layers;
    char where[WHERE];
    size_t n = (size_t)r->n_layers, most = (size_t)r->n_labels * (size_t)r->n_labels;
    SY_TRY(sy_report_array(r->root, "profile", "comparisons", 0, most, &all));
    r->n_comparisons = (int)json_array_size(all);
    SY_TRY(
        sy_report_take(r, (uint64_t)r->n_comparisons, sizeof *r->comparison, &r->comparison));
    for (int i = 0; i < r->n_comparisons; i++) {
        sy_report_comparison *c = &r->comparison[i];
        json_t *in = json_array_get(all, (size_t)i);
        SY_TRY(find_label(r, in, "a", &c->a));
        SY_TRY(find_label(r, in, "b", &c->b));
        SY_TRY(sy_report_take(r, n, sizeof *c->overlap, &c->overlap));
        SY_TRY(sy_report_take(r, n, sizeof *c->uniform_overlap, &c->uniform_overlap));
        SY_TRY(sy_report_take(r, n, sizeof *c->n_special, &c->n_special));
        SY_TRY(sy_report_take(r, n, sizeof *c->list, &c->list));
        SY_TRY(sy_report_array(in, "comparisons[]", "layers", n, n, &layers));
        for (int l = 0; l < r->n_layers; l++) {
            snprintf(where, sizeof where, "comparisons[%d].layers[%d]", i, l);
            SY_TRY(read_comparison_layer(r, json_array_get(layers, (size_t)l), where, l, c));
        }
    }
done:
    return st;
}

/* ---- links ---- */

static sy_status read_matrix(sy_report *r, const json_t *links, const char *key, double **out) {
    sy_status st = SY_OK;
    json_t *rows;
    size_t R = (size_t)r->n_ranks;
    SY_TRY(sy_report_array(links, "links", key, R, R, &rows));
    SY_TRY(sy_report_take(r, R * R, sizeof **out, out));
    for (size_t a = 0; a < R; a++)
        SY_TRY(sy_report_numbers(json_array_get(rows, a), "links", key, R, *out + a * R));
done:
    return st;
}

static sy_status read_links(sy_report *r) {
    sy_status st = SY_OK;
    json_t *links;
    SY_TRY(sy_report_object(r->root, "profile", "links", &links));
    SY_TRY(read_matrix(r, links, "dispatch_rows", &r->dispatch_rows));
    SY_TRY(read_matrix(r, links, "dispatch_bytes", &r->dispatch_bytes));
    SY_TRY(read_matrix(r, links, "combine_rows", &r->combine_rows));
    SY_TRY(read_matrix(r, links, "combine_bytes", &r->combine_bytes));
done:
    return st;
}

/* ---- times ---- */

static sy_status read_phases(sy_report *r, const json_t *times) {
    sy_status st = SY_OK;
    json_t *names;
    SY_TRY(sy_report_array(times, "times", "phases", 0, MOST_PHASES, &names));
    r->n_phases = (int)json_array_size(names);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_phases, sizeof *r->phase_name, &r->phase_name));
    for (int p = 0; p < r->n_phases; p++) {
        json_t *name = json_array_get(names, (size_t)p);
        if (!json_is_string(name))
            SY_FAIL(SY_ERR_FORMAT, "times.phases, entry %d: expected a string", p);
        r->phase_name[p] = json_string_value(name);
    }
done:
    return st;
}

static sy_status read_rank_times(sy_report *r, const json_t *times) {
    sy_status st = SY_OK;
    static const char where[] = "times.ranks[]";
    json_t *array;
    size_t R = (size_t)r->n_ranks, P = (size_t)r->n_phases;
    SY_TRY(sy_report_array(times, "times", "ranks", R, R, &array));
    SY_TRY(sy_report_take(r, R, sizeof *r->rank_time, &r->rank_time));
    for (size_t i = 0; i < R; i++) {
        sy_report_rank_time *t = &r->rank_time[i];
        json_t *in = json_array_get(array, i);
        SY_TRY(sy_report_number(in, where, "steps", &t->steps));
        SY_TRY(sy_report_number(in, where, "step_seconds", &t->step_seconds));
        SY_TRY(sy_report_number(in, where, "between_seconds", &t->between_seconds));
        SY_TRY(sy_report_number(in, where, "wait_seconds", &t->wait_seconds));
        SY_TRY(sy_report_take(r, P, sizeof *t->phase, &t->phase));
        SY_TRY(sy_report_numbers(json_object_get(in, "phase_seconds"), where, "phase_seconds",
                                 P, t->phase));
    }
done:
    return st;
}

/* The mean of the ranks, which is what a picture of all layers has room for. */
static sy_status read_layer_times(sy_report *r, const json_t *times) {
    sy_status st = SY_OK;
    static const char where[] = "times.layers[]";
    json_t *array, *rows;
    size_t R = (size_t)r->n_ranks, P = (size_t)r->n_phases;
    double phase[MOST_PHASES];
    SY_TRY(sy_report_array(times, "times", "layers", 0, SY_REPORT_MAX_LAYERS, &array));
    r->n_layer_times = (int)json_array_size(array);
    SY_TRY(
        sy_report_take(r, (uint64_t)r->n_layer_times, sizeof *r->layer_time, &r->layer_time));
    for (int l = 0; l < r->n_layer_times; l++) {
        sy_report_layer_time *t = &r->layer_time[l];
        json_t *in = json_array_get(array, (size_t)l);
        SY_TRY(sy_report_int(in, where, "layer", 0, SY_REPORT_MAX_LAYERS - 1, &t->layer));
        SY_TRY(sy_report_array(in, where, "phase_seconds", R, R, &rows));
        SY_TRY(sy_report_take(r, P, sizeof *t->phase, &t->phase));
        for (size_t i = 0; i < R; i++) {
            SY_TRY(
                sy_report_numbers(json_array_get(rows, i), where, "phase_seconds", P, phase));
            for (size_t p = 0; p < P; p++)
                t->phase[p] += phase[p] / (double)R;
        }
    }
done:
    return st;
}

static sy_status read_steps(sy_report *r) {
    sy_status st = SY_OK;
    static const char where[] = "steps[]";
    json_t *array;
    SY_TRY(sy_report_array(r->root, "profile", "steps", 0, MOST_STEPS, &array));
    r->n_steps = (int)json_array_size(array);
    SY_TRY(sy_report_take(r, (uint64_t)r->n_steps, sizeof *r->step, &r->step));
    for (int i = 0; i < r->n_steps; i++) {
        sy_report_steps *s = &r->step[i];
        json_t *in = json_array_get(array, (size_t)i);
        SY_TRY(sy_report_number(in, where, "rows_from", &s->rows_from));
        SY_TRY(sy_report_number(in, where, "rows_to", &s->rows_to));
        SY_TRY(sy_report_number(in, where, "steps", &s->steps));
        SY_TRY(sy_report_number(in, where, "tokens", &s->tokens));
        SY_TRY(sy_report_number(in, where, "seconds", &s->seconds));
    }
done:
    return st;
}

sy_status sy_report_read_parts(sy_report *r) {
    sy_status st = SY_OK;
    json_t *times;
    SY_TRY(read_labels(r));
    SY_TRY(read_comparisons(r));
    SY_TRY(read_links(r));
    SY_TRY(sy_report_object(r->root, "profile", "times", &times));
    SY_TRY(read_phases(r, times));
    SY_TRY(read_rank_times(r, times));
    SY_TRY(read_layer_times(r, times));
    SY_TRY(read_steps(r));
done:
    return st;
}
