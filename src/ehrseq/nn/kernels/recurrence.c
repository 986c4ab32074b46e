/* Training and reading of LSTM, GRU and GRU-D on a CPU: all steps, forward or backward, in one call; what is read at each
   step; and dropout.

   A step of a recurrent net of usual size is a small product and a few dozen operations on its gates. A library that
   passes over memory for each of these spends most of its time on the way. Here a few histories at a time are read from
   end to end: products keep their sums in registers, each step makes one pass over its gates, and gradients of weights
   and inputs are taken while the gradients of the gates still lie in the cache; these themselves go nowhere else.

   All arrays are float32, contiguous, histories first: (B, T, ...). The number of units H is a multiple of 16. Matrices
   that multiply rows come packed as __init__.py packs them: for each group of columns all rows, of each row the columns of
   the group, which are at most four vectors of LANES. A history's numbers depend neither on its neighbours nor on the
   number of threads; gradients of weights are summed by thread. */

#include <string.h>
#include <xmmintrin.h>

#include "vectors.h"

#define GROUP 12 /* histories read together: their states stay in the first cache, */
#define CHUNK 24 /* and what they wrote in so many steps in the second */

/* `version` changes with what the functions called from outside take; __init__.py knows the same. Room is in numbers a
   unit. */
const int version = 4, lanes = LANES, room_of_a_thread = GROUP * (6 + 4 * CHUNK), chunk_of_rows = CHUNK;

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

/* The same of an array that there only is where somebody will go back: else the steps of a chunk have `room` for it. */
INLINE float *at_if_kept(const Part *part, int array, float *room, long row, long step, long numbers) {
    return part->arrays[array] ? at(part, array, row, step, numbers) : room + (row * CHUNK + step % CHUNK) * numbers;
}

/* How many steps the chunk has that begins at step t. */
INLINE long chunk(const Part *part, long t) { return part->steps - t < CHUNK ? part->steps - t : CHUNK; }

/* Reads a chunk of inputs, from step t: W x of array `x` into `gates`, or into `room`. */
static void read_inputs(const Part *part, int x, int packed, int gates, float *room, long t, long columns) {
    const long D = part->inputs, apart = part->arrays[gates] ? part->steps : CHUNK;
    product(part->count, chunk(part, t), columns, 1, D, (Left){at(part, x, 0, t, D), part->steps * D, D, 0, 1},
            (Right){part->arrays[packed], D * vectors_of(columns) * LANES, 0},
            (Out){at_if_kept(part, gates, room, 0, t, columns), apart * columns, columns}, 0);
}

/* Gradients of gates in the steps of a chunk, packed for products: history, group of columns, step, column. */
typedef struct { float *at; long columns, group; } Kept;

INLINE Kept kept(float *room, long columns) { return (Kept){room, columns, vectors_of(columns) * LANES}; }

/* Puts in those of step t, which lie so many numbers apart. */
static void keep(const Part *part, Kept to, long t, const float *from, long apart) {
    for (long row = 0; row < part->count; row++, from += apart)
        for (long j = 0; j < to.columns; j += to.group)
            for (long v = 0; v < to.group; v += LANES)
                store(to.at + (row * to.columns + j) * CHUNK + t % CHUNK * to.group + v, load(from + j + v));
}

/* Adds the chunk from step t to the gradient of weights of `wide` inputs, `apart` numbers a row: what array `inputs` had at
   each step, or `back` steps before, times what is kept. */
static void learn(const Part *part, int inputs, long wide, long back, Kept grad, long t, float *weights, long apart) {
    const long skip = t < back ? back - t : 0;
    product(1, wide, grad.columns, part->count, chunk(part, t) - skip,
            (Left){at(part, inputs, 0, t + skip - back, wide), 0, 1, part->steps * wide, wide},
            (Right){grad.at + skip * grad.group, CHUNK * grad.group, CHUNK * grad.columns}, (Out){weights, 0, apart}, 1);
}

/* Adds the chunk from step t to the gradient of a bias. */
static void learn_bias(const Part *part, Kept grad, long t, float *bias) {
    for (long row = 0; row < part->count; row++)
        for (long c = 0; c < grad.columns; c += LANES) {
            const float *from = grad.at + (row * grad.columns + c / grad.group * grad.group) * CHUNK + c % grad.group;
            V sum = all(0);
            for (long step = 0; step < chunk(part, t); step++) sum += load(from + step * grad.group);
            store(bias + c, load(bias + c) + sum);
        }
}

/* The gradient of the inputs in the chunk from step t, `wide` numbers each, into `array`, if there is any: what is kept times
   the rows from `first` on of packed W, which has `rows`. */
static void pass_on(const Part *part, Kept grad, long t, int packed, long first, long rows, int array, int add) {
    const long wide = (part->inputs + LANES - 1) / LANES * LANES, group = vectors_of(wide) * LANES;
    if (!part->arrays[array]) return;
    product(part->count, chunk(part, t), wide, grad.columns / grad.group, grad.group,
            (Left){grad.at, CHUNK * grad.columns, grad.group, CHUNK * grad.group, 1},
            (Right){part->arrays[packed] + first * group, rows * group, grad.group * group},
            (Out){at(part, array, 0, t, wide), part->steps * wide, wide}, add);
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 4H), gates i, f, g, o; 2 b (4H); 3 packed U' (H, 4H); 4 gates (B, T, 4H), 5 cell
   states, 6 hidden states, all three written; of 4 and 5 none where nobody will go back. */
void lstm_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *cell = hidden + n * H, *sums = cell + n * H, *room = part->room + GROUP * 6 * H;
    memset(hidden, 0, 6 * n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 4, room, t, 4 * H);
        if (t > 0) times(n, hidden, H, part->arrays[3], sums, 4 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at_if_kept(part, 4, room, row, t, 4 * H), *h = at(part, 6, row, t, H);
            float *c = part->arrays[5] ? at(part, 5, row, t, H) : cell + row * H;
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

/* Arrays: 0 x; 1 gates; 2 packed U (4H, H); 3 cell states; 4 hidden states; 5 their gradient; 6 packed W (4H, D) and 7 the
   gradient of x, written, or none; D with columns of zeros up to whole vectors. Weights: W' (D, 4H), U' (H, 4H), b. */
void lstm_backward(const Part *part) {
    const long H = part->units, n = part->count, D = part->inputs;
    float *now = part->room, *hidden = now + n * 4 * H, *cell = hidden + n * H, *weights = part->gradient;
    const Kept all_gates = kept(part->room + GROUP * 6 * H, 4 * H);
    memset(hidden, 0, 2 * n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 4 * H), *c = at(part, 3, row, t, H), *grad = at(part, 5, row, t, H);
            float *own = now + row * 4 * H;
            for (long j = 0; j < H; j += LANES) {
                V in = load(gates + j), forget = load(gates + H + j), new = load(gates + 2 * H + j);
                V out = load(gates + 3 * H + j), bent = hyperbolic(load(c + j)), before = t > 0 ? load(c - H + j) : all(0);
                V d_hidden = load(grad + j) + load(hidden + row * H + j);
                EACH(g, 4) expect(gates + (g - 4) * H + j);
                expect(c - 2 * H + j), expect(grad - H + j);
                V d_cell = load(cell + row * H + j) + d_hidden * out * (1.0f - bent * bent);
                V d[4] = {d_cell * new * in * (1.0f - in), d_cell * before * forget * (1.0f - forget),
                          d_cell * in * (1.0f - new * new), d_hidden * bent * out * (1.0f - out)};
                EACH(g, 4) store(own + g * H + j, d[g]);
                store(cell + row * H + j, d_cell * forget);
            }
        }
        keep(part, all_gates, t, now, 4 * H);
        if (t > 0) times(n, now, 4 * H, part->arrays[2], hidden, H, 0);
        if (t % CHUNK) continue;
        learn(part, 0, D, 0, all_gates, t, weights, 4 * H);
        learn(part, 4, H, 1, all_gates, t, weights + D * 4 * H, 4 * H);
        learn_bias(part, all_gates, t, weights + (D + H) * 4 * H);
        pass_on(part, all_gates, t, 6, 0, 4 * H, 7, 0);
    }
}

/* All that the chunk from step t teaches of r and z, whose gradients are `gates`, and of n, `new`: W', U' and b, and the
   gradient of x by array `packed` into the one after it. U' multiplies array `read`, for n `new_read`, of `back` steps
   before; `passed` is the gradient of what comes of it for n. */
static void learn_gates(const Part *part, Kept gates, Kept new, Kept passed, long t, int read, int new_read, long back,
                        int packed) {
    const long D = part->inputs, H = part->units, columns = 3 * H;
    float *inputs = part->gradient, *states = inputs + D * columns, *bias = states + H * columns;
    learn(part, 0, D, 0, gates, t, inputs, columns);
    learn(part, 0, D, 0, new, t, inputs + 2 * H, columns);
    learn(part, read, H, back, gates, t, states, columns);
    learn(part, new_read, H, back, passed, t, states + 2 * H, columns);
    learn_bias(part, gates, t, bias);
    learn_bias(part, new, t, bias + 2 * H);
    pass_on(part, gates, t, packed, 0, columns, packed + 1, 0);
    pass_on(part, new, t, packed, 2 * H, columns, packed + 1, 1);
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 3H), gates r, z, n; 2 b (3H); 3 packed U' (H, 3H); 4 c, the bias of U_n h (H);
   5 gates (B, T, 3H), 6 U_n h + c, 7 hidden states, all three written; of 5 and 6 none where nobody will go back. */
void gru_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *sums = hidden + n * H, *room = part->room + GROUP * 6 * H;
    memset(hidden, 0, 4 * n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 5, room, t, 3 * H);
        if (t > 0) times(n, hidden, H, part->arrays[3], sums, 3 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at_if_kept(part, 5, room, row, t, 3 * H), *h = at(part, 7, row, t, H);
            float *sum = sums + row * 3 * H, *kept = part->arrays[6] ? at(part, 6, row, t, H) : sum;
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

/* Arrays: 0 x; 1 gates; 2 packed U (3H, H); 3 U_n h + c; 4 hidden states; 5 their gradient; 6 packed W (3H, D) and
   7 the gradient of x, as for the LSTM. Weights: W' (D, 3H), U' (H, 3H), b and, in a row of 3H numbers, c. */
void gru_backward(const Part *part) {
    const long H = part->units, n = part->count;
    /* Gradients of what the gates read from h, and of what n reads from x. */
    float *now = part->room, *new_now = now + n * 3 * H, *hidden = new_now + n * H;
    float *room = part->room + GROUP * 6 * H;
    const Kept gates_kept = kept(room, 2 * H), new_kept = kept(room + GROUP * CHUNK * 2 * H, H);
    const Kept passed_kept = kept(room + GROUP * CHUNK * 3 * H, H);
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *recurrent = at(part, 3, row, t, H);
            const float *h = at(part, 4, row, t, H), *grad = at(part, 5, row, t, H);
            float *own = now + row * 3 * H, *own_new = new_now + row * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                V reset = load(gates + j), update = load(gates + H + j), new = load(gates + 2 * H + j);
                EACH(g, 3) expect(gates + (g - 3) * H + j);
                expect(recurrent - H + j), expect(h - 2 * H + j), expect(grad - H + j);
                V before = t > 0 ? load(h - H + j) : all(0), d_hidden = load(grad + j) + load(carried + j);
                V d_new = d_hidden * (1.0f - update) * (1.0f - new * new), through = d_new * reset;
                V d_update = d_hidden * (before - new) * update * (1.0f - update);
                V d_reset = d_new * load(recurrent + j) * reset * (1.0f - reset);
                store(own + j, d_reset), store(own + H + j, d_update), store(own + 2 * H + j, through);
                store(own_new + j, d_new), store(carried + j, d_hidden * update);
            }
        }
        keep(part, gates_kept, t, now, 3 * H);
        keep(part, passed_kept, t, now + 2 * H, 3 * H);
        keep(part, new_kept, t, new_now, H);
        if (t > 0) times(n, now, 3 * H, part->arrays[2], hidden, H, 1);
        if (t % CHUNK) continue;
        learn_gates(part, gates_kept, new_kept, passed_kept, t, 4, 4, 1, 6);
        learn_bias(part, passed_kept, t, part->gradient + (part->inputs + H + 1) * 3 * H);
    }
}

/* Arrays: 0 x (B, T, D); 1 packed W' (D, 3H), gates r, z, n; 2 b (3H); 3 packed U' of r and z (H, 2H); 4 packed U_n' (H, H);
   5 gamma (B, T, H); 6 gates (B, T, 3H), 7 faded states s, 8 r s, 9 hidden states, all four written; of 6 to 8 none where
   nobody will go back. */
void grud_forward(const Part *part) {
    const long H = part->units, n = part->count;
    const float *bias = part->arrays[2];
    float *hidden = part->room, *faded = hidden + n * H, *open = faded + n * H, *sums = open + n * H;
    float *room = part->room + GROUP * 6 * H;
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = 0; t < part->steps; t++) {
        if (t % CHUNK == 0) read_inputs(part, 0, 1, 6, room, t, 3 * H);
        for (long row = 0; row < n; row++) {
            const float *gamma = at(part, 5, row, t, H);
            float *kept = part->arrays[7] ? at(part, 7, row, t, H) : faded + row * H;
            for (long j = 0; j < H; j += LANES) {
                expect(gamma + H + j), expect_to_write(kept + H + j);
                V state = load(gamma + j) * load(hidden + row * H + j);
                store(faded + row * H + j, state), store(kept + j, state);
            }
        }
        times(n, faded, H, part->arrays[3], sums, 2 * H, 0);
        for (long row = 0; row < n; row++) {
            float *gates = at_if_kept(part, 6, room, row, t, 3 * H);
            float *kept = part->arrays[8] ? at(part, 8, row, t, H) : open + row * H;
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
            float *gates = at_if_kept(part, 6, room, row, t, 3 * H), *h = at(part, 9, row, t, H);
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
   gradient; 9 that of gamma, written; 10 packed W (3H, D) and 11 the gradient of x, as for the LSTM. Weights: W' (D, 3H),
   U' (H, 3H), b. */
void grud_backward(const Part *part) {
    const long H = part->units, n = part->count;
    float *hidden = part->room, *now = hidden + n * H, *candidate = now + n * 2 * H, *open = candidate + n * H;
    float *room = part->room + GROUP * 6 * H;
    const Kept gates_kept = kept(room, 2 * H), new_kept = kept(room + GROUP * CHUNK * 2 * H, H);
    memset(hidden, 0, n * H * sizeof(float));
    for (long t = part->steps - 1; t >= 0; t--) {
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *faded = at(part, 5, row, t, H);
            const float *grad = at(part, 8, row, t, H);
            float *own = now + row * 2 * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                EACH(g, 3) expect(gates + (g - 3) * H + j);
                expect(faded - H + j), expect(grad - H + j);
                V update = load(gates + H + j), new = load(gates + 2 * H + j);
                V d_hidden = load(grad + j) + load(carried + j);
                V d_update = d_hidden * (new - load(faded + j)) * update * (1.0f - update);
                V d_new = d_hidden * update * (1.0f - new * new);
                store(own + H + j, d_update), store(candidate + row * H + j, d_new);
                store(carried + j, d_hidden * (1.0f - update));
            }
        }
        times(n, candidate, H, part->arrays[3], open, H, 0);
        for (long row = 0; row < n; row++) {
            const float *gates = at(part, 1, row, t, 3 * H), *faded = at(part, 5, row, t, H);
            float *own = now + row * 2 * H, *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                V reset = load(gates + j), d_open = load(open + row * H + j);
                V d_reset = d_open * load(faded + j) * reset * (1.0f - reset);
                store(own + j, d_reset);
                store(carried + j, load(carried + j) + d_open * reset);
            }
        }
        keep(part, gates_kept, t, now, 2 * H);
        keep(part, new_kept, t, candidate, H);
        times(n, now, 2 * H, part->arrays[2], hidden, H, 1);
        for (long row = 0; row < n; row++) {
            const float *gamma = at(part, 4, row, t, H), *h = at(part, 7, row, t, H);
            float *d_gamma = at(part, 9, row, t, H), *carried = hidden + row * H;
            for (long j = 0; j < H; j += LANES) {
                expect(gamma - H + j), expect(h - 2 * H + j), expect_to_write(d_gamma - H + j);
                V d_faded = load(carried + j);
                store(d_gamma + j, t > 0 ? d_faded * load(h - H + j) : all(0));
                store(carried + j, d_faded * load(gamma + j));
            }
        }
        if (t % CHUNK) continue;
        learn_gates(part, gates_kept, new_kept, new_kept, t, 5, 6, 0, 10);
    }
}

/* Packs a matrix whose rows lie `down` and columns `along` apart, with columns of zeros up to whole vectors. */
void pack(long rows, long columns, long down, long along, const float *matrix, float *packed) {
    const long wide = (columns + LANES - 1) / LANES * LANES, group = vectors_of(wide) * LANES;
    for (long j = 0; j < wide; j += group)
        for (long row = 0; row < rows; row++)
            for (long c = j; c < j + group; c++) *packed++ = c < columns ? matrix[row * down + c * along] : 0.0f;
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

/* relu(W x + b) of `rows` rows x of `all` numbers, which lie in `count` arrays of `wide` each, from packed W' (all, columns);
   a chunk of rows at a time. */
void project(long rows, long threads, long count, const float **arrays, const long *wide, long all, long columns,
             const float *packed, const float *bias, float *out) {
    const long group = vectors_of(columns) * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long first = 0; first < rows; first += CHUNK) {
        const long n = rows - first < CHUNK ? rows - first : CHUNK;
        float *target = out + first * columns;
        for (long i = 0, before = 0; i < count; before += wide[i++])
            product(1, n, columns, 1, wide[i], (Left){arrays[i] + first * wide[i], 0, wide[i], 0, 1},
                    (Right){packed + before * group, all * group, 0}, (Out){target, 0, columns}, i > 0);
        for (long row = 0; row < n; row++, target += columns)
            for (long j = 0; j < columns; j += LANES) store(target + j, positive(load(target + j) + load(bias + j)));
    }
}

/* The gradients of W' and, in a row after it, of b, by thread. Each thread has `room` for a chunk of rows. */
void project_backward(long rows, long threads, long count, const float **arrays, const long *wide, long all, long columns,
                      const float *out, const float *grad, float *room, float *gradient) {
    const long group = vectors_of(columns) * LANES, chunks = (rows + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long k = 0; k < threads; k++) {
        float *kept = room + k * CHUNK * columns, *learned = gradient + k * (all + 1) * columns;
        for (long first = chunks * k / threads * CHUNK; first < chunks * (k + 1) / threads * CHUNK; first += CHUNK) {
            const long n = rows - first < CHUNK ? rows - first : CHUNK;
            for (long c = 0; c < columns; c += LANES) {
                float *to = kept + c / group * group * CHUNK + c % group;
                V sum = {0};
                for (long row = 0; row < n; row++, to += group) {
                    V passed = where_positive(load(out + (first + row) * columns + c), load(grad + (first + row) * columns + c));
                    store(to, passed), sum += passed;
                }
                store(learned + all * columns + c, load(learned + all * columns + c) + sum);
            }
            for (long i = 0, before = 0; i < count; before += wide[i++])
                product(1, wide[i], columns, 1, n, (Left){arrays[i] + first * wide[i], 0, 1, 0, wide[i]},
                        (Right){kept, CHUNK * group, 0}, (Out){learned + before * columns, 0, columns}, 1);
        }
    }
}
