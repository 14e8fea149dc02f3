/* The head of the page: what ran, the figures that matter, and what to do about them. */
#include <math.h>
#include <stdlib.h>

#include "launcher/report_html.h"
#include "launcher/report_phase.h"
#include "launcher/report_sections.h"

#define WORTH_IT 0.02     /* of the experts' time: a smaller gain is not worth a placement */
#define MOSTLY_CHANCE 0.6 /* share of an excess that chance explains */

bool sy_report_has_loads(const sy_report *r) {
    for (int l = 0; l < r->n_layers; l++)
        if (r->layer[l].load.all > 0) return true;
    return false;
}

int sy_report_worst_layer(const sy_report *r) {
    int worst = -1;
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_load *load = &r->layer[l].load;
        if (!(load->all > 0)) continue;
        if (worst < 0 ||
            load->ranks.is.max_over_mean > r->layer[worst].load.ranks.is.max_over_mean)
            worst = l;
    }
    return worst;
}

int *sy_report_layer_numbers(const sy_report *r) {
    int *number = calloc((size_t)r->n_layers + 1, sizeof *number);
    for (int l = 0; number != NULL && l < r->n_layers; l++)
        number[l] = r->layer[l].layer;
    return number;
}

/* ---- what ran ---- */

static void put_head(FILE *f, const sy_report *r) {
    fputs("<p class=\"kicker\">Expert load and timing report</p>\n<h1>", f);
    sy_html_text(f, r->model);
    fprintf(f, "</h1>\n<p class=\"facts\">%s token%s", sy_html_count(r->tokens).text,
            r->tokens == 1 ? "" : "s");
    fprintf(f, " on %d rank%s of %d host%s", r->n_ranks, r->n_ranks == 1 ? "" : "s", r->n_hosts,
            r->n_hosts == 1 ? "" : "s");
    if (r->n_layers > 0)
        fprintf(f, ", %d of %d layers with experts, %d experts each, %d chosen per token",
                r->n_layers, r->model_layers, r->most_experts, r->layer[0].top_k);
    fprintf(f, ", %s in steps", sy_html_seconds(r->seconds).text);
    if (r->n_labels > 0) fputs(". Text: ", f);
    for (int i = 0; i < r->n_labels && i < 8; i++) {
        if (i > 0) fputs(", ", f);
        sy_html_text(f, r->label[i].name);
        fprintf(f, " (%s)", sy_html_count(r->label[i].tokens).text);
    }
    fprintf(f, "%s</p>\n", r->n_labels > 8 ? ", &#8230;" : "");
}

static void put_nav(FILE *f, const sy_report *r, const sy_report_gain *gain) {
    fputs("<nav><a href=\"#experts\">Experts</a><a href=\"#ranks\">Ranks</a>", f);
    if (gain != NULL) fputs("<a href=\"#placement\">Better placements</a>", f);
    if (r->n_labels > 1 && sy_report_has_loads(r))
        fputs("<a href=\"#labels\">Kinds of text</a>", f);
    fputs("<a href=\"#links\">Traffic</a><a href=\"#times\">Time</a>"
          "<a href=\"#about\">About this run</a></nav>\n",
          f);
}

/* ---- tiles ---- */

static void put_tile(FILE *f, const char *figure, const char *name, const char *beside) {
    fprintf(f,
            "<div class=\"tile\"><b>%s</b><span class=\"n\">%s</span><span>%s</span></div>\n",
            figure, name, beside);
}

static void sum_dead(const sy_report *r, double *dead, double *chance, double *all) {
    *dead = *chance = *all = 0;
    for (int l = 0; l < r->n_layers; l++) {
        *dead += r->layer[l].load.experts.is.unused;
        *chance += r->layer[l].load.experts.uniform.unused;
        *all += r->layer[l].n_experts;
    }
}

/* Sum over layers of the busiest rank's load, over that of the mean; of chance in *uniform. */
static double all_layers(const sy_report *r, double *uniform) {
    double most = 0, chance = 0, mean = 0;
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_load *load = &r->layer[l].load;
        most += load->all * load->ranks.is.max_over_mean;
        chance += load->all * load->ranks.uniform.max_over_mean;
        mean += load->all;
    }
    *uniform = mean > 0 ? chance / mean : 1;
    return mean > 0 ? most / mean : 1;
}

static void put_tiles(FILE *f, const sy_report *r) {
    char figure[64], beside[200];
    double uniform, all = all_layers(r, &uniform), dead, chance, experts;
    double kind[SY_PHASE_KINDS], time = sy_report_kind_seconds(r, kind);
    int worst = sy_report_worst_layer(r);
    fputs("<div class=\"tiles\">\n", f);
    if (worst >= 0 && r->n_ranks > 1) {
        const sy_report_balance *b = &r->layer[worst].load.ranks;
        snprintf(figure, sizeof figure, "%.2f", all);
        snprintf(beside, sizeof beside, "(max-mean)/mean %.2f; a uniformly random router: %.2f",
                 all - 1, uniform);
        put_tile(f, figure, "busiest rank over mean, all layers", beside);
        snprintf(figure, sizeof figure, "%.2f", b->is.max_over_mean);
        snprintf(beside, sizeof beside, "layer %d; a uniformly random router: %.2f",
                 r->layer[worst].layer, b->uniform.max_over_mean);
        put_tile(f, figure, "the same in the worst layer", beside);
    }
    if (worst >= 0) {
        sum_dead(r, &dead, &chance, &experts);
        snprintf(beside, sizeof beside, "of %s; a uniformly random router: %.1f",
                 sy_html_count(experts).text, chance);
        put_tile(f, sy_html_count(dead).text, "dead experts", beside);
    }
    if (time > 0 && r->n_ranks > 1) {
        snprintf(figure, sizeof figure, "%.0f %%", 100 * kind[SY_PHASE_WAITING] / time);
        put_tile(f, figure, "of the ranks&#8217; time is waiting", "for one another");
    } else if (r->seconds > 0) {
        put_tile(f, sy_html_count(r->tokens / r->seconds).text, "tokens per second",
                 "with the profile&#8217;s own cost");
    }
    fputs("</div>\n", f);
}

/* ---- sentences ---- */

static void put_worst(FILE *f, const sy_report *r, const sy_report_gain *gain) {
    int l = sy_report_worst_layer(r), busiest = 0;
    const sy_report_load *load = &r->layer[l].load;
    for (int i = 1; i < r->n_ranks; i++)
        if (load->rank[i] > load->rank[busiest]) busiest = i;
    fprintf(
        f,
        "<p><b>Layer %d is the worst:</b> its busiest rank, number %d, has %.2f times the mean "
        "load; a router that chooses at random would give %.2f.",
        r->layer[l].layer, busiest, load->ranks.is.max_over_mean,
        load->ranks.uniform.max_over_mean);
    if (gain != NULL)
        fprintf(f,
                " A placement without extra memory would bring it to %.2f, one more expert per "
                "rank "
                "and layer to %.2f.",
                gain->same[l], gain->extra[l]);
    fputs("</p>\n", f);
}

static void put_advice(FILE *f, const sy_report *r, const sy_report_gain *gain) {
    double uniform, all = all_layers(r, &uniform);
    fprintf(
        f,
        "<p>All layers together, the busiest ranks have %.2f times the mean load: where ranks "
        "are equally fast, %.0f %% of the ranks&#8217; time for experts is spent waiting for "
        "the busiest.",
        all, 100 * (1 - 1 / fmax(all, 1)));
    if (uniform - 1 > MOSTLY_CHANCE * (all - 1) && all - 1 > WORTH_IT)
        fprintf(f,
                " Most of this is chance: a uniformly random router would give %.2f for as few "
                "tokens, so profile more text before acting on it.",
                uniform);
    fputs("</p>\n", f);
    if (gain == NULL) return;
    double saved = 1 - gain->same_all / fmax(gain->now_all, 1);
    if (saved < WORTH_IT) {
        fprintf(f,
                "<p><b>What to do:</b> nothing for now. The best placement found without extra "
                "memory has %.2f instead of %.2f, which would hardly be noticed.</p>\n",
                gain->same_all, gain->now_all);
        return;
    }
    fprintf(f,
            "<p><b>What to do:</b> place the experts by these loads. Without extra memory that "
            "brings all layers from %.2f to %.2f, which shortens the time for experts by about "
            "%.0f %% and, in exact numerics, changes no result:</p>\n"
            "<pre>switchyard place loads.json --out placement.json\nswitchyard run MODEL -n %d "
            "--placement placement.json ...</pre>\n",
            gain->now_all, gain->same_all, 100 * saved, r->n_ranks);
}

static void put_experts(FILE *f, const sy_report *r) {
    int layer = -1, expert = 0, uneven = -1;
    double most = 0, dead, chance, all;
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_layer *at = &r->layer[l];
        if (!(at->load.all > 0)) continue;
        if (uneven < 0 ||
            at->load.experts.is.entropy < r->layer[uneven].load.experts.is.entropy)
            uneven = l;
        for (int e = 0; e < at->n_experts; e++) {
            double ratio = at->load.expert[e] / at->load.all * at->n_experts;
            if (ratio <= most) continue;
            most = ratio;
            layer = l;
            expert = e;
        }
    }
    if (layer < 0) return;
    sum_dead(r, &dead, &chance, &all);
    fprintf(f,
            "<p><b>Experts:</b> the hottest is number %d of layer %d with %.2f times its "
            "layer&#8217;s "
            "mean; layer %d is the least even (entropy %.3f, random %.3f). ",
            expert, r->layer[layer].layer, most, r->layer[uneven].layer,
            r->layer[uneven].load.experts.is.entropy,
            r->layer[uneven].load.experts.uniform.entropy);
    if (dead == 0)
        fputs("No expert is dead.</p>\n", f);
    else
        fprintf(
            f,
            "%s of %s experts are dead: no token chose them, where a random router would leave "
            "%.1f.</p>\n",
            sy_html_count(dead).text, sy_html_count(all).text, chance);
}

static void put_labels(FILE *f, const sy_report *r) {
    int worst = -1, layer = 0;
    double most = -1;
    for (int c = 0; c < r->n_comparisons; c++)
        for (int l = 0; l < r->n_layers; l++)
            if (1 - r->comparison[c].overlap[l] > most) {
                most = 1 - r->comparison[c].overlap[l];
                worst = c;
                layer = l;
            }
    if (worst < 0) return;
    const sy_report_comparison *c = &r->comparison[worst];
    fputs("<p><b>Kinds of text:</b> ", f);
    sy_html_text(f, r->label[c->a].name);
    fputs(" and ", f);
    sy_html_text(f, r->label[c->b].name);
    fprintf(
        f,
        " differ most in layer %d, where %.0f %% of the choices fall on other experts (chance "
        "alone: %.0f %%).</p>\n",
        r->layer[layer].layer, 100 * most, 100 * fmax(0, 1 - c->uniform_overlap[layer]));
}

static void put_time(FILE *f, const sy_report *r) {
    double kind[SY_PHASE_KINDS], all = sy_report_kind_seconds(r, kind);
    if (!(all > 0)) return;
    int first = 0, second = -1;
    for (int k = 1; k < SY_PHASE_KINDS; k++)
        if (kind[k] > kind[first]) first = k;
    for (int k = 0; k < SY_PHASE_KINDS; k++)
        if (k != first && (second < 0 || kind[k] > kind[second])) second = k;
    fprintf(f, "<p><b>Time:</b> the ranks spend %.0f %% of their steps on %s and %.0f %% on %s",
            100 * kind[first] / all, sy_phase_kind_text(first), 100 * kind[second] / all,
            sy_phase_kind_text(second));
    if (first != SY_PHASE_EXPERTS && second != SY_PHASE_EXPERTS)
        fprintf(f, "; %.0f %% on %s", 100 * kind[SY_PHASE_EXPERTS] / all,
                sy_phase_kind_text(SY_PHASE_EXPERTS));
    fputs(".</p>\n", f);
}

void sy_report_put_summary(FILE *f, const sy_report *r, const sy_report_gain *gain) {
    put_head(f, r);
    put_nav(f, r, gain);
    sy_html_open_section(f, "summary", "Summary");
    if (r->n_layers == 0)
        fputs("<p>This model has no layers with routed experts, so there are no expert loads; "
              "the "
              "times are below.</p>\n",
              f);
    else if (!sy_report_has_loads(r))
        fputs("<p>No token went through a layer with experts, so there are no loads to "
              "show.</p>\n",
              f);
    put_tiles(f, r);
    if (sy_report_has_loads(r)) {
        if (r->n_ranks > 1) {
            put_worst(f, r, gain);
            put_advice(f, r, gain);
        } else {
            fputs("<p>All experts are on one rank, so no load is uneven between ranks.</p>\n",
                  f);
        }
        put_experts(f, r);
        put_labels(f, r);
    }
    put_time(f, r);
    sy_html_close_section(f);
}
