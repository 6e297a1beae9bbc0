/* loader.c: see loader.h. Threads take single images in order; a ring of `depth` slots holds the batches. One lock
 * guards everything but the pixels of a slot, which belong to the threads that fill it until it is ready, and then to
 * the caller until it is released. */
#include "loader.h"
#include "mx_assert.h"
#include <math.h>
#include <pthread.h>
#include <string.h>
#include "alloc.h"
#include "clock.h"
#include "rng.h"
#include "sha256.h"
#include "worker.h"

typedef struct slot {
  uint8_t *px, *c;
  int64_t left; /* images not yet there */
} slot;

struct loader {
  imageset *set;
  int64_t *order, n, batch, batches;
  loader_augment augment;
  augment_step *steps;
  int n_steps;
  bool augmented;
  uint64_t seed, epoch;
  int depth;
  pthread_mutex_t lock;
  pthread_cond_t room, ready;
  slot *slots;
  uint8_t *scratch; /* one image per thread, before augmentation */
  int64_t next;     /* the next image to hand out */
  int64_t taken;    /* batches released */
  int64_t active;   /* images being made */
  int64_t failed_at; /* first position in the order that failed; n: none */
  char why[IMAGESET_WHY];
  bool stop, held;
  double waited;
  int started, threads; /* running threads; threads to join */
  pthread_t thread[];
};

/* ---- augmentation ------------------------------------------------------------------------------------------ */
static double spread(const mx_stream *s, uint64_t draw, double by) { return by * (2 * mx_stream_uniform(s, draw) - 1); }

/* Bilinear sample of channel k at (x, y); black outside. */
static double sample(const uint8_t *in, int size, int c, int k, double x, double y) {
  int x0 = (int)floor(x), y0 = (int)floor(y);
  double fx = x - x0, fy = y - y0, sum = 0;
  for (int j = 0; j < 2; j++)
    for (int i = 0; i < 2; i++)
      if (x0 + i >= 0 && x0 + i < size && y0 + j >= 0 && y0 + j < size)
        sum += (i ? fx : 1 - fx) * (j ? fy : 1 - fy) * in[((size_t)(y0 + j) * size + x0 + i) * c + k];
  return sum;
}

static void move(uint8_t *out, const uint8_t *in, int size, int c, const loader_draws *d) {
  double middle = (size - 1) / 2.0, a = d->cosine, b = d->sine;
  for (int y = 0; y < size; y++)
    for (int x = 0; x < size; x++) {
      double px = x - middle - d->dx, py = y - middle - d->dy, u = a * px + b * py, v = a * py - b * px;
      u = middle + d->mirror * u;
      for (int k = 0; k < c; k++)
        out[((size_t)y * size + x) * c + k] = (uint8_t)(sample(in, size, c, k, u, middle + v) + 0.5);
    }
}

static void expose(uint8_t *px, size_t n, double brightness, double contrast) {
  uint64_t sum = 0;
  uint8_t table[256];
  for (size_t i = 0; i < n; i++)
    sum += px[i];
  double mean = n ? (double)sum / (double)n : 0;
  for (int v = 0; v < 256; v++) {
    double to = ((v - mean) * contrast + mean) * brightness + 0.5;
    table[v] = to < 0 ? 0 : to > 255 ? 255 : (uint8_t)to;
  }
  for (size_t i = 0; i < n; i++)
    px[i] = table[px[i]];
}

loader_draws loader_draw(int size, const loader_augment *a, uint64_t seed, uint64_t epoch, const char *id) {
  mx_stream s;
  mx_stream_init(&s, seed, "augment@1", id, epoch);
  bool flip = mx_stream_uniform(&s, 0) < a->flip;
  double turn = spread(&s, 1, a->rotate_deg) * (3.14159265358979323846 / 180), zoom = 1 + spread(&s, 2, a->scale);
  return (loader_draws){ cos(turn) / zoom,
                         sin(turn) / zoom,
                         spread(&s, 3, a->shift) * size,
                         spread(&s, 4, a->shift) * size,
                         flip ? -1 : 1,
                         1 + spread(&s, 5, a->brightness),
                         1 + spread(&s, 6, a->contrast) };
}

void loader_augmented(uint8_t *out, const uint8_t *in, int size, int c, const loader_augment *a, uint64_t seed,
                      uint64_t epoch, const char *id) {
  size_t n = (size_t)size * size * c;
  loader_draws d = loader_draw(size, a, seed, epoch, id);
  if (d.mirror < 0 || d.cosine != 1 || d.sine != 0 || d.dx != 0 || d.dy != 0)
    move(out, in, size, c, &d);
  else
    memcpy(out, in, n);
  if (d.brightness != 1 || d.contrast != 1)
    expose(out, n, d.brightness, d.contrast);
}

/* ---- threads ----------------------------------------------------------------------------------------------- */
static size_t picture_bytes(const loader *l) { return (size_t)imageset_size(l->set) * imageset_size(l->set) * 3; }

/* Loads the image at position `at` of the order; scratch is this thread's own. */
static int make(loader *l, int64_t at, uint8_t *scratch, char *why) {
  slot *s = &l->slots[at / l->batch % l->depth];
  int64_t i = l->order[at], k = at % l->batch;
  uint8_t *px = s->px + picture_bytes(l) * (size_t)k;
  int c, status = imageset_pixels(l->set, i, l->augmented ? scratch : px, &c, why);
  if (status)
    return status;
  s->c[k] = (uint8_t)c;
  if (!l->augmented)
    return IMAGE_OK;
  const imageset_facts *f;
  char hex[65];
  if ((status = imageset_get_facts(l->set, i, &f, why)))
    return status;
  sha256_hex(f->digest, hex);
  hex[16] = 0; /* the image id */
  if (!l->n_steps) {
    loader_augmented(px, scratch, imageset_size(l->set), c, &l->augment, l->seed, l->epoch, hex);
    return IMAGE_OK;
  }
  augment_key key = { l->seed, l->epoch, hex };
  status = augment_apply(px, scratch, imageset_size(l->set), c, l->steps, l->n_steps, &key, false, NULL);
  if (status)
    memcpy(why, "out of memory", sizeof "out of memory");
  return status;
}

static void *work(void *ud) {
  loader *l = ud;
  char why[IMAGESET_WHY];
  pthread_mutex_lock(&l->lock);
  uint8_t *scratch = l->augmented ? l->scratch + picture_bytes(l) * (size_t)l->started++ : NULL;
  for (;;) {
    while (!l->stop && l->next < l->n && l->next / l->batch >= l->taken + l->depth)
      pthread_cond_wait(&l->room, &l->lock);
    if (l->stop || l->next >= l->n || l->failed_at < l->n)
      break;
    int64_t at = l->next++;
    l->active++;
    pthread_mutex_unlock(&l->lock);
    int status = make(l, at, scratch, why);
    pthread_mutex_lock(&l->lock);
    l->active--;
    if (status && at < l->failed_at) {
      l->failed_at = at;
      memcpy(l->why, why, sizeof why);
      pthread_cond_broadcast(&l->room);
    }
    if (--l->slots[at / l->batch % l->depth].left == 0 || l->failed_at < l->n)
      pthread_cond_signal(&l->ready);
  }
  pthread_mutex_unlock(&l->lock);
  return NULL;
}

static int64_t batch_size(const loader *l, int64_t b) {
  return l->n - b * l->batch < l->batch ? l->n - b * l->batch : l->batch;
}

static bool make_room(loader *l, const int64_t *order, int threads, const augment_step *steps) {
  size_t bytes = picture_bytes(l);
  l->steps = l->n_steps ? mx_malloc((size_t)l->n_steps * sizeof *steps) : NULL;
  if (l->n_steps && !l->steps)
    return false;
  if (l->n_steps)
    memcpy(l->steps, steps, (size_t)l->n_steps * sizeof *steps);
  l->order = mx_malloc((size_t)l->n * sizeof *l->order);
  l->slots = mx_calloc((size_t)l->depth, sizeof *l->slots);
  l->scratch = l->augmented ? mx_malloc(bytes * (size_t)threads) : NULL;
  if (!l->order || !l->slots || (l->augmented && !l->scratch))
    return false;
  memcpy(l->order, order, (size_t)l->n * sizeof *order);
  for (int i = 0; i < l->depth; i++) {
    l->slots[i].px = mx_malloc(bytes * (size_t)l->batch);
    l->slots[i].c = mx_malloc((size_t)l->batch);
    if (!l->slots[i].px || !l->slots[i].c)
      return false;
    l->slots[i].left = i < l->batches ? batch_size(l, i) : 0;
  }
  return true;
}

loader *loader_start(imageset *set, const int64_t *order, int64_t n, const loader_options *o) {
  loader *l = mx_calloc(1, sizeof *l + (size_t)o->threads * sizeof l->thread[0]);
  if (!l)
    return NULL;
  l->set = set, l->batch = o->batch < n ? o->batch : n ? n : 1; /* no larger than there are images */
  l->n = o->drop_last ? n / o->batch * o->batch : n;
  l->batches = (l->n + l->batch - 1) / l->batch;
  l->depth = o->depth < l->batches ? o->depth : l->batches ? (int)l->batches : 1;
  l->failed_at = l->n;
  l->seed = o->seed, l->epoch = o->epoch;
  l->n_steps = o->n_steps;
  l->augmented = o->augment != NULL || o->n_steps > 0;
  if (o->augment)
    l->augment = *o->augment;
  imageset_hold(set);
  pthread_mutex_init(&l->lock, NULL);
  pthread_cond_init(&l->room, NULL);
  pthread_cond_init(&l->ready, NULL);
  if (!make_room(l, order, o->threads, o->steps)) {
    loader_free(l);
    return NULL;
  }
  while (l->threads < o->threads && !worker_start(&l->thread[l->threads], work, l))
    l->threads++;
  if (!l->threads) {
    loader_free(l);
    return NULL;
  }
  return l;
}

/* LOADER_READY, LOADER_FAILED or LOADER_WAIT for the oldest batch. The caller holds the lock. */
static int state_of(const loader *l) {
  if (l->slots[l->taken % l->depth].left == 0 && (l->failed_at >= l->n || l->failed_at / l->batch != l->taken))
    return LOADER_READY;
  return l->failed_at < l->n && l->failed_at / l->batch <= l->taken && l->active == 0 ? LOADER_FAILED : LOADER_WAIT;
}

static int wait_ready(loader *l, double seconds) {
  struct timespec until = clock_after(seconds);
  double start = clock_seconds();
  int state = LOADER_WAIT, late = 0;
  while ((state = state_of(l)) == LOADER_WAIT && !late)
    late = pthread_cond_timedwait(&l->ready, &l->lock, &until);
  l->waited += clock_seconds() - start;
  return state;
}

int loader_next(loader *l, double seconds, loader_batch *batch, char why[IMAGESET_WHY]) {
  if (l->taken >= l->batches)
    return LOADER_END;
  pthread_mutex_lock(&l->lock);
  int state = wait_ready(l, seconds);
  pthread_mutex_unlock(&l->lock);
  if (state == LOADER_FAILED)
    memcpy(why, l->why, sizeof l->why);
  if (state != LOADER_READY)
    return state;
  const slot *s = &l->slots[l->taken % l->depth];
  mx_assert(l->taken < l->batches && s->left == 0);
  *batch = (loader_batch){ batch_size(l, l->taken), l->taken * l->batch, s->px, s->c };
  l->held = true;
  return LOADER_READY;
}

void loader_release(loader *l) {
  if (!l->held)
    return;
  pthread_mutex_lock(&l->lock);
  slot *s = &l->slots[l->taken % l->depth];
  int64_t next = l->taken + l->depth; /* the batch that will use this slot */
  s->left = next < l->batches ? batch_size(l, next) : 0;
  l->taken++;
  l->held = false;
  pthread_cond_broadcast(&l->room);
  pthread_mutex_unlock(&l->lock);
}

double loader_waited(const loader *l) { return l->waited; }
int64_t loader_batches(const loader *l) { return l->batches; }

void loader_free(loader *l) {
  if (!l)
    return;
  pthread_mutex_lock(&l->lock);
  l->stop = true;
  pthread_cond_broadcast(&l->room);
  pthread_mutex_unlock(&l->lock);
  for (int t = 0; t < l->threads; t++)
    pthread_join(l->thread[t], NULL);
  imageset_release(l->set);
  pthread_cond_destroy(&l->ready);
  pthread_cond_destroy(&l->room);
  pthread_mutex_destroy(&l->lock);
  for (int i = 0; l->slots && i < l->depth; i++) {
    mx_free(l->slots[i].px);
    mx_free(l->slots[i].c);
  }
  mx_free(l->slots);
  mx_free(l->order);
  mx_free(l->scratch);
  mx_free(l->steps);
  mx_free(l);
}
