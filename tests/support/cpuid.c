/* A disguise for the CPU: every `cpuid` of a library is made an invalid instruction, and `xgetbv` another, and the fault is
   answered here, as another CPU would answer. It needs nothing of the kernel, so it works on the CPUs of every maker. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct cpu {
  const char *name, *vendor;
  unsigned signature;             /* leaf 1, eax: family, model, stepping */
  unsigned extended_ecx;          /* leaf 0x80000001: what it has there beside LZCNT, LAHF and PREFETCHW */
  unsigned b, c, d;               /* leaf 7.0 beyond Haswell's */
  unsigned a1, d1;                /* leaf 7.1 */
};

enum { ABM = 1 << 5, SSE4A = 1 << 6, MISALIGNED = 1 << 7 };
#define AVX512_SKYLAKE (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)             /* F, DQ, CD, BW, VL */
#define AVX512_MORE (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)                  /* VBMI, VBMI2, VNNI, … */
#define GFNI_VAES (1u << 8 | 1u << 9 | 1u << 10)
#define HASWELL7B (1u << 0 | 1u << 3 | 1u << 5 | 1u << 7 | 1u << 8 | 1u << 9)              /* BMI, AVX2, BMI2, … */
#define AMX (1u << 22 | 1u << 24 | 1u << 25)

static const struct cpu cpus[] = {
    {"haswell", "GenuineIntel", 0x000306c3, 0, 0, 0, 0, 0, 0},
    {"skylake-avx512", "GenuineIntel", 0x00050654, 0, AVX512_SKYLAKE, 0, 0, 0, 0},
    {"sapphirerapids", "GenuineIntel", 0x000806f8, 0, AVX512_SKYLAKE | 1u << 21 | 1u << 29, AVX512_MORE | GFNI_VAES,
     AMX | 1u << 23, 1u << 4 | 1u << 5, 0},
    {"arrowlake", "GenuineIntel", 0x000c0660, 0, 1u << 29, GFNI_VAES, 0, 1u << 4 | 1u << 23, 1u << 4 | 1u << 5},
    {"znver2", "AuthenticAMD", 0x00830f10, SSE4A | MISALIGNED, 1u << 29, 0, 0, 0, 0},
    {"znver3", "AuthenticAMD", 0x00a20f10, SSE4A | MISALIGNED, 1u << 29, 1u << 9 | 1u << 10, 0, 0, 0},
    {"znver4", "AuthenticAMD", 0x00a60f12, SSE4A | MISALIGNED, AVX512_SKYLAKE | 1u << 21 | 1u << 29,
     AVX512_MORE | GFNI_VAES, 0, 1u << 5, 0},
    {"znver5", "AuthenticAMD", 0x00b40f40, SSE4A | MISALIGNED, AVX512_SKYLAKE | 1u << 21 | 1u << 29,
     AVX512_MORE | GFNI_VAES, 1u << 8, 1u << 4 | 1u << 5, 0},
};
static const struct cpu *as;

/* What the system saves of a thread's state: with AVX-512 its registers, with AMX its tiles. */
static unsigned saved(void) { return 7 | (as->b & 1u << 16 ? 0xe0 : 0) | (as->d & AMX ? 0x60000 : 0); }

static void disguise(unsigned leaf, unsigned subleaf, unsigned r[4]) {
  if (leaf == 0 || leaf == 0x80000000) memcpy(&r[1], as->vendor, 4), memcpy(&r[3], as->vendor + 4, 4), memcpy(&r[2], as->vendor + 8, 4);
  if (leaf == 0) r[0] = 0x24;
  if (leaf == 0x80000000) r[0] = 0x80000008;
  if (leaf == 1) r[0] = as->signature;
  if (leaf == 0x80000001) r[2] = 1 | ABM | 1u << 8 | as->extended_ecx;
  if (leaf == 7 && subleaf == 0) r[0] = 1, r[1] = HASWELL7B | as->b, r[2] = as->c, r[3] = as->d;
  if (leaf == 7 && subleaf == 1) r[0] = as->a1, r[1] = r[2] = 0, r[3] = as->d1;
  if (leaf == 7 && subleaf > 1) memset(r, 0, 16);
  if (leaf == 0xd && subleaf == 0) r[0] = saved();
  if (leaf == 0xd && subleaf == 1) r[0] = 1;
  if (leaf == 0x14 || leaf == 0x19 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) memset(r, 0, 16);
}

#define NO_CPUID "\x0f\x0b"      /* ud2 */
#define NO_XGETBV "\x0f\xff\xc0" /* ud0, of three bytes as xgetbv */

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned leaf = g[REG_RAX], subleaf = g[REG_RCX], r[4];
  if (!memcmp((void *)g[REG_RIP], NO_CPUID, 2)) {
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
    disguise(leaf, subleaf, r);
    g[REG_RAX] = r[0], g[REG_RBX] = r[1], g[REG_RCX] = r[2], g[REG_RDX] = r[3], g[REG_RIP] += 2;
  } else if (!memcmp((void *)g[REG_RIP], NO_XGETBV, 3)) {
    g[REG_RAX] = saved(), g[REG_RDX] = 0, g[REG_RIP] += 3;
  } else {
    signal(number, SIG_DFL); /* another fault */
  }
}

static int replace(unsigned char **places, int count, const char *code, size_t size) {
  for (int i = 0; i < count; i++) {
    unsigned char *page = (unsigned char *)((size_t)places[i] & ~(size_t)4095);
    if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return 1;
    memcpy(places[i], code, size);
    if (mprotect(page, 8192, PROT_READ | PROT_EXEC)) return 1;
  }
  return 0;
}

/* Takes the place of the instructions at these addresses; 0 where the CPU is known and their memory could be written. */
int put_on(const char *name, unsigned char **cpuid, int cpuids, unsigned char **xgetbv, int xgetbvs) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
  for (size_t i = 0; i < sizeof cpus / sizeof *cpus; i++)
    if (!strcmp(cpus[i].name, name)) as = &cpus[i];
  if (!as || sigaction(SIGILL, &action, 0)) return 1;
  return replace(cpuid, cpuids, NO_CPUID, 2) || replace(xgetbv, xgetbvs, NO_XGETBV, 3);
}
