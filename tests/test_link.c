/* The transport behind the exchange.
 * ranks: 1 2 3 5 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/link.h"

static void must(sy_status st) {
    if (st != SY_OK) fail_msg("%s: %s", sy_status_name(st), sy_last_error());
}

static sy_comm *open_comm(int virtual_hosts) {
    sy_comm_options options = {virtual_hosts, false, 1};
    sy_comm *comm = NULL;
    must(sy_comm_create(&options, &comm));
    return comm;
}

/* Messages of at most 64 bytes. */
static sy_link_shape small_shape(void) {
    sy_link_shape shape = {0};
    for (int c = 0; c < SY_CHANNELS; c++) {
        shape.channel[c].block_bytes = 256;
        shape.channel[c].message_bytes = 64;
        shape.channel[c].unit_bytes = 64;
    }
    return shape;
}

/* That the ranks of a host share memory is no matter of luck: a fallback to MPI would pass every
 * other test. */
static void peers_of_a_host_are_read_in_place(void **state) {
    (void)state;
    sy_link_shape shape = small_shape();
    for (int hosts = 0; hosts <= 3; hosts++) {
        sy_comm *comm = open_comm(hosts);
        int me = sy_comm_rank(comm), size = sy_comm_size(comm);
        sy_link *link = NULL;
        must(sy_link_create(comm, &shape, &link));
        for (int r = 0; r < size; r++) {
            bool same = sy_comm_host(comm, r) == sy_comm_host(comm, me);
            assert_int_equal(sy_link_in_place(link, r), same && r != me);
        }
        sy_link_destroy(link);
        sy_comm_destroy(comm);
    }
}

/* The rules that make acknowledgements needless are enforced. */
static void channels_must_take_turns(void **state) {
    (void)state;
    sy_link_shape shape = small_shape();
    sy_comm *comm = open_comm(0);
    int me = sy_comm_rank(comm), size = sy_comm_size(comm);
    sy_link *link = NULL;
    must(sy_link_create(comm, &shape, &link));
    sy_link_message m;
    int other = (me + 1) % size;
    const char *block = sy_link_block(link, SY_CHANNEL_DISPATCH);
    assert_int_equal(sy_link_wait(link, SY_CHANNEL_COMBINE), SY_ERR_INTERNAL);
    assert_int_equal(sy_link_release(link, SY_CHANNEL_DISPATCH), SY_ERR_INTERNAL);
    assert_int_equal(sy_link_send(link, SY_CHANNEL_COMBINE, other, block, 64), SY_ERR_INTERNAL);
    assert_int_equal(sy_link_send(link, SY_CHANNEL_DISPATCH, other, block, 63),
                     SY_ERR_INTERNAL);
    assert_int_equal(sy_link_send(link, SY_CHANNEL_DISPATCH, other, block, 128),
                     SY_ERR_INTERNAL);
    if (size > 1) {
        assert_int_equal(sy_link_wait(link, SY_CHANNEL_DISPATCH), SY_ERR_INTERNAL);
        assert_int_equal(sy_link_received(link, SY_CHANNEL_DISPATCH, other, &m),
                         SY_ERR_INTERNAL);
    }
    for (int r = 0; r < size; r++)
        if (r != me) must(sy_link_send(link, SY_CHANNEL_DISPATCH, r, block, 64));
    must(sy_link_wait(link, SY_CHANNEL_DISPATCH));
    if (size > 1)
        assert_int_equal(sy_link_send(link, SY_CHANNEL_DISPATCH, other, block, 64),
                         SY_ERR_INTERNAL);
    must(sy_link_release(link, SY_CHANNEL_DISPATCH));
    assert_int_equal(sy_link_wait(link, SY_CHANNEL_DISPATCH), SY_ERR_INTERNAL);
    sy_link_destroy(link);
    sy_comm_destroy(comm);
}

/* What was written is what arrives, round after round, in place and by MPI alike. */
static void messages_arrive_as_written(void **state) {
    (void)state;
    sy_link_shape shape = small_shape();
    for (int hosts = 0; hosts <= 3; hosts++) {
        sy_comm *comm = open_comm(hosts);
        int me = sy_comm_rank(comm), size = sy_comm_size(comm);
        sy_link *link = NULL;
        must(sy_link_create(comm, &shape, &link));
        for (int round = 0; round < 200; round++) {
            sy_channel channel = round % 2 == 0 ? SY_CHANNEL_DISPATCH : SY_CHANNEL_COMBINE;
            char *block = sy_link_block(link, channel);
            memset(block, round * 16 + me, 64);
            for (int r = 0; r < size; r++)
                if (r != me) must(sy_link_send(link, channel, r, block, (r + round) % 2 * 64u));
            must(sy_link_wait(link, channel));
            for (int r = 0; r < size; r++) {
                sy_link_message m;
                char expected[64];
                if (r == me) continue;
                must(sy_link_received(link, channel, r, &m));
                assert_int_equal(m.bytes, (me + round) % 2 * 64);
                memset(expected, round * 16 + r, sizeof expected);
                assert_memory_equal(m.data, expected, m.bytes);
            }
            must(sy_link_release(link, channel));
        }
        sy_link_destroy(link);
        sy_comm_destroy(comm);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peers_of_a_host_are_read_in_place),
        cmocka_unit_test(channels_must_take_turns),
        cmocka_unit_test(messages_arrive_as_written),
    };
    /* MPI cannot start twice in a process, and each test opens a communicator of its own. */
    bool launched = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    int provided = 0;
    if (launched) MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    sy_log_set_level(SY_LOG_WARNING);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    if (launched && failures > 0) MPI_Abort(MPI_COMM_WORLD, 1);
    if (launched) MPI_Finalize();
    return failures > 0;
}
