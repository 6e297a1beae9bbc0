/* partition.h: the hierarchy, the queue and the credit of SHAP Partition (Owen values; Lundberg's PartitionExplainer),
 * without Lua and without the model: partition_ask says which masked images are wanted next, the caller evaluates them,
 * partition_tell takes the outputs. A mask is a list of boxes that are shown; everything else is hidden.
 * An output that is not a number ends it. */
#ifndef MEDXAI_PARTITION_H
#define MEDXAI_PARTITION_H

#include <stdint.h>

enum { PARTITION_OK = 0, PARTITION_NOMEM = 1, PARTITION_NAN = 2 };

/* Half open on each axis: rows, columns, channels of an image; of a tree of regions the first axis is the place of a
 * region in the tree's order of leaves, and the others are 0 to 1. */
typedef struct partition_box { int32_t lo[3], hi[3]; } partition_box;

typedef struct partition partition;

typedef struct partition_options {
  int32_t size[3];    /* of the whole: height, width, channels; or number of regions, 1, 1 */
  int outputs;        /* numbers that one evaluation gives */
  int64_t budget;     /* evaluations beyond the two that partition_start takes */
  int queue_batch;    /* evaluations per call; changes the values, as the order of the queue depends on it */
  /* -1: both contexts, each half; 0: the outside hidden; 1: the outside shown (shap's fixed_context) */
  int context;
  /* A tree of regions: inner node i (the root is 0) has the children [i][0] and [i][1]. A child c > i is an inner node,
   * a child c < 0 the leaf of region -1 - c. Copied. NULL: boxes of the image, halved along their longer side. */
  const int32_t (*children)[2];
} partition_options;

/* Leaves of children[0 .. regions - 2] in the tree's order: order[place] is a region. PARTITION_OK, PARTITION_NOMEM, or
 * -1 where it is no tree in which each region stands once. */
int partition_leaf_order(const int32_t (*children)[2], int32_t regions, int32_t *order);

/* NULL: out of memory; children must have passed partition_leaf_order */
partition *partition_new(const partition_options *o);
void partition_free(partition *p);                    /* accepts NULL */

/* The outputs with everything hidden and with nothing hidden. */
int partition_start(partition *p, const double *hidden, const double *shown);

/* The next masks, none when the budget is spent or nothing is left to split. *n masks of *most boxes each at most;
 * boxes (n * most, unused ones empty) belong to p and live until partition_tell. */
int partition_ask(partition *p, const partition_box **boxes, int *n, int *most);
int partition_tell(partition *p, const double *outputs); /* n * outputs numbers, in the order of the masks */

int64_t partition_evaluated(const partition *p); /* by tell, so without the two of the start */

/* The values so far: the credit of a box that is not split further is spread over it evenly. values: `outputs` arrays
 * of size[2] x size[0] x size[1] numbers; the sum of each is shown - hidden up to rounding. */
int partition_values(const partition *p, double *values);

#endif
