/* What the table of a plan means, in words. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "runtime/plan.h"

__attribute__((format(printf, 2, 3))) static void
say(char out[SY_PLAN_ADVICE_MAX], const char *format, ...) {
    size_t used = strlen(out);
    va_list args;
    va_start(args, format);
    vsnprintf(out + used, SY_PLAN_ADVICE_MAX - used, format, args);
    va_end(args);
}

static const char *plural(int n) {
    return n == 1 ? "" : "s";
}

static double gain(double from, double to) {
    return 100 * (to / from - 1);
}

static void say_gain(char out[SY_PLAN_ADVICE_MAX], double percent, const char *what) {
    if (percent < 0)
        say(out, "%.0f %% less %s", -percent, what);
    else
        say(out, "%.0f %% more %s", percent, what);
}

/* "4 would give 3 % more decode and 2 % less prefill" */
static void
say_step(char out[SY_PLAN_ADVICE_MAX], const sy_plan_row *from, const sy_plan_row *to) {
    say(out, "%d would give ", to->ranks);
    say_gain(out, gain(from->decode.tokens_per_s, to->decode.tokens_per_s), "decode");
    say(out, " and ");
    say_gain(out, gain(from->prefill.tokens_per_s, to->prefill.tokens_per_s), "prefill");
}

static void advise_misfit(const sy_plan_table *t, char out[SY_PLAN_ADVICE_MAX]) {
    const sy_plan_row *whole = &t->row[t->whole];
    char needs[24], has[24];
    say(out, "does not fit: a rank of %d needs %s, %s can be used", whole->ranks,
        sy_format_bytes(needs, sizeof needs, whole->total),
        sy_format_bytes(has, sizeof has, whole->usable));
    if (t->smallest >= 0)
        say(out, "; %d ranks would do", t->row[t->smallest].ranks);
    else if (whole->memory.rest + whole->memory.kv + whole->memory.buffers > whole->usable)
        say(out, "; more ranks do not help, since what every rank holds is too much already");
    else
        say(out, "; nor would any number up to %d", t->row[t->n - 1].ranks);
}

static bool gains_prefill(const sy_plan_row *from, const sy_plan_row *to) {
    return to->prefill.tokens_per_s > from->prefill.tokens_per_s * (1 + SY_PLAN_WORTH);
}

/* What shard on all devices would be worth, if it were there. */
static void advise_shard(const sy_plan_row *best, const sy_plan_row *whole, char *out) {
    double percent = gain(best->decode.tokens_per_s, whole->shard_decode.tokens_per_s);
    if (whole->ranks == 1 || percent <= 100 * SY_PLAN_WORTH) return;
    say(out, ". shard on %d would give ", whole->ranks);
    say_gain(out, percent, "decode");
    say(out, ", but is not built yet");
}

/* The row of twice the best ranks or the nearest above, -1 if there is none. */
static int next_larger(const sy_plan_table *t) {
    for (int i = t->best + 1; i < t->n; i++)
        if (t->row[i].ranks >= 2 * t->row[t->best].ranks) return i;
    return t->best + 1 < t->n ? t->n - 1 : -1;
}

void sy_plan_advise(const sy_plan_table *t, char out[SY_PLAN_ADVICE_MAX]) {
    out[0] = '\0';
    if (t->best < 0) {
        advise_misfit(t, out);
        return;
    }
    const sy_plan_row *best = &t->row[t->best], *whole = &t->row[t->whole];
    int next = next_larger(t);
    say(out, "%d rank%s", best->ranks, plural(best->ranks));
    if (best->ranks > 1) say(out, ", in spread, the one mode that is built");
    if (best->ranks < whole->ranks) {
        /* Of what is there, one example: what the user might have expected to gain from. */
        const sy_plan_row *other = next >= 0 && t->row[next].is_there ? &t->row[next] : whole;
        bool prefill = gains_prefill(best, other) || gains_prefill(best, whole);
        say(out, "; more ranks do not help %s: ", prefill ? "decode" : "you");
        say_step(out, best, other);
        if (other != whole) {
            say(out, ", ");
            say_step(out, best, whole);
        }
    } else if (next >= 0) {
        say(out, "; of more, which are not there, ");
        say_step(out, best, &t->row[next]);
        if (gain(best->decode.tokens_per_s, t->row[next].decode.tokens_per_s) <
            100 * SY_PLAN_WORTH)
            say(out, ": more ranks do not help decode");
    }
    advise_shard(best, whole, out);
}
