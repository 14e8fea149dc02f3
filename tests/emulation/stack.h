/* Switching stacks: what a callee must preserve is pushed on the old stack, popped off the new
 * one. About 3 ns; swapcontext takes 70 times that, for a system call. */
#ifndef SY_EMULATION_STACK_H
#define SY_EMULATION_STACK_H

#include "inside.h"

#if EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

struct emu_stack {
    void *sp; /* where it was left */
    char *low;
    size_t bytes;
    emu_thread *runs;  /* the CUDA thread on it */
    void *asan_frames; /* AddressSanitizer's own record of the stack's frames */
};

extern "C" void emu_stack_switch(void **save, void *load);

#if defined(__x86_64__)
/* As emu_stack_switch will pop them: r15 r14 r13 r12 rbx rbp, the return address, and a word so
 * that the first function finds the stack aligned as after a call. */
enum { EMU_FRAME_WORDS = 8, EMU_FRAME_ENTRY = 6 };
#elif defined(__aarch64__)
/* x19..x28, x29, x30 (where to return), d8..d15. */
enum { EMU_FRAME_WORDS = 20, EMU_FRAME_ENTRY = 11 };
#else
#error "the emulation needs emu_stack_switch for this processor"
#endif

#ifdef EMU_DEFINE_STACK_SWITCH
#if defined(__x86_64__)
asm(R"(
    .text
    .globl emu_stack_switch
    .type emu_stack_switch, @function
emu_stack_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_stack_switch, . - emu_stack_switch
)");
#else
asm(R"(
    .text
    .globl emu_stack_switch
    .type emu_stack_switch, %function
emu_stack_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emu_stack_switch, . - emu_stack_switch
)");
#endif
#endif

static inline void emu_go(emu_stack *from, emu_stack *to) {
#if EMU_ASAN
    __sanitizer_start_switch_fiber(&from->asan_frames, to->low, to->bytes);
    emu_stack_switch(&from->sp, to->sp);
    __sanitizer_finish_switch_fiber(from->asan_frames, nullptr, nullptr);
#else
    emu_stack_switch(&from->sp, to->sp);
#endif
}

/* Lays out a stack so that the first switch to it calls entry, which must not return. */
static inline void emu_lay(emu_stack *s, void (*entry)(void)) {
#if EMU_ASAN
    __asan_unpoison_memory_region(s->low, s->bytes);
#endif
    void **frame = (void **)(void *)(s->low + s->bytes - 64) - EMU_FRAME_WORDS;
    memset(frame, 0, EMU_FRAME_WORDS * sizeof *frame);
    frame[EMU_FRAME_ENTRY] = (void *)entry;
    s->sp = frame;
    s->asan_frames = nullptr;
}

#endif
