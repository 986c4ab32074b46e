/* Vectors of LANES floats, what is computed on them, and products of matrices.

   Compiled once for each instruction set, with ROWS rows in a block of a product. */

#include <immintrin.h>

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int I __attribute__((vector_size(4 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define EACH(name, count) _Pragma("GCC unroll 8") for (int name = 0; name < (count); name++)

INLINE V load(const float *from) { return *(const Anywhere *)from; }
INLINE void store(float *to, V x) { *(Anywhere *)to = x; }
INLINE V all(float x) { return x - (V){0}; }
/* Asks early for what the next step in time will read or write; where there is none, nothing happens. */
INLINE void expect(const float *from) { __builtin_prefetch(from, 0); }
INLINE void expect_to_write(float *to) { __builtin_prefetch(to, 1); }

/* `within` is x cut to [-most, most], NaN of NaN; `times_power` x times two to the power of a whole number. */
#if LANES == 16
INLINE V within(float most, V x) { return _mm512_max_ps(all(-most), _mm512_min_ps(all(most), x)); }
INLINE V times_power(V x, V whole) { return _mm512_scalef_ps(x, whole); }
INLINE V reciprocal(V x) {
    V near = _mm512_rcp14_ps(x); /* and a step of Newton's: twice the digits */
    return near + near * (1.0f - x * near);
}
#else
INLINE V within(float most, V x) { return _mm256_max_ps(all(-most), _mm256_min_ps(all(most), x)); }
INLINE V times_power(V x, V whole) { return x * (V)((__builtin_convertvector(whole, I) + 127) << 23); }
INLINE V reciprocal(V x) { return 1.0f / x; }
#endif

/* e^x to 2e-7 of itself, NaN of NaN; as Cephes' expf: a power of two times a polynomial of the rest. */
INLINE V exponential(V x) {
    const V rounding = all(12582912.0f); /* 1.5 * 2^23: with it added, only the integer is left */
    x = within(87.0f, x);
    V whole = (x * 1.44269504f + rounding) - rounding;
    V rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V power = all(1.9875691500e-4f);
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return times_power(power, whole);
}
INLINE V sigmoid(V x) { return reciprocal(1.0f + exponential(-x)); }
INLINE V hyperbolic(V x) { return 2.0f * reciprocal(1.0f + exponential(-2.0f * x)) - 1.0f; }

/* The larger of x and 0, NaN of NaN; and y where x is larger than 0, else 0. */
INLINE V positive(V x) { return (V)((I)x & ~(I)(x <= 0.0f)); }
INLINE V where_positive(V x, V y) { return (V)((I)y & (I)(x > 0.0f)); }

/* How far apart numbers lie that `product` reads and writes: those of two tables, rows, parts and groups, and neighbours. */
typedef struct { const float *at; long table, row, part, number; } Left;
typedef struct { const float *at; long group, part; } Right;
typedef struct { float *at; long table, row; } Out;

/* A block of `product`; `rows` and `vectors` are constants where it is called, so that its sums stay in registers. */
INLINE void block(const int rows, const int vectors, long parts, long depth, Left left, Right right, Out out, int add) {
    V sums[ROWS][4];
    EACH(r, rows) EACH(v, vectors) sums[r][v] = all(0);
    for (long part = 0; part < parts; part++, left.at += left.part, right.at += right.part) {
        const float *number = left.at, *numbers = right.at;
        for (long k = 0; k < depth; k++, number += left.number, numbers += vectors * LANES) {
            V column[4];
            EACH(v, vectors) column[v] = load(numbers + v * LANES);
            EACH(r, rows) {
                V times = all(number[r * left.row]);
                EACH(v, vectors) sums[r][v] += times * column[v];
            }
        }
    }
    /* What is added to is added last: a long sum of short sums keeps more digits. */
    EACH(r, rows) EACH(v, vectors) {
        float *target = out.at + r * out.row + v * LANES;
        store(target, add ? load(target) + sums[r][v] : sums[r][v]);
    }
}

/* How many vectors of a row are in a group: as many as fit evenly, at most four. */
INLINE long vectors_of(long columns) {
    const long vectors = columns / LANES;
    return vectors % 4 == 0 ? 4 : vectors % 3 == 0 ? 3 : vectors % 2 == 0 ? 2 : 1;
}

/* out[table][row][c] = sum over parts and k of left[table][row][part][k] * right[c's group][part][k][c], added to what is
   there if `add`; `depth` numbers k of each part. The right side is packed: of each k the columns of a group side by side. */
static void product(long tables, long count, long columns, long parts, long depth, Left left, Right right, Out out, int add) {
#define BLOCKS(rows, vectors)                                                                                            \
    for (; ROWS >= rows && row + rows <= count; row += rows)                                                             \
        block(rows, vectors, parts, depth,                                                                               \
              (Left){left.at + table * left.table + row * left.row, 0, left.row, left.part, left.number}, right,         \
              (Out){out.at + table * out.table + row * out.row + j, 0, out.row}, add);
#define GROUPS(vectors)                                                                                                  \
    for (long j = 0; j < columns; j += vectors * LANES, right.at += right.group)                                         \
        for (long table = 0; table < tables; table++) {                                                                  \
            long row = 0;                                                                                                \
            BLOCKS(ROWS, vectors) BLOCKS(4, vectors) BLOCKS(2, vectors) BLOCKS(1, vectors)                               \
        }
    switch (vectors_of(columns)) {
        case 4: GROUPS(4) break;
        case 3: GROUPS(3) break;
        case 2: GROUPS(2) break;
        default: GROUPS(1)
    }
}

/* Rows times a packed matrix. */
static void times(long count, const float *left, long depth, const float *packed, float *out, long columns, int add) {
    product(1, count, columns, 1, depth, (Left){left, 0, depth, 0, 1}, (Right){packed, depth * vectors_of(columns) * LANES, 0},
            (Out){out, 0, columns}, add);
}
