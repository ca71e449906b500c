/* Boxes that cover one another: all but the one with the highest score go.
 *
 * Rounding decides which boxes go, so it is that of a product and a sum, each rounded: no compiler
 * may make one instruction of both. */
#ifndef SECATEUR_BOXES_H
#define SECATEUR_BOXES_H
#include "vector.h"

typedef struct { float low[2], high[2], area; } sec_box;

INLINE float sec_area(float a, float b) {
  const volatile float both = a * b;
  return both;
}

INLINE sec_box sec_box_of(const float *p, const long side, const int centred) {
  sec_box box;
  for (int k = 0; k < 2; k++) {
    const float first = p[k * side], second = p[(k + 2) * side], half = second / 2;
    if (centred) box.low[k] = first - half, box.high[k] = first + half;
    else box.low[k] = SEC_LEAST(first, second), box.high[k] = first > second ? first : second;
  }
  box.area = sec_area(box.high[0] - box.low[0], box.high[1] - box.low[1]);
  return box;
}

/* Whether what two boxes have in common is more than `limit` of what they cover together. */
INLINE int sec_covered(const sec_box *a, const sec_box *b, const float limit) {
  float side[2];
  for (int k = 0; k < 2; k++)
    side[k] = SEC_LEAST(a->high[k], b->high[k]) - (a->low[k] > b->low[k] ? a->low[k] : b->low[k]);
  if (!(side[0] > 0 && side[1] > 0 && a->area > 0 && b->area > 0)) return 0;
  const float both = sec_area(side[0], side[1]), either = a->area + b->area - both;
  return both > 0 && either > 0 && both / either > limit;
}

/* Whether position a comes before b: by its score, then by itself. */
#define SEC_BEFORE(a, b) (score[(a) * step] > score[(b) * step] || \
                          (score[(a) * step] == score[(b) * step] && (a) < (b)))

INLINE void sec_sink(int32_t *heap, const int count, int here, const float *score, const long step) {
  for (int child; (child = 2 * here + 1) < count; here = child) {
    if (child + 1 < count && SEC_BEFORE(heap[child + 1], heap[child])) child++;
    if (!SEC_BEFORE(heap[child], heap[here])) break;
    const int32_t other = heap[here];
    heap[here] = heap[child], heap[child] = other;
  }
}

/* The boxes of one class that stay, in order: at most `most` of n. Return how many, their numbers in
   `stay`; `heap` has room for n numbers, and `kept` for `most` boxes. `least`: scores are above it; null
   where each will do. */
SHARED int sec_suppress(const float *score, const long step, const float *boxes, const long apart,
                        const long side, const int n, const int centred, const float limit,
                        const float *least, int32_t *heap, sec_box *kept, int32_t *stay, const int most) {
  int count = 0, found = 0;
  for (int i = 0; i < n; i++) {
    const float its = score[i * step];
    if (least ? its > *least : its == its) heap[count++] = i;
  }
  for (int i = count / 2 - 1; i >= 0; i--) sec_sink(heap, count, i, score, step);
  while (count > 0 && found < most) {
    const int32_t i = heap[0];
    heap[0] = heap[--count];
    sec_sink(heap, count, 0, score, step);
    const sec_box box = sec_box_of(boxes + i * apart, side, centred);
    int covered = 0;
    for (int k = 0; k < found && !covered; k++) covered = sec_covered(&box, &kept[k], limit);
    if (covered) continue;
    kept[found] = box, stay[found++] = i;
  }
  return found;
}
#endif
