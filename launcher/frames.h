/* What the front end and the ranks say to each other: frames over a private socket.
 *
 * The front end listens on a Unix socket with a random name in the abstract namespace (nothing
 * in the file system). Every rank of the front end's own host connects, names itself in a hello
 * with the secret token, and from then on sends its log lines, errors, and, as rank 0, results,
 * progress and requests for stdin. Both ends belong to the same user (SO_PEERCRED). Integers are
 * in the machine's own order: both ends run on the same host. */
#ifndef SY_LAUNCHER_FRAMES_H
#define SY_LAUNCHER_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/status.h"

typedef enum sy_frame_type {
    /* rank to front end */
    SY_FRAME_HELLO = 1, /* sy_frame_hello                                        */
    SY_FRAME_STARTED,   /* empty: MPI is up on all ranks                         */
    SY_FRAME_RESULT,    /* bytes for stdout                                      */
    SY_FRAME_FLUSH,     /* empty; answered by FLUSHED once stdout took all       */
    SY_FRAME_READ,      /* uint32: most bytes wanted of stdin; answered by DATA  */
    SY_FRAME_LOG,       /* one byte sy_log_level, then a line                    */
    SY_FRAME_PROGRESS,  /* double share, then "what" NUL "detail"                */
    SY_FRAME_STATUS,    /* int32 sy_status, then the error text: the rank's last word */
    /* front end to rank */
    SY_FRAME_WELCOME,    /* one byte: whether stdout is a terminal               */
    SY_FRAME_STOP,       /* empty: the user wants to end                         */
    SY_FRAME_DATA,       /* int32 errno, then bytes of stdin; none: its end      */
    SY_FRAME_FLUSHED,    /* empty                                                */
    SY_FRAME_OUT_FAILED, /* int32 errno of stdout                                */
    SY_FRAME_END
} sy_frame_type;

enum { SY_FRAME_MAX = 65536, SY_TOKEN_CHARS = 32 };

/* Environment variable of the ranks: "NAME.TOKEN", both SY_TOKEN_CHARS hexadecimal digits. */
#define SY_FRONTEND_VARIABLE "SWITCHYARD_FRONTEND"

/* A rank that cannot reach the socket (it runs on another host) writes this and the token on its
 * stderr instead of a STARTED frame. */
#define SY_STARTED_LINE "switchyard-started "

typedef struct sy_frame_hello {
    char token[SY_TOKEN_CHARS];
    int32_t rank;
} sy_frame_hello;

typedef struct sy_frame {
    sy_frame_type type;
    const char *data; /* valid until the next receive */
    size_t n;
} sy_frame;

/* Collects the bytes of one peer into frames. */
typedef struct sy_frame_reader {
    size_t used, consumed;
    char buffer[2 * sizeof(uint32_t) + SY_FRAME_MAX];
} sy_frame_reader;

typedef enum sy_frame_result { SY_FRAME_NONE, SY_FRAME_READY, SY_FRAME_CLOSED } sy_frame_result;

/* Address of the socket with a name of SY_TOKEN_CHARS characters; returns its length. */
socklen_t sy_frame_address(const char *name, struct sockaddr_un *address);

/* Sends one frame of two parts, n1 + n2 <= SY_FRAME_MAX. wait: block until the socket took it,
 * else give up at once if it would block. False: the connection is no longer usable. */
bool sy_frame_send(int fd,
                   sy_frame_type type,
                   const void *part1,
                   size_t n1,
                   const void *part2,
                   size_t n2,
                   bool wait);

/* The next frame, reading from the socket at most once. NONE: not whole yet. CLOSED: the peer is
 * gone or sent what is no frame. */
sy_frame_result sy_frame_receive(int fd, sy_frame_reader *reader, bool wait, sy_frame *out);

#endif
