/* Training and reading of LSTM, GRU and GRU-D on a CPU: all steps, forward or backward, in one call; and dropout.

   A step of a recurrent net of usual size is a small product and a few dozen operations on its gates. A library that
   passes over memory for each of these spends most of its time on the way. Here a few histories at a time are read from
   end to end: products keep their sums in registers, each step makes one pass over its gates, and gradients of weights
   are taken while the gradients of the gates still lie in the cache.

   All arrays are float32, contiguous, histories first: (B, T, ...). The number of units H is a multiple of 16. Matrices
   that multiply rows come packed as __init__.py packs them: for each group of columns all rows, of each row the columns of
   the group, which are at most four vectors of LANES. A history's numbers depend neither on its neighbours nor on the
   number of threads; gradients of weights are summed by thread.

   Compiled once for each instruction set, with LANES floats in a vector and ROWS rows in a block. */

#include <string.h>
#include <xmmintrin.h>

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int I __attribute__((vector_size(4 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define EACH(name, count) _Pragma("GCC unroll 8") for (int name = 0; name < (count); name++)
#define GROUP 12 /* histories read together: their states stay in the first cache, */
#define CHUNK 64 /* and what they wrote in so many steps in the second */

/* `version` changes with what `run`, its functions and `drop` take; __init__.py knows the same. Room is in numbers a unit. */
const int version = 3, lanes = LANES, room_of_a_thread = GROUP * 6;

INLINE V load(const float *from) { return *(const Anywhere *)from; }
INLINE void store(float *to, V x) { *(Anywhere *)to = x; }
INLINE V all(float x) { return x - (V){0}; }
/* Asks early for what the next step in time will read or write; where there is none, nothing happens. */
INLINE void expect(const float *from) { __builtin_prefetch(from, 0); }
INLINE void expect_to_write(float *to) { __builtin_prefetch(to, 1); }

/* e^x to 2e-7 of itself, NaN of NaN; as Cephes' expf: a power of two times a polynomial of the rest. */
INLINE V exponential(V x) {
    const V most = all(87.0f), rounding = all(12582912.0f); /* 1.5 * 2^23: with it added, only the integer is left */
    I above = x > most, below = x < -most;
    x = (V)(((I)most & above) | ((I)-most & below) | ((I)x & ~(above | below)));
    V whole = (x * 1.44269504f + rounding) - rounding;
    V rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V power = all(1.9875691500e-4f);
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    return power * (V)((__builtin_convertvector(whole, I) + 127) << 23);
}
INLINE V sigmoid(V x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE V hyperbolic(V x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; }

/* A block of `product`; `rows` and `vectors` are constants where it is called, so that its sums stay in registers. */
INLINE void block(const int rows, const int vectors, long depth, const float *left, long down, long along,
                  const float *right, float *out, long wide, int add) {
    V sums[ROWS][4];
    EACH(r, rows) EACH(v, vectors) sums[r][v] = all(0);
    for (long k = 0; k < depth; k++, left += along, right += vectors * LANES) {
        V column[4];
        EACH(v, vectors) column[v] = load(right + v * LANES);
        EACH(r, rows) {
            V number = all(left[r * down]);
            EACH(v, vectors) sums[r][v] += number * column[v];
        }
    }
    /* What is added to is added last: a long sum of short sums keeps more digits. */
    EACH(r, rows) EACH(v, vectors) {
        float *target = out + r * wide + v * LANES;
        store(target, add ? load(target) + sums[r][v] : sums[r][v]);
    }
}

/* out[r][c] = sum over k of left[r * down + k * along] * right[k][c], added to what is there if `add`; `count` rows r of
   `wide` numbers, of which `columns` are written. The right side is packed if `stride` is 0; else it has rows so far apart,
   at most CHUNK, and is packed on the way. */
static void product(long count, long columns, long depth, const float *left, long down, long along, const float *right,
                    long stride, float *out, long wide, int add) {
#define BLOCKS(rows, vectors)                                                                             \
    for (; row + rows <= count; row += rows)                                                              \
        block(rows, vectors, depth, left + row * down, down, along, group, out + row * wide + j, wide, add);
#define GROUPS(vectors)                                                                                         \
    for (long j = 0; j < columns; j += vectors * LANES) {                                                       \
        const float *group = right + j * depth;                                                                 \
        float packed[CHUNK * vectors * LANES];                                                                  \
        if (stride) {                                                                                           \
            for (long k = 0; k < depth; k++)                                                                    \
                EACH(v, vectors) store(packed + (k * vectors + v) * LANES, load(right + k * stride + j + v * LANES)); \
            group = packed;                                                                                     \
        }                                                                                                       \
        long row = 0;                                                                                           \
        BLOCKS(ROWS, vectors) BLOCKS(2, vectors) BLOCKS(1, vectors)                                             \
    }
    long vectors = columns / LANES;
    if (vectors % 4 == 0) { GROUPS(4) }
    else if (vectors % 3 == 0) { GROUPS(3) }
    else if (vectors % 2 == 0) { GROUPS(2) }
    else { GROUPS(1) }
}

/* Rows times a packed matrix. */
static void times(long count, const float *left, long depth, const float *packed, float *out, long columns, int add) {
    product(count, columns, depth, left, depth, 1, packed, 0, out, columns, add);
}

/* Adds left' right to out (wide, columns), for `depth` rows of both; the right side has rows of `stride`, out of `apart`. */
static void outer(long depth, const float *left, long wide, const float *right, long stride, long columns, float *out,
                  long apart) {
    product(wide, columns, depth, left, 1, wide, right, stride, out, apart, 1);
}

/* What one call of a function below reads: histories `first` to `first + count`. Each names its arrays for itself. */
typedef struct {
    long steps, inputs, units, first, count;
    float *room;     /* its thread's own */
    float *gradient; /* of the weights, its thread's own */
    float **arrays;
} Part;

/* Where a history of a part has its numbers of a step, in an array of so many numbers a step. */
INLINE float *at(const Part *part, int array, long row, long step, long numbers) {
    return part->arrays[array] + ((part->first + row) * part->steps + step) * numbers;
}

/* Reads a chunk of inputs, from step t: W x of array `x` into `gates`. */
static void read_inputs(const Part *part, int x, int packed, int gates, long t, long columns) {
    const long D = part->inputs, left = part->steps - t;
    for (long row = 0; row < part->count; row++)
        times(left < CHUNK ? left : CHUNK, at(part, x, row, t, D), D, part->arrays[packed], at(part, gates, row, t, columns),
              columns, 0);
}

/* Adds a chunk, from step t, to the gradient of weights of `wide` inputs: what array `inputs` had at each step, or `back`
   steps before, times `columns` of the gradient that lie `first` numbers into it. */
static void learn(const Part *part, int inputs, long wide, int back, int gradient, long numbers, long first, long columns,
                  long t, float *weights, long apart) {
    const long begin = t < back ? back : t, end = t + CHUNK < part->steps ? t + CHUNK : part->steps;
    for (long row = 0; row < part->count && begin < end; row++)
        outer(end - begin, at(part, inputs, row, begin - back, wide), wide, at(part, gradient, row, begin, numbers) + first,
              numbers, columns, weights, apart);
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 4H), gates i, f, g, o; 2 b (4H); 3 packed U' (H, 4H); 4 gates (B, T, 4H), 5 cell
   states, 6 hidden states, all three written. */
void lstm_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *cell = hidden + n * H, *sums = cell + n * H;
    memset(hidden, 0, 6 * n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 4, t, 4 * H);
        if (t > 0) times(n, hidden, H, part->arrays[3], sums, 4 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at(part, 4, row, t, 4 * H), *c = at(part, 5, row, t, H), *h = at(part, 6, row, t, H);
            const float *sum = sums + row * 4 * H;
            for (long j = 0; j < H; j += LANES) {
                V gate[4];
                EACH(g, 4) gate[g] = load(gates + g * H + j) + load(sum + g * H + j) + load(bias + g * H + j);
                EACH(g, 4) expect(gates + (g + 4) * H + j);
                expect_to_write(c + H + j), expect_to_write(h + H + j);
                V in = sigmoid(gate[0]), forget = sigmoid(gate[1]), new = hyperbolic(gate[2]), out = sigmoid(gate[3]);
                V now = forget * load(cell + row * H + j) + in * new, state = out * hyperbolic(now);
                store(gates + j, in), store(gates + H + j, forget);
                store(gates + 2 * H + j, new), store(gates + 3 * H + j, out);
                store(cell + row * H + j, now), store(c + j, now);
                store(hidden + row * H + j, state), store(h + j, state);
            }
        }
    }
}

/* Arrays: 0 x; 1 gates; 2 packed U (4H, H); 3 cell states; 4 hidden states; 5 their gradient; 6 that of W x + b (B, T, 4H),
   written. Weights: W' (D, 4H), U' (H, 4H). */
void lstm_backward(const Part *part) {
    const long H = part->units, n = part->count, D = part->inputs;
    float *now = part->room, *hidden = now + n * 4 * H, *cell = hidden + n * H;
    memset(hidden, 0, 2 * n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 4 * H), *c = at(part, 3, row, t, H), *grad = at(part, 5, row, t, H);
            float *d_gates = at(part, 6, row, t, 4 * H), *own = now + row * 4 * H;
            for (long j = 0; j < H; j += LANES) {
                V in = load(gates + j), forget = load(gates + H + j), new = load(gates + 2 * H + j);
                V out = load(gates + 3 * H + j), bent = hyperbolic(load(c + j)), before = t > 0 ? load(c - H + j) : all(0);
                V d_hidden = load(grad + j) + load(hidden + row * H + j);
                EACH(g, 4) expect(gates + (g - 4) * H + j), expect_to_write(d_gates + (g - 4) * H + j);
                expect(c - 2 * H + j), expect(grad - H + j);
                V d_cell = load(cell + row * H + j) + d_hidden * out * (1.0f - bent * bent);
                V d[4] = {d_cell * new * in * (1.0f - in), d_cell * before * forget * (1.0f - forget),
                          d_cell * in * (1.0f - new * new), d_hidden * bent * out * (1.0f - out)};
                EACH(g, 4) store(d_gates + g * H + j, d[g]), store(own + g * H + j, d[g]);
                store(cell + row * H + j, d_cell * forget);
            }
        }
        if (t > 0) times(n, now, 4 * H, part->arrays[2], hidden, H, 0);
        if (t % CHUNK) continue;
        learn(part, 0, D, 0, 6, 4 * H, 0, 4 * H, t, part->gradient, 4 * H);
        learn(part, 4, H, 1, 6, 4 * H, 0, 4 * H, t, part->gradient + D * 4 * H, 4 * H);
    }
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 3H), gates r, z, n; 2 b (3H); 3 packed U' (H, 3H); 4 c, the bias of U_n h (H);
   5 gates (B, T, 3H), 6 U_n h + c, 7 hidden states, all three written. */
void gru_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *sums = hidden + n * H;
    memset(hidden, 0, 4 * n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 5, t, 3 * H);
        if (t > 0) times(n, hidden, H, part->arrays[3], sums, 3 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at(part, 5, row, t, 3 * H), *kept = at(part, 6, row, t, H), *h = at(part, 7, row, t, H);
            const float *sum = sums + row * 3 * H;
            for (long j = 0; j < H; j += LANES) {
                V read[3];
                EACH(g, 3) read[g] = load(gates + g * H + j) + load(bias + g * H + j);
                EACH(g, 3) expect(gates + (g + 3) * H + j);
                expect_to_write(kept + H + j), expect_to_write(h + H + j);
                V reset = sigmoid(read[0] + load(sum + j)), update = sigmoid(read[1] + load(sum + H + j));
                V recurrent = load(sum + 2 * H + j) + load(part->arrays[4] + j);
                V new = hyperbolic(read[2] + reset * recurrent);
                V state = new + update * (load(hidden + row * H + j) - new);
                store(gates + j, reset), store(gates + H + j, update), store(gates + 2 * H + j, new);
                store(kept + j, recurrent), store(hidden + row * H + j, state), store(h + j, state);
            }
        }
    }
}

/* Arrays: 0 x; 1 gates; 2 packed U (3H, H); 3 U_n h + c; 4 hidden states; 5 their gradient; 6 that of W x + b (B, T, 3H)
   and 7 that of U_n h + c, both written. Weights: W' (D, 3H), U' (H, 3H). */
void gru_backward(const Part *part) {
    const long H = part->units, n = part->count, D = part->inputs;
    float *now = part->room, *hidden = now + n * 3 * H, *weights = part->gradient + D * 3 * H;
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *recurrent = at(part, 3, row, t, H);
            const float *h = at(part, 4, row, t, H), *grad = at(part, 5, row, t, H);
            float *d_gates = at(part, 6, row, t, 3 * H), *d_recurrent = at(part, 7, row, t, H);
            float *own = now + row * 3 * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                V reset = load(gates + j), update = load(gates + H + j), new = load(gates + 2 * H + j);
                EACH(g, 3) expect(gates + (g - 3) * H + j), expect_to_write(d_gates + (g - 3) * H + j);
                expect(recurrent - H + j), expect(h - 2 * H + j), expect(grad - H + j), expect_to_write(d_recurrent - H + j);
                V before = t > 0 ? load(h - H + j) : all(0), d_hidden = load(grad + j) + load(carried + j);
                V d_new = d_hidden * (1.0f - update) * (1.0f - new * new), through = d_new * reset;
                V d_update = d_hidden * (before - new) * update * (1.0f - update);
                V d_reset = d_new * load(recurrent + j) * reset * (1.0f - reset);
                store(d_gates + j, d_reset), store(d_gates + H + j, d_update), store(d_gates + 2 * H + j, d_new);
                store(own + j, d_reset), store(own + H + j, d_update), store(own + 2 * H + j, through);
                store(d_recurrent + j, through), store(carried + j, d_hidden * update);
            }
        }
        if (t > 0) times(n, now, 3 * H, part->arrays[2], hidden, H, 1);
        if (t % CHUNK) continue;
        learn(part, 0, D, 0, 6, 3 * H, 0, 3 * H, t, part->gradient, 3 * H);
        learn(part, 4, H, 1, 6, 3 * H, 0, 2 * H, t, weights, 3 * H);
        learn(part, 4, H, 1, 7, H, 0, H, t, weights + 2 * H, 3 * H);
    }
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 3H), gates r, z, n; 2 b (3H); 3 packed U' of r and z (H, 2H); 4 packed U_n' (H, H);
   5 gamma (B, T, H); 6 gates (B, T, 3H), 7 faded states s, 8 r s, 9 hidden states, all four written. */
void grud_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *faded = hidden + n * H, *open = faded + n * H, *sums = open + n * H;
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 6, t, 3 * H);
        for (long row = 0; row < n; row++) {
            const float *gamma = at(part, 5, row, t, H);
            float *kept = at(part, 7, row, t, H);
            for (long j = 0; j < H; j += LANES) {
                expect(gamma + H + j), expect_to_write(kept + H + j);
                V state = load(gamma + j) * load(hidden + row * H + j);
                store(faded + row * H + j, state), store(kept + j, state);
            }
        }
        times(n, faded, H, part->arrays[3], sums, 2 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at(part, 6, row, t, 3 * H), *kept = at(part, 8, row, t, H);
            const float *sum = sums + row * 2 * H;
            for (long j = 0; j < H; j += LANES) {
                EACH(g, 3) expect(gates + (g + 3) * H + j);
                expect_to_write(kept + H + j);
                V reset = sigmoid(load(gates + j) + load(sum + j) + load(bias + j));
                V update = sigmoid(load(gates + H + j) + load(sum + H + j) + load(bias + H + j));
                V passed = reset * load(faded + row * H + j);
                store(gates + j, reset), store(gates + H + j, update);
                store(open + row * H + j, passed), store(kept + j, passed);
            }
        }
        times(n, open, H, part->arrays[4], sums, H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at(part, 6, row, t, 3 * H), *h = at(part, 9, row, t, H);
            for (long j = 0; j < H; j += LANES) {
                expect_to_write(h + H + j);
                V before = load(faded + row * H + j), update = load(gates + H + j);
                V new = hyperbolic(load(gates + 2 * H + j) + load(sums + row * H + j) + load(bias + 2 * H + j));
                V state = before + update * (new - before);
                store(gates + 2 * H + j, new), store(hidden + row * H + j, state), store(h + j, state);
            }
        }
    }
}

/* Arrays: 0 x; 1 gates; 2 packed U of r and z (2H, H); 3 packed U_n (H, H); 4 gamma; 5 s; 6 r s; 7 hidden states; 8 their
   gradient; 9 that of W x + b (B, T, 3H) and 10 that of gamma, both written. Weights: W' (D, 3H), U' (H, 3H). */
void grud_backward(const Part *part) {
    const long H = part->units, n = part->count, D = part->inputs;
    float *hidden = part->room, *now = hidden + n * H, *candidate = now + n * 2 * H, *open = candidate + n * H;
    float *weights = part->gradient + D * 3 * H;
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *faded = at(part, 5, row, t, H);
            const float *grad = at(part, 8, row, t, H);
            float *d_gates = at(part, 9, row, t, 3 * H), *own = now + row * 2 * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                EACH(g, 3) expect(gates + (g - 3) * H + j), expect_to_write(d_gates + (g - 3) * H + j);
                expect(faded - H + j), expect(grad - H + j);
                V update = load(gates + H + j), new = load(gates + 2 * H + j);
                V d_hidden = load(grad + j) + load(carried + j);
                V d_update = d_hidden * (new - load(faded + j)) * update * (1.0f - update);
                V d_new = d_hidden * update * (1.0f - new * new);
                store(d_gates + H + j, d_update), store(own + H + j, d_update);
                store(d_gates + 2 * H + j, d_new), store(candidate + row * H + j, d_new);
                store(carried + j, d_hidden * (1.0f - update));
            }
        }
        times(n, candidate, H, part->arrays[3], open, H, 0);
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *faded = at(part, 5, row, t, H);
            float *d_gates = at(part, 9, row, t, 3 * H), *own = now + row * 2 * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                V reset = load(gates + j), d_open = load(open + row * H + j);
                V d_reset = d_open * load(faded + j) * reset * (1.0f - reset);
                store(d_gates + j, d_reset), store(own + j, d_reset);
                store(carried + j, load(carried + j) + d_open * reset);
            }
        }
        times(n, now, 2 * H, part->arrays[2], hidden, H, 1);
        for (long row = 0; row < n; row++) {
            const float *gamma = at(part, 4, row, t, H), *h = at(part, 7, row, t, H);
            float *d_gamma = at(part, 10, row, t, H), *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                expect(gamma - H + j), expect(h - 2 * H + j), expect_to_write(d_gamma - H + j);
                V d_faded = load(carried + j);
                store(d_gamma + j, t > 0 ? d_faded * load(h - H + j) : all(0));
                store(carried + j, d_faded * load(gamma + j));
            }
        }
        if (t % CHUNK) continue;
        learn(part, 0, D, 0, 9, 3 * H, 0, 3 * H, t, part->gradient, 3 * H);
        learn(part, 5, H, 0, 9, 3 * H, 0, 2 * H, t, weights, 3 * H);
        learn(part, 6, H, 0, 9, 3 * H, 2 * H, H, t, weights + 2 * H, 3 * H);
    }
}

/* Reads all histories by `read`, one of the functions above, shared out among so many threads, a group at a time. Of
   `room` each thread has room_of_a_thread * `units` numbers, of `gradient` so many as `weights` says. With OpenMP, as torch:
   threads of another kind would fight with its own, which wait for work at full speed. */
void run(void (*read)(const Part *), long histories, long steps, long inputs, long units, long threads, long weights,
         float *room, float *gradient, float **arrays) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long k = 0; k < threads; k++) {
        /* Numbers under 1e-38 count as 0. Gradients come to that on their way back through a long history, and cost a
           processor a hundred times what others do. */
        const unsigned mode = _mm_getcsr();
        _mm_setcsr(mode | 0x8040);
        Part part = {steps, inputs, units, histories * k / threads, 0, room + k * room_of_a_thread * units,
                     gradient + k * weights, arrays};
        for (const long end = histories * (k + 1) / threads; part.first < end; part.first += GROUP) {
            part.count = end - part.first < GROUP ? end - part.first : GROUP;
            read(&part);
        }
        _mm_setcsr(mode);
    }
}

/* Of so many numbers those whose byte is at least `least`, scaled; the others times 0. */
void drop(long count, long threads, int least, float scale, const float *numbers, const unsigned char *bytes, float *out) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < count; i++) out[i] = numbers[i] * (bytes[i] >= least ? scale : 0.0f);
}
