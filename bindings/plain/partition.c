/* partition.c: see partition.h. Children are made when a node is first split; they lie side by side after it, so one
 * pass in order of index carries credit down. A set of shown boxes is a linked list through the expansions that made
 * it. */
#include "partition.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "alloc.h"

typedef struct node {
  partition_box box;
  int32_t tree;  /* an inner node of the given tree, or -1 - region */
  int32_t child; /* index of the left one, the right one follows; 0: not split yet */
} node;

typedef struct shown { int32_t outer, node, length; } shown; /* a box beside all boxes of the list outer (-1: none) */

typedef struct item {
  double priority, weight;
  uint64_t turn;         /* equal priorities in the order in which they came */
  int32_t list;          /* boxes shown outside the node; -1: none */
  int32_t node, v00, v11; /* v: rows of values, without and with the node */
} item;

struct partition {
  partition_options o;
  int32_t (*children)[2], *leaves; /* leaves under each inner node of a given tree */
  node *nodes;
  shown *lists;
  item *heap;
  double *values, *credit; /* rows of o.outputs numbers; credit: one row per node */
  item *pending;           /* two masks were asked for each: left child shown, right child shown */
  partition_box *boxes;
  int32_t nnodes, nlists, nheap, nvalues, npending;
  int32_t node_room, list_room, heap_room, value_room, pending_room, box_room;
  uint64_t turns;
  int64_t evaluated;
};

/* ---- room ---------------------------------------------------------------------------------------------------- */

/* slot: the address of the pointer to the array. */
static bool grow(void *slot, int32_t *room, int64_t wanted, size_t each) {
  if (wanted <= *room) return true;
  if (wanted > INT32_MAX / 2) return false;
  const int64_t more = wanted + wanted / 2 + 16;
  void *array;
  memcpy(&array, slot, sizeof array);
  array = mx_realloc(array, (size_t)more * each);
  if (!array) return false;
  memcpy(slot, &array, sizeof array);
  *room = (int32_t)more;
  return true;
}

/* Nodes and their credit grow together. */
static bool grow_nodes(partition *p, int64_t wanted) {
  if (wanted <= p->node_room) return true;
  int32_t nodes = p->node_room, credits = p->node_room;
  if (!grow(&p->nodes, &nodes, wanted, sizeof *p->nodes)) return false;
  if (!grow(&p->credit, &credits, wanted, (size_t)p->o.outputs * sizeof *p->credit)) return false;
  p->node_room = credits;
  return true;
}

/* ---- the hierarchy ------------------------------------------------------------------------------------------- */

static int64_t cells(const partition_box *b) {
  return (int64_t)(b->hi[0] - b->lo[0]) * (b->hi[1] - b->lo[1]) * (b->hi[2] - b->lo[2]);
}

static int32_t leaves_under(const partition *p, int32_t tree) { return tree < 0 ? 1 : p->leaves[tree]; }

/* Where a node is cut: shap's image masker halves the longer of rows and columns, then columns, then channels; the cut
 * lies at lo + ceil(width / 2) and the left child is the upper part. */
static void halve(const partition_box *b, partition_box *left, partition_box *right) {
  const int32_t rows = b->hi[0] - b->lo[0], columns = b->hi[1] - b->lo[1];
  const int axis = rows >= columns && rows > 1 ? 0 : columns > 1 ? 1 : 2;
  *left = *right = *b;
  left->lo[axis] = right->hi[axis] = b->lo[axis] + (b->hi[axis] - b->lo[axis] + 1) / 2;
}

static bool is_leaf(const partition *p, const node *n) { return p->children ? n->tree < 0 : cells(&n->box) == 1; }

/* Makes the children of a node. */
static bool open_node(partition *p, int32_t index) {
  if (p->nodes[index].child) return true;
  if (!grow_nodes(p, (int64_t)p->nnodes + 2)) return false;
  node *n = &p->nodes[index], *left = &p->nodes[p->nnodes], *right = left + 1;
  *left = *right = (node){ .box = n->box };
  if (p->children) {
    left->tree = p->children[n->tree][0];
    right->tree = p->children[n->tree][1];
    left->box.hi[0] = right->box.lo[0] = n->box.lo[0] + leaves_under(p, left->tree);
  } else {
    halve(&n->box, &left->box, &right->box);
  }
  memset(p->credit + (size_t)p->nnodes * p->o.outputs, 0, 2 * (size_t)p->o.outputs * sizeof *p->credit);
  n->child = p->nnodes;
  p->nnodes += 2;
  return true;
}

int partition_leaf_order(const int32_t (*children)[2], int32_t regions, int32_t *order) {
  if (regions < 1) return -1;
  if (regions == 1) return order[0] = 0, PARTITION_OK;
  int32_t *stack = mx_malloc(2 * (size_t)regions * sizeof *stack);
  bool *seen = mx_calloc(2 * (size_t)regions, sizeof *seen); /* inner nodes, then leaves */
  int32_t n = 0, depth = 0;
  int status = stack && seen ? PARTITION_OK : PARTITION_NOMEM;
  if (status == PARTITION_OK) stack[depth++] = 0;
  while (status == PARTITION_OK && depth > 0) {
    const int32_t c = stack[--depth], at = c >= 0 ? c : regions - 1 - c;
    if (c >= regions - 1 || c < -regions || seen[at]) {
      status = -1;
      break;
    }
    seen[at] = true;
    if (c < 0) {
      order[n++] = -1 - c;
    } else {
      if (children[c][0] >= 0 && children[c][0] <= c) status = -1;
      if (children[c][1] >= 0 && children[c][1] <= c) status = -1;
      stack[depth++] = children[c][1];
      stack[depth++] = children[c][0];
    }
  }
  if (status == PARTITION_OK && n != regions) status = -1;
  mx_free(stack);
  mx_free(seen);
  return status;
}

/* ---- the queue: a binary heap, the smallest priority first ----------------------------------------------------- */

static bool before(const item *a, const item *b) {
  return a->priority < b->priority || (a->priority == b->priority && a->turn < b->turn);
}

static bool push(partition *p, item it) {
  if (!grow(&p->heap, &p->heap_room, (int64_t)p->nheap + 1, sizeof *p->heap)) return false;
  it.turn = p->turns++;
  int32_t at = p->nheap++;
  while (at > 0 && before(&it, &p->heap[(at - 1) / 2])) {
    p->heap[at] = p->heap[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  p->heap[at] = it;
  return true;
}

static item pop(partition *p) {
  const item top = p->heap[0], last = p->heap[--p->nheap];
  int32_t at = 0;
  for (;;) {
    int32_t child = 2 * at + 1;
    if (child >= p->nheap) break;
    if (child + 1 < p->nheap && before(&p->heap[child + 1], &p->heap[child])) child++;
    if (!before(&p->heap[child], &last)) break;
    p->heap[at] = p->heap[child];
    at = child;
  }
  p->heap[at] = last; /* at 0 where the heap is empty now: never read */
  return top;
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static const double *row(const partition *p, int32_t v) { return p->values + (size_t)v * p->o.outputs; }

/* credit[node] += (a - b) * weight */
static void give(double *credit, int outputs, int32_t index, const double *a, const double *b, double weight) {
  double *c = credit + (size_t)index * outputs;
  for (int k = 0; k < outputs; k++)
    c[k] += (a[k] - b[k]) * weight;
}

static bool add_values(partition *p, const double *v, int32_t rows) {
  if (!grow(&p->values, &p->value_room, (int64_t)p->nvalues + rows, (size_t)p->o.outputs * sizeof *p->values))
    return false;
  memcpy(p->values + (size_t)p->nvalues * p->o.outputs, v, (size_t)rows * p->o.outputs * sizeof *v);
  p->nvalues += rows;
  return true;
}

static bool all_numbers(const double *v, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(v[i])) return false;
  return true;
}

/* ---- making -------------------------------------------------------------------------------------------------- */

/* n inner nodes, those further down with larger indices. */
static bool copy_tree(partition *p, const int32_t (*children)[2], int32_t n) {
  p->children = mx_malloc((size_t)n * sizeof *p->children);
  p->leaves = mx_malloc((size_t)n * sizeof *p->leaves);
  if (!p->children || !p->leaves) return false;
  if (n > 0) memcpy(p->children, children, (size_t)n * sizeof *p->children);
  for (int32_t i = n - 1; i >= 0; i--)
    p->leaves[i] = leaves_under(p, children[i][0]) + leaves_under(p, children[i][1]);
  return true;
}

partition *partition_new(const partition_options *o) {
  partition *p = mx_calloc(1, sizeof *p);
  if (!p) return NULL;
  p->o = *o;
  p->o.children = NULL;
  if (!grow_nodes(p, 1) || (o->children && !copy_tree(p, o->children, o->size[0] - 1))) return partition_free(p), NULL;
  p->nodes[0] =
    (node){ .box = { { 0, 0, 0 }, { o->size[0], o->size[1], o->size[2] } }, .tree = o->size[0] > 1 ? 0 : -1 };
  memset(p->credit, 0, (size_t)o->outputs * sizeof *p->credit);
  p->nnodes = 1;
  return p;
}

void partition_free(partition *p) {
  if (!p) return;
  mx_free(p->children);
  mx_free(p->leaves);
  mx_free(p->nodes);
  mx_free(p->credit);
  mx_free(p->lists);
  mx_free(p->heap);
  mx_free(p->values);
  mx_free(p->pending);
  mx_free(p->boxes);
  mx_free(p);
}

int partition_start(partition *p, const double *hidden, const double *shown) {
  if (!all_numbers(hidden, p->o.outputs) || !all_numbers(shown, p->o.outputs)) return PARTITION_NAN;
  if (!add_values(p, hidden, 1) || !add_values(p, shown, 1)) return PARTITION_NOMEM;
  return push(p, (item){ .weight = 1, .list = -1, .node = 0, .v00 = 0, .v11 = 1 }) ? PARTITION_OK : PARTITION_NOMEM;
}

/* ---- asking -------------------------------------------------------------------------------------------------- */

/* Items to split now; leaves among them get their credit at once. */
static int fill_pending(partition *p) {
  p->npending = 0;
  while (p->nheap > 0 && 2 * p->npending < p->o.queue_batch && p->evaluated + 2 * (int64_t)p->npending < p->o.budget) {
    const int32_t index = p->heap[0].node;
    if (is_leaf(p, &p->nodes[index])) {
      const item it = pop(p);
      give(p->credit, p->o.outputs, index, row(p, it.v11), row(p, it.v00), it.weight);
      continue;
    }
    if (!grow(&p->pending, &p->pending_room, (int64_t)p->npending + 1, sizeof *p->pending) || !open_node(p, index))
      return PARTITION_NOMEM;
    p->pending[p->npending++] = pop(p);
  }
  return PARTITION_OK;
}

static int32_t length_of(const partition *p, int32_t list) { return list < 0 ? 0 : p->lists[list].length; }

static void write_mask(const partition *p, partition_box *out, int32_t list, int32_t node) {
  *out++ = p->nodes[node].box;
  for (; list >= 0; list = p->lists[list].outer)
    *out++ = p->nodes[p->lists[list].node].box;
}

int partition_ask(partition *p, const partition_box **boxes, int *n, int *most) {
  const int status = fill_pending(p);
  if (status != PARTITION_OK) return status;
  int32_t longest = 0;
  for (int32_t i = 0; i < p->npending; i++) {
    const int32_t length = length_of(p, p->pending[i].list) + 1;
    longest = length > longest ? length : longest;
  }
  const int64_t wanted = 2 * (int64_t)p->npending * longest;
  if (!grow(&p->boxes, &p->box_room, wanted, sizeof *p->boxes)) return PARTITION_NOMEM;
  if (wanted) memset(p->boxes, 0, (size_t)wanted * sizeof *p->boxes);
  for (int32_t i = 0; i < p->npending; i++) {
    const item *it = &p->pending[i];
    const int32_t left = p->nodes[it->node].child;
    write_mask(p, p->boxes + (size_t)2 * i * longest, it->list, left);
    write_mask(p, p->boxes + ((size_t)2 * i + 1) * longest, it->list, left + 1);
  }
  *boxes = p->boxes;
  *n = 2 * p->npending;
  *most = longest;
  return PARTITION_OK;
}

/* ---- telling ------------------------------------------------------------------------------------------------- */

static bool push_child(partition *p, int32_t list, int32_t node, int32_t v00, int32_t v11, double weight) {
  const double *a = row(p, v11), *b = row(p, v00);
  double largest = 0;
  for (int k = 0; k < p->o.outputs; k++)
    largest = fmax(largest, fabs(a[k] - b[k]));
  return push(
    p, (item){ .priority = -largest * weight, .weight = weight, .list = list, .node = node, .v00 = v00, .v11 = v11 });
}

/* The list with one more box; -1 is out of memory. */
static int32_t with_box(partition *p, int32_t list, int32_t node) {
  if (!grow(&p->lists, &p->list_room, (int64_t)p->nlists + 1, sizeof *p->lists)) return -1;
  p->lists[p->nlists] = (shown){ list, node, length_of(p, list) + 1 };
  return p->nlists++;
}

/* v10: left shown; v01: right shown. */
static bool expand(partition *p, const item *it, int32_t v10, int32_t v01) {
  const int32_t left = p->nodes[it->node].child, right = left + 1;
  const double weight = p->o.context < 0 ? it->weight / 2 : it->weight;
  if (p->o.context >= 0) { /* the interaction stays on the node */
    const double sign = p->o.context == 0 ? it->weight : -it->weight;
    give(p->credit, p->o.outputs, it->node, row(p, it->v11), row(p, v10), sign);
    give(p->credit, p->o.outputs, it->node, row(p, it->v00), row(p, v01), sign);
  }
  if (p->o.context <= 0
      && !(push_child(p, it->list, left, it->v00, v10, weight) && push_child(p, it->list, right, it->v00, v01, weight)))
    return false;
  if (p->o.context == 0) return true;
  const int32_t with_right = with_box(p, it->list, right);
  if (with_right < 0 || !push_child(p, with_right, left, v01, it->v11, weight)) return false;
  const int32_t with_left = with_box(p, it->list, left);
  return with_left >= 0 && push_child(p, with_left, right, v10, it->v11, weight);
}

int partition_tell(partition *p, const double *outputs) {
  const int32_t n = 2 * p->npending, first = p->nvalues;
  if (!all_numbers(outputs, (int64_t)n * p->o.outputs)) return PARTITION_NAN;
  if (!add_values(p, outputs, n)) return PARTITION_NOMEM;
  for (int32_t i = 0; i < p->npending; i++)
    if (!expand(p, &p->pending[i], first + 2 * i, first + 2 * i + 1)) return PARTITION_NOMEM;
  p->npending = 0;
  p->evaluated += n;
  return PARTITION_OK;
}

int64_t partition_evaluated(const partition *p) { return p->evaluated; }

/* ---- credit to values ---------------------------------------------------------------------------------------- */

/* A node's credit goes to its children by their numbers of cells. */
static void carry_down(const partition *p, double *credit, int32_t index) {
  const node *n = &p->nodes[index], *left = &p->nodes[n->child];
  const double share = (double)cells(&left->box), whole = (double)cells(&n->box), rest = (double)cells(&left[1].box);
  const int k = p->o.outputs;
  for (int i = 0; i < k; i++) {
    const double c = credit[(size_t)index * k + i];
    credit[(size_t)n->child * k + i] += c * share / whole;
    credit[((size_t)n->child + 1) * k + i] += c * rest / whole;
  }
}

static void fill_box(const partition *p, const partition_box *b, double *plane, double v) {
  const int32_t *size = p->o.size;
  for (int32_t z = b->lo[2]; z < b->hi[2]; z++)
    for (int32_t y = b->lo[0]; y < b->hi[0]; y++)
      for (int32_t x = b->lo[1]; x < b->hi[1]; x++)
        plane[((size_t)z * size[0] + y) * size[1] + x] = v;
}

int partition_values(const partition *p, double *values) {
  const int k = p->o.outputs;
  const size_t rows = (size_t)p->nnodes * k, plane = (size_t)p->o.size[0] * p->o.size[1] * p->o.size[2];
  double *credit = mx_malloc(rows * sizeof *credit);
  if (!credit) return PARTITION_NOMEM;
  memcpy(credit, p->credit, rows * sizeof *credit);
  for (int32_t i = 0; i < p->nheap; i++)
    give(credit, k, p->heap[i].node, row(p, p->heap[i].v11), row(p, p->heap[i].v00), p->heap[i].weight);
  for (int32_t i = 0; i < p->npending; i++) /* asked for and not answered: not split yet */
    give(credit, k, p->pending[i].node, row(p, p->pending[i].v11), row(p, p->pending[i].v00), p->pending[i].weight);
  for (int32_t i = 0; i < p->nnodes; i++) {
    const node *n = &p->nodes[i];
    if (n->child)
      carry_down(p, credit, i);
    else
      for (int o = 0; o < k; o++)
        fill_box(p, &n->box, values + (size_t)o * plane, credit[(size_t)i * k + o] / (double)cells(&n->box));
  }
  mx_free(credit);
  return PARTITION_OK;
}
