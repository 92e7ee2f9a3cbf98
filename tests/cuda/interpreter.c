// What a translated kernel runs in: threads as resumable states, a scheduler over warps and blocks in a random, starving
// order, and the checks. ptx.py writes REGISTERS (the fields of a thread), INSTRUCTIONS, SHARED_BYTES and the function `step`.
//
// Global memory: bounds, alignment, races. A word knows its last writer and the last reader in each block, with their epochs;
// an epoch of a block ends at a barrier. Blocks know of each other what was published by a fence and an atomic (`seen`).
// Shared memory: the same within a block, and reads before any write. Lanes are not in lockstep: what relies on that races.
// Counted for each instruction: requests of a warp, bytes, 32-byte sectors, passes of shared memory.
#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#pragma STDC FENV_ACCESS ON
typedef struct {
    uint64_t base, size;
    int32_t* wt;
    uint32_t* we;
    int32_t* rt;
    uint32_t* re;
    uint8_t* wb;
} Buf; /* rt,re: [word*NB+block] */
typedef struct {
    int32_t ins, k, lane, size;
    uint64_t a;
} Log;
typedef struct {
    uint64_t req, bytes, sect, passes, ideal;
} Stat;
#define MAXR 20000
#define BUDGET 200000000ull /* instructions of a launch */
enum { RUN, SHFL, BARW, BAR, GRID, YIELD, DONE };
static Buf bufs[64];
static int nbuf;
static char err[4096];
static int nerr;
static int maxerr = 8;
static Stat stat_[INSTRUCTIONS];
static uint64_t icount, *P_;
static int NB, NT, GD[3], BD[3];
static uint32_t *epoch, *fenced, *publ, *seen, gridepoch;
static int32_t *s_wt, *s_rt;
static uint32_t *s_we, *s_re;
typedef struct T T;
struct T {
    REGISTERS
    int pc, wait, tid, blk, tx, ty, tz, bx, by, bz;
    uint32_t sh_val, sh_b, sh_c, sh_mask;
    int sh_op;
    uint32_t sh_out;
    uint8_t sh_p;
    uint8_t* smem;
    int32_t* cnt;
};
static Log* lgb;
static int nlog;
static void fail(T* t, int ins, const char* m, uint64_t a) {
    if (nerr++ < maxerr) {
        char b[256];
        snprintf(b, 256, "%s: block %d thread %d, ptx line %d, address 0x%llx\n", m, t->blk, t->tid, ins,
                 (unsigned long long)a);
        strncat(err, b, 4095 - strlen(err));
    }
}
static float asf(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static uint32_t asu(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static double asd(uint64_t u) {
    double f;
    memcpy(&f, &u, 8);
    return f;
}
static uint64_t asq(double f) {
    uint64_t u;
    memcpy(&u, &f, 8);
    return u;
}
static float FTZ(float x) { return fpclassify(x) == FP_SUBNORMAL ? copysignf(0.f, x) : x; }
static float fma_rd(float a, float b, float c, int m) {
    int o = fegetround();
    fesetround(m);
    volatile float r = fmaf(a, b, c);
    fesetround(o);
    return r;
}
static float fmax_(float a, float b) { return isnan(a) ? b : isnan(b) ? a : fmaxf(a, b); }
static float fmin_(float a, float b) { return isnan(a) ? b : isnan(b) ? a : fminf(a, b); }
static float h2f(uint16_t h) {
    uint32_t s = (h >> 15) << 31, e = (h >> 10) & 31, m = h & 1023;
    if (e == 31) return asf(s | 0x7f800000 | (m << 13));
    if (!e) {
        float f = m * 5.9604644775390625e-8f;
        return s ? -f : f;
    }
    return asf(s | ((e + 112) << 23) | (m << 13));
}
#define GB (1ull << 60)
static void logit(T* t, int ins, uint64_t a, int size) {
    if (nlog < LOG_ENTRIES) {
        Log* l = &lgb[nlog++];
        l->ins = ins;
        l->k = t->cnt[ins]++;
        l->lane = t->tid & 31;
        l->size = size;
        l->a = a;
    }
}
/* kind 0 load, 1 store, 2 atomic */
static void* GM(T* t, uint64_t a, int size, int kind, int ins) {
    if (a >= GB) {
        static uint64_t z[2];
        fail(t, ins, "shared address used as global", a);
        return z;
    }
    if (a % size) {
        fail(t, ins, "misaligned global access", a);
    }
    for (int i = 0; i < nbuf; i++)
        if (a >= bufs[i].base && a + size <= bufs[i].base + bufs[i].size) {
            logit(t, ins, a, size);
            Buf* b = &bufs[i];
            int g = t->blk * NT + t->tid;
            uint32_t e = epoch[t->blk];
            for (uint64_t w = (a - b->base) / 4; w < (a - b->base + size + 3) / 4; w++) {
#define ORD(ot, oe) ((ot) < 0 || (ot) == g || ((ot) / NT == t->blk ? (oe) < e : seen[t->blk * NB + (ot) / NT] > (oe)))
                if (kind == 0) {
                    if (b->wt[w] != -1 && !ORD(b->wt[w], b->we[w])) fail(t, ins, "RACE read after unordered write (global)", a);
                    size_t q = w * NB + t->blk;
                    b->rt[q] = (b->re[q] == e + 1 && b->rt[q] != t->tid) ? -2 : t->tid;
                    b->re[q] = e + 1;
                } else if (kind == 1) {
                    if (!ORD(b->wt[w], b->we[w])) fail(t, ins, "RACE write after unordered write (global)", a);
                    for (int o = 0; o < NB; o++) {
                        size_t q = w * NB + o;
                        if (!b->re[q]) continue;
                        if (o == t->blk ? (b->re[q] > e && b->rt[q] != t->tid) : seen[t->blk * NB + o] < b->re[q]) {
                            fail(t, ins, "RACE write after unordered read (global)", a);
                            break;
                        }
                    }
                    b->wt[w] = g;
                    b->we[w] = e;
                    b->wb[w] = 1;
                } else
                    b->wb[w] = 1;
            }
            return (void*)a;
        }
    fail(t, ins, kind ? "OUT OF BOUNDS global store" : "OUT OF BOUNDS global load", a);
    static uint64_t z[2];
    return z;
}
static void* SM(T* t, uint64_t a, int size, int kind, int ins) {
    if (a >= GB) a -= GB;
    static uint64_t z[2];
    if (a + size > SHARED_BYTES) {
        fail(t, ins, "OUT OF BOUNDS shared", a);
        return z;
    }
    if (a % size) fail(t, ins, "misaligned shared access", a);
    logit(t, ins, GB + a, size);
    uint32_t e = epoch[t->blk];
    size_t o = (size_t)t->blk * (SHARED_BYTES / 4 + 1);
    for (uint64_t w = a / 4; w < (a + size + 3) / 4; w++) {
        size_t q = o + w;
        if (kind == 0) {
            if (s_wt[q] == -1)
                fail(t, ins, "shared read before any write", a);
            else if (s_wt[q] != t->tid && s_we[q] >= e)
                fail(t, ins, "RACE shared read after write, no barrier between", a);
            if (s_re[q] == e && s_rt[q] != t->tid)
                s_rt[q] = -2;
            else
                s_rt[q] = t->tid;
            s_re[q] = e;
        } else if (kind == 1) {
            if (s_wt[q] >= 0 && s_wt[q] != t->tid && s_we[q] >= e)
                fail(t, ins, "RACE shared write after write, no barrier between", a);
            if (s_rt[q] != -1 && s_rt[q] != t->tid && s_re[q] >= e)
                fail(t, ins, "RACE shared write after read, no barrier between", a);
            s_wt[q] = t->tid;
            s_we[q] = e;
        } else {
            s_wt[q] = t->tid;
            s_we[q] = e;
        }
    }
    return t->smem + a;
}
static void* GEN(T* t, uint64_t a, int size, int kind, int ins) {
    return a >= GB ? SM(t, a, size, kind, ins) : GM(t, a, size, kind, ins);
}
static void fence(T* t) { fenced[t->blk] = epoch[t->blk] + 1; }
static void sync_atom(T* t) {
    for (int b = 0; b < NB; b++)
        if (publ[b] > seen[t->blk * NB + b]) seen[t->blk * NB + b] = publ[b];
    uint32_t pv = fenced[t->blk] < epoch[t->blk] ? fenced[t->blk] : epoch[t->blk];
    if (pv > publ[t->blk]) publ[t->blk] = pv;
}
static int step(T* t);
static int cmpl(const void* x, const void* y) {
    const Log *a = x, *b = y;
    if (a->ins != b->ins) return a->ins - b->ins;
    if (a->k != b->k) return a->k - b->k;
    return a->a < b->a ? -1 : a->a > b->a;
}
static void wflush(T* w, int n) {
    qsort(lgb, nlog, sizeof(Log), cmpl);
    for (int i = 0; i < nlog;) {
        int j = i;
        Stat* s = &stat_[lgb[i].ins];
        s->req++;
        uint64_t ls = ~0ull;
        int sh = lgb[i].a >= GB;
        int per = lgb[i].size == 16 ? 8 : lgb[i].size == 8 ? 16 : 32;
        int nw[4] = {0, 0, 0, 0};
        static uint64_t ww[4][128];
        for (; j < nlog && lgb[j].ins == lgb[i].ins && lgb[j].k == lgb[i].k; j++) {
            s->bytes += lgb[j].size;
            if (!sh) {
                for (uint64_t q = lgb[j].a / 32; q <= (lgb[j].a + lgb[j].size - 1) / 32; q++)
                    if (q != ls) {
                        s->sect++;
                        ls = q;
                    }
            } else {
                int p = lgb[j].lane / per;
                for (int c = 0; c < lgb[j].size / 4 || c == 0; c++) {
                    uint64_t wd = (lgb[j].a - GB) / 4 + c;
                    int dup = 0;
                    for (int z = 0; z < nw[p]; z++) dup |= ww[p][z] == wd;
                    if (!dup && nw[p] < 128) ww[p][nw[p]++] = wd;
                }
            }
        }
        if (sh)
            for (int p = 0; p < 4; p++)
                if (nw[p]) {
                    int cn[32] = {0}, mx = 0;
                    for (int z = 0; z < nw[p]; z++) {
                        int b = ww[p][z] % 32;
                        if (++cn[b] > mx) mx = cn[b];
                    }
                    s->passes += mx;
                    s->ideal++;
                }
        i = j;
    }
    nlog = 0;
    for (int l = 0; l < n; l++) memset(w[l].cnt, 0, sizeof(int32_t) * INSTRUCTIONS);
}
static int run_warp(T* w, int n) { /* advance a warp until every lane waits for block/grid/yield or is done; 1 = progress */
    int prog = 0;
    for (;;) {
        if (icount > BUDGET) {
            fail(&w[0], 0, "HANG: instructions without end", 0);
            return -1;
        }
        int any = 0;
        for (int l = 0; l < n; l++)
            if (w[l].wait == RUN) {
                step(&w[l]);
                any = prog = 1;
            }
        uint32_t at = 0, fin = 0;
        for (int l = 0; l < n; l++) {
            if (w[l].wait == SHFL || w[l].wait == BARW) at |= 1u << l;
            if (w[l].wait == DONE) fin |= 1u << l;
        }
        if (at) {
            int f = __builtin_ctz(at);
            uint32_t m = w[f].sh_mask;
            if (n < 32) m &= (1u << n) - 1;
            int ok = 1;
            for (int l = 0; l < n; l++)
                if (m >> l & 1) {
                    if (!(at >> l & 1) || w[l].pc != w[f].pc) ok = 0;
                }
            if (!ok) {
                int stuck = 1;
                for (int l = 0; l < n; l++)
                    if (w[l].wait == YIELD) stuck = 0;
                if (stuck) {
                    fail(&w[f], w[f].pc, "DIVERGENT shuffle / warp barrier: lanes of the mask are not all here", m);
                    return -1;
                }
                return prog;
            }
            for (int l = 0; l < n; l++)
                if ((m >> l & 1) && w[l].wait == SHFL) {
                    int c = w[l].sh_c, b = w[l].sh_b & 31, seg = (c >> 8) & 31, cl = c & 31, mx = (l & seg) | (cl & ~seg & 31),
                        mn = l & seg, j, p;
                    switch (w[l].sh_op) {
                        case 0:
                            j = l ^ b;
                            p = j <= mx;
                            break;
                        case 1:
                            j = l + b;
                            p = j <= mx;
                            break;
                        case 2:
                            j = l - b;
                            p = j >= mn;
                            break;
                        default:
                            j = mn | (b & ~seg & 31);
                            p = j <= mx;
                    }
                    if (!p) j = l;
                    if (!(m >> j & 1)) fail(&w[l], w[l].pc, "shuffle reads a lane outside the mask", j);
                    w[l].sh_out = w[j].sh_val;
                    w[l].sh_p = p;
                }
            for (int l = 0; l < n; l++)
                if (m >> l & 1) w[l].wait = RUN;
            wflush(w, n);
            continue;
        }
        if (!any) break;
    }
    wflush(w, n);
    return prog;
}
int run(int nb, int nt, int* gd, int* bd, uint64_t* params, int nbufs, uint64_t* bb, int coop, unsigned seed, char* out,
        Stat* so, uint64_t* ic, uint8_t** wbout) {
    NB = nb;
    NT = nt;
    memcpy(GD, gd, 12);
    memcpy(BD, bd, 12);
    nbuf = nbufs;
    err[0] = 0;
    nerr = 0;
    memset(stat_, 0, sizeof stat_);
    icount = 0;
    P_ = params;
    for (int i = 0; i < nbuf; i++) {
        size_t n = bb[2 * i + 1] / 4 + 2;
        bufs[i] =
            (Buf){bb[2 * i], bb[2 * i + 1], malloc(4 * n), calloc(n, 4), calloc(n * nb, 4), calloc(n * nb, 4), calloc(n, 1)};
        memset(bufs[i].wt, 255, 4 * n);
    }
    epoch = calloc(nb, 4);
    fenced = calloc(nb, 4);
    publ = calloc(nb, 4);
    seen = calloc((size_t)nb * nb, 4);
    size_t sw = (size_t)nb * (SHARED_BYTES / 4 + 1);
    s_wt = malloc(4 * sw);
    s_rt = malloc(4 * sw);
    memset(s_wt, 255, 4 * sw);
    memset(s_rt, 255, 4 * sw);
    s_we = calloc(sw, 4);
    s_re = calloc(sw, 4);
    lgb = malloc(sizeof(Log) * LOG_ENTRIES);
    T* th = calloc((size_t)nb * nt, sizeof(T));
    uint8_t* sm = malloc((size_t)nb * (SHARED_BYTES + 64));
    memset(sm, 0xff, (size_t)nb * (SHARED_BYTES + 64));
    int32_t* cn = calloc((size_t)nb * nt * INSTRUCTIONS, 4);
    for (int b = 0; b < nb; b++)
        for (int t = 0; t < nt; t++) {
            T* q = &th[b * nt + t];
            q->tid = t;
            q->blk = b;
            q->tx = t % bd[0];
            q->ty = t / bd[0] % bd[1];
            q->tz = t / bd[0] / bd[1];
            q->bx = b % gd[0];
            q->by = b / gd[0] % gd[1];
            q->bz = b / gd[0] / gd[1];
            q->smem = sm + (size_t)b * ((SHARED_BYTES + 63) / 64 * 64);
            q->cnt = cn + (size_t)(b * nt + t) * INSTRUCTIONS;
        }
    int* ord = malloc(4 * nb);
    for (int i = 0; i < nb; i++) ord[i] = i;
    srand(seed);
    int left = nb, dead = 0;
    char* fin = calloc(nb, 1);
    long rounds = 0;
    while (left && !dead) {
        int prog = 0;
        if (++rounds > MAXR) {
            fail(&th[0], 0, "HANG: blocks spin without end", left);
            break;
        }
        if (seed)
            for (int i = nb - 1; i > 0; i--) {
                int j = rand() % (i + 1), z = ord[i];
                ord[i] = ord[j];
                ord[j] = z;
            }
        for (int oi = 0; oi < nb && !dead; oi++) {
            int b = ord[oi];
            if (fin[b]) continue;
            if (seed && NB > 1 && (rand() >> 8) % 3 == 0) {
                prog = 1;
                continue;
            }
            T* q = th + b * nt;
            int nw = (nt + 31) / 32, w0 = seed ? rand() % nw : 0;
            for (;;) {
                for (int k = 0; k < nw; k++) {
                    int w = (k + w0) % nw;
                    int n = nt - 32 * w < 32 ? nt - 32 * w : 32;
                    int r = run_warp(q + 32 * w, n);
                    if (r < 0) {
                        dead = 1;
                        break;
                    }
                    prog |= r;
                }
                if (dead) break;
                int c[8] = {0};
                for (int t = 0; t < nt; t++) c[q[t].wait]++;
                if (c[DONE] == nt) {
                    fin[b] = 1;
                    left--;
                    break;
                }
                if (c[BAR] && c[BAR] + c[DONE] == nt) {
                    if (c[DONE] && nerr < maxerr)
                        fail(&q[0], 0, "bar.sync reached by some threads after others exited", c[DONE]);
                    int pc = -1;
                    for (int t = 0; t < nt; t++)
                        if (q[t].wait == BAR) {
                            if (pc >= 0 && q[t].pc != pc)
                                fail(&q[t], q[t].pc, "DIVERGENT bar.sync: threads wait at different barriers", pc);
                            pc = q[t].pc;
                            q[t].wait = RUN;
                        }
                    epoch[b]++;
                    prog = 1;
                    if (seed && NB > 1 && (rand() >> 8) % 2) break;
                    continue;
                }
                if (c[YIELD]) {
                    for (int t = 0; t < nt; t++)
                        if (q[t].wait == YIELD) q[t].wait = RUN;
                    prog = 1;
                }
                break;
            }
        }
        int g = 0, al = 0;
        for (int i = 0; i < nb * nt; i++) {
            if (th[i].wait != DONE) al++;
            if (th[i].wait == GRID) g++;
        }
        if (al && g == al) {
            for (int i = 0; i < nb * nt; i++)
                if (th[i].wait == GRID) th[i].wait = RUN;
            for (int b = 0; b < nb; b++) epoch[b]++;
            for (int b = 0; b < nb; b++)
                for (int c = 0; c < nb; c++) seen[b * nb + c] = epoch[c];
            prog = 1;
        }
        if (!prog && left) {
            fail(&th[0], 0, "DEADLOCK: barrier not reached by all threads", left);
            break;
        }
    }
    strcpy(out, err);
    memcpy(so, stat_, sizeof stat_);
    *ic = icount;
    for (int i = 0; i < nbuf; i++) {
        if (wbout && wbout[i]) memcpy(wbout[i], bufs[i].wb, bufs[i].size / 4);
        free(bufs[i].wt);
        free(bufs[i].we);
        free(bufs[i].rt);
        free(bufs[i].re);
        free(bufs[i].wb);
    }
    free(epoch);
    free(fenced);
    free(publ);
    free(seen);
    free(s_wt);
    free(s_rt);
    free(s_we);
    free(s_re);
    free(lgb);
    free(th);
    free(sm);
    free(cn);
    free(ord);
    free(fin);
    return nerr;
}
