"""C text of the functions that are called from outside, and of what all kernels share."""

from __future__ import annotations

HELPERS = r"""
/* (rows, columns) of a wider matrix to (columns, rows); both padded to whole vectors. */
static void transpose(const float *restrict from, long from_stride, long n_rows, long n_columns,
                      float *restrict to, long to_stride) {
  for (long row = 0; row < n_rows; row += LANES)
    for (long column = 0; column < n_columns; column += LANES)
      transpose_block(from + row * from_stride + column, from_stride,
                      to + column * to_stride + row, to_stride);
}

/* Sums of each row's chunk. */
static void sum_rows(const float *restrict of, long n_rows, float *restrict to, int goes_on) {
  for (long row = 0; row < n_rows; row += LANES) {
    const long n = n_rows - row < LANES ? n_rows - row : LANES;
    vector parts[LANES];
    for (long one = 0; one < LANES; one++) {
      parts[one] = splat(0.0f);
      if (one < n)
        for (long lane = 0; lane < CHUNK; lane += LANES)
          parts[one] += LOAD(of + (row + one) * CHUNK + lane);
    }
    const vector sums = sum_lanes(parts);
    for (long one = 0; one < n; one++)
      to[row + one] = goes_on ? to[row + one] + sums[one] : sums[one];
  }
}

/* The first lanes' sum, in a fixed order. */
static inline float sum_first(vector of, long n) {
  vector parts[LANES];
  for (long one = 0; one < LANES; one++) parts[one] = splat(0.0f);
  parts[0] = masked(LANE_NUMBERS < splat_whole((int32_t)n), of);
  return sum_lanes(parts)[0];
}

/* A chunk of examples, picked by number or one after the other: (CHUNK, inputs). */
static void pick(const float *restrict inputs, const int64_t *restrict numbers, long start,
                 long n, float *restrict to) {
  for (long one = 0; one < CHUNK; one++) {
    float *const row = to + one * N_IN_PADDED;
    if (one >= n) {
      memset(row, 0, 4 * N_IN_PADDED);
      continue;
    }
    const int64_t number = numbers ? numbers[start + one] : start + one;
    memcpy(row, inputs + number * N_IN, 4 * N_IN);
    for (long at = N_IN; at < N_IN_PADDED; at++) row[at] = 0.0f;
  }
}
"""

ENTRIES = r"""
static float *take_memory(size_t n_floats) {
  void *memory = NULL;
  return posix_memalign(&memory, 64, 4 * n_floats) ? NULL : memory;
}

/* Losses of rows, each on its own examples, and their gradients unless there is no place for them.
   Returns whether there was too little memory. */
int train(long n_rows, long batch, const float *weights, long weight_stride, const float *inputs,
          const void *targets, const int64_t *numbers, long number_stride, const int64_t *keys,
          float *gradients, long gradient_stride, float *losses) {
  float *const s = take_memory(SCRATCH + (size_t)N_IN_PADDED * CHUNK);
  if (!s) return 1;
  memset(s, 0, (size_t)4 * SCRATCH); /* nobody reads it, but it must not be slow */
  float *const x = s + SCRATCH;
  const float share = 1.0f / ((float)batch * TERMS);
  for (long row = 0; row < n_rows; row++) {
    const float *const w = weights + row * weight_stride;
    const int64_t *const mine = numbers + row * number_stride;
    float total = 0.0f;
    for (long start = 0; start < batch; start += CHUNK) {
      const long n = batch - start < CHUNK ? batch - start : CHUNK;
      pick(inputs, mine, start, n, s + examples0);
      transpose(s + examples0, N_IN_PADDED, CHUNK, N_IN_PADDED, x, CHUNK);
      forward(w, x, s, keys ? keys[row] : 0, start);
      total += chunk_loss(s, targets, mine, start, n, share);
      if (!gradients) continue;
      loss_slopes(s, n);
      backward(w, s, n, gradients + row * gradient_stride, start > 0);
    }
    losses[row] = total * share;
  }
  free(s);
  return 0;
}

/* Losses of rows on the same examples, or the networks' outputs, (rows, examples, outputs). */
int score(long n_rows, long batch, const float *weights, long weight_stride, const float *inputs,
          const void *targets, float *outputs, float *losses) {
  const long n_chunks = (batch + CHUNK - 1) / CHUNK;
  const size_t n_inputs = (size_t)N_IN_PADDED * CHUNK;
  float *const s = take_memory(SCRATCH + n_inputs * n_chunks);
  if (!s) return 1;
  memset(s, 0, (size_t)4 * SCRATCH); /* nobody reads it, but it must not be slow */
  float *const x = s + SCRATCH;
  const float share = 1.0f / ((float)batch * TERMS);
  for (long chunk = 0; chunk < n_chunks; chunk++) {
    const long start = chunk * CHUNK, n = batch - start < CHUNK ? batch - start : CHUNK;
    pick(inputs, NULL, start, n, s + examples0);
    transpose(s + examples0, N_IN_PADDED, CHUNK, N_IN_PADDED, x + chunk * n_inputs, CHUNK);
  }
  for (long row = 0; row < n_rows; row++) {
    float total = 0.0f;
    for (long chunk = 0; chunk < n_chunks; chunk++) {
      const long start = chunk * CHUNK, n = batch - start < CHUNK ? batch - start : CHUNK;
      forward(weights + row * weight_stride, x + chunk * n_inputs, s, 0, start);
      if (losses) total += chunk_loss(s, targets, NULL, start, n, share);
      if (!outputs) continue;
      float *const to = outputs + (row * batch + start) * N_OUT;
      for (long example = 0; example < n; example++)
        for (long one = 0; one < N_OUT; one++)
          to[example * N_OUT + one] = s[LAST_VALUES + one * CHUNK + example];
    }
    if (losses) losses[row] = total * share;
  }
  free(s);
  return 0;
}
"""
