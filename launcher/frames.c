#include "launcher/frames.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

typedef struct header {
    uint32_t type, bytes;
} header;

socklen_t sy_frame_address(const char *name, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    /* The leading NUL of sun_path makes the name abstract. */
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "switchyard-%.*s",
                     SY_TOKEN_CHARS, name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

bool sy_frame_send(int fd,
                   sy_frame_type type,
                   const void *part1,
                   size_t n1,
                   const void *part2,
                   size_t n2,
                   bool wait) {
    header head = {(uint32_t)type, (uint32_t)(n1 + n2)};
    if (n1 > SY_FRAME_MAX || n2 > SY_FRAME_MAX - n1) return false;
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)part1, n1}, {(void *)part2, n2}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    size_t left = sizeof head + n1 + n2;
    while (left > 0) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        left -= (size_t)n;
        for (size_t skip = (size_t)n; skip > 0;) {
            struct iovec *part = message.msg_iov;
            size_t take = skip < part->iov_len ? skip : part->iov_len;
            part->iov_base = (char *)part->iov_base + take;
            part->iov_len -= take;
            skip -= take;
            if (part->iov_len > 0) break;
            message.msg_iov++;
            message.msg_iovlen--;
        }
    }
    return true;
}

/* A whole frame at the front of the buffer. */
static sy_frame_result take(sy_frame_reader *reader, sy_frame *out) {
    header head;
    if (reader->used < sizeof head) return SY_FRAME_NONE;
    memcpy(&head, reader->buffer, sizeof head);
    if (head.type == 0 || head.type >= SY_FRAME_END || head.bytes > SY_FRAME_MAX)
        return SY_FRAME_CLOSED;
    if (reader->used < sizeof head + head.bytes) return SY_FRAME_NONE;
    *out = (sy_frame){(sy_frame_type)head.type, reader->buffer + sizeof head, head.bytes};
    reader->consumed = sizeof head + head.bytes;
    return SY_FRAME_READY;
}

sy_frame_result sy_frame_receive(int fd, sy_frame_reader *reader, bool wait, sy_frame *out) {
    reader->used -= reader->consumed;
    memmove(reader->buffer, reader->buffer + reader->consumed, reader->used);
    reader->consumed = 0;

    sy_frame_result result = take(reader, out);
    if (result != SY_FRAME_NONE) return result;
    ssize_t n;
    do {
        n = recv(fd, reader->buffer + reader->used, sizeof reader->buffer - reader->used,
                 wait ? 0 : MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return SY_FRAME_NONE;
    if (n <= 0) return SY_FRAME_CLOSED;
    reader->used += (size_t)n;
    return take(reader, out);
}
