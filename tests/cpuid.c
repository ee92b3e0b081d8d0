/* A disguise for the CPU: preloaded, CPUID answers as on an AMD Zen 3, which has AVX2 and none of what came after.
   Linux lets a process forbid itself the instruction (arch_prctl), and the fault is answered here. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static void disguise(unsigned leaf, unsigned subleaf, unsigned r[4]) {
  if (leaf == 0 || leaf == 0x80000000) memcpy(&r[1], "Auth", 4), memcpy(&r[3], "enti", 4), memcpy(&r[2], "cAMD", 4);
  if (leaf == 1) r[0] = 0x00a20f10;
  if (leaf == 7 && subleaf == 0) {
    r[1] &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
    r[2] &= ~(1u << 1 | 1u << 6 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 14); /* and GFNI, VAES */
    r[3] &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25); /* and AMX */
  }
  if ((leaf == 7 && subleaf > 0) || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) memset(r, 0, 16);
}

static void answer(int signal_number, siginfo_t *info, void *context) {
  greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned leaf = g[REG_RAX], subleaf = g[REG_RCX], r[4];
  if (memcmp((void *)g[REG_RIP], "\x0f\xa2", 2)) { /* another fault */
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
  __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
  syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
  disguise(leaf, subleaf, r);
  g[REG_RAX] = r[0], g[REG_RBX] = r[1], g[REG_RCX] = r[2], g[REG_RDX] = r[3], g[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, 0);
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) _exit(77); /* this kernel or CPU cannot */
}
