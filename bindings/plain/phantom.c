/* phantom.c: see phantom.h. An image is a sum of smooth densities over a thorax in coordinates from -1 to 1 (x to the
 * image's right, y down), rotated and shifted a little, to which exposure and noise are added. The numbers were chosen
 * by eye. */
#include "phantom.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "rng.h"

const char *const phantom_classes[PHANTOM_CLASSES] = { "clear", "nodule", "opacity" };

enum { GRID = 24, OCTAVES = 2, MAX_SPOTS = 2 };

typedef struct spot {
  double x, y, rx, ry, tilt, density;
} spot;

/* All random parameters of one image, except for the noise. */
typedef struct chest {
  double turn_cos, turn_sin, shift_x, shift_y, zoom, wide; /* pose */
  /* lungs; base: of the right lung (left in the image) and the left */
  double apex, base[2], lateral, hilum;
  double heart_x, heart_y, heart_rx, heart_ry;
  double rib_start, rib_gap, rib_density;
  double spine, fat;
  double gain, offset, gamma, grain; /* exposure */
  float noise[OCTAVES][GRID + 2][GRID + 2];
  spot spots[MAX_SPOTS];
  int n_spots;
  bool hazy;
  bool has_marker;
  int marker_letter, marker_corner;
  double marker_dx, marker_dy;
} chest;

/* ---- random ------------------------------------------------------------------------------------------------ */
typedef struct dice {
  mx_stream stream;
  uint64_t draw;
} dice;

static double uniform(dice *d, double low, double high) {
  return low + (high - low) * mx_stream_uniform(&d->stream, d->draw++);
}

/* ---- smooth parts ------------------------------------------------------------------------------------------ */
static inline double ramp(double x, double width) { /* 0 below -width, 1 above width, smooth between */
  double t = (x + width) / (2 * width);
  t = t < 0 ? 0 : t > 1 ? 1 : t;
  return t * t * (3 - 2 * t);
}

static inline double bump(double x) { /* 1 at 0, 0 from 1 on */
  double t = 1 - x * x;
  return t > 0 ? t * t : 0;
}

static inline double mix(double a, double b, double t) { return a + (b - a) * t; }

static double noise_at(const chest *c, int octave, double x, double y) { /* -1 .. 1 */
  double scale = GRID * 0.5, gx = (x + 1) * scale, gy = (y + 1) * scale;
  gx = gx < 0 ? 0 : gx > GRID ? GRID : gx;
  gy = gy < 0 ? 0 : gy > GRID ? GRID : gy;
  int ix = (int)gx, iy = (int)gy;
  double fx = gx - ix, fy = gy - iy;
  fx *= fx * (3 - 2 * fx);
  fy *= fy * (3 - 2 * fy);
  const float(*g)[GRID + 2] = c->noise[octave];
  return mix(mix(g[iy][ix], g[iy][ix + 1], fx), mix(g[iy + 1][ix], g[iy + 1][ix + 1], fx), fy);
}

/* ---- anatomy ----------------------------------------------------------------------------------------------- */
/* How deep inside a lung (x, y) lies, roughly in units of half the image's width; negative outside. */
static double lung_depth(const chest *c, double x, double y) {
  int side = x > 0;
  double ax = fabs(x), up = (0.22 - y) / (0.22 - c->apex);
  double ellipse = up < 0 ? 1 - 0.06 * up * up : up < 1 ? sqrt(1 - up * up * 0.97) : 0;
  double lateral = c->lateral * ellipse - ax;
  double medial = ax - (0.135 + 0.05 * (y > -0.1 ? (y + 0.1) : 0) + 0.10 * (y < -0.55 ? -0.55 - y : 0));
  double dome = ax - 0.36, floor_y = c->base[side] + 0.75 * dome * dome * (dome > 0 ? 1.15 : 0.35);
  double depth = lateral < medial ? lateral : medial;
  double bottom = (floor_y - y) * 0.8;
  return depth < bottom ? depth : bottom;
}

static double heart_depth(const chest *c, double x, double y) { /* positive inside, at most 1 */
  double dx = x - c->heart_x, dy = y - c->heart_y, u = dx * 0.82 + dy * 0.57, v = -dx * 0.57 + dy * 0.82;
  double left = u / c->heart_rx, down = v / c->heart_ry;
  return 1 - sqrt(left * left + down * down);
}

static double bones(const chest *c, double x, double y, double depth) {
  double ax = fabs(x), t = (ax - 0.08) / 0.72, sum = 0;
  double wall = ramp(depth + 0.10, 0.04); /* ribs end at the chest wall */
  /* back ribs rise from the spine, then fall; front ribs, fainter, slope the other way */
  double back = (y - (c->rib_start - 0.16 * t * (1 - t) * 2.2 + 0.30 * t * t)) / c->rib_gap;
  double k = floor(back + 0.5);
  if (t > 0 && k >= 0 && k <= 9)
    sum += wall * (0.75 * bump((back - k) / 0.27) + 0.35 * bump((fabs(back - k) - 0.20) / 0.09));
  double front = (y - (c->rib_start + 0.20 + 0.62 * (1 - t) * (1 - t) - 0.05)) / (c->rib_gap * 1.18);
  k = floor(front + 0.5);
  if (t > 0.30 && k >= 0 && k <= 5)
    sum += 0.45 * wall * bump((front - k) / 0.27) * ramp(t - 0.42, 0.10);
  double clavicle = y - (-0.60 - 0.17 * (ax - 0.10) - 0.10 * sin(3.2 * (ax - 0.10)));
  if (ax > 0.07 && ax < 0.86)
    sum += 0.95 * bump(clavicle / 0.042) * ramp(ax - 0.10, 0.03);
  return sum * c->rib_density;
}

static double spine(const chest *c, double x, double y) {
  double column = bump(x / 0.15), disc = 0.5 + 0.5 * cos((y + 0.03) * 2 * 3.14159265358979 / 0.155);
  double trachea = bump(x / 0.062) * ramp(-0.32 - y, 0.06);
  return c->spine * column * (0.05 + 0.045 * disc) - 0.16 * trachea;
}

static double vessels(const chest *c, double x, double y) {
  double ax = fabs(x) - 0.20, hy = y - c->hilum, near = 1 / (1 + 9 * (ax * ax + 0.6 * hy * hy));
  double fine = noise_at(c, 1, x, y), coarse = noise_at(c, 0, x * 0.6, y * 0.6);
  double root = bump((fabs(x) - 0.20) / 0.11) * bump(hy / 0.20);
  return near * (0.085 * fine + 0.045 * coarse + 0.02) + 0.13 * root * (0.75 + 0.5 * fine);
}

/* 0 .. 1: how much of a lesion covers (x, y). */
static double lesion(const chest *c, double x, double y) {
  double most = 0;
  for (int i = 0; i < c->n_spots; i++) {
    const spot *s = &c->spots[i];
    double dx = x - s->x, dy = y - s->y, u = dx * cos(s->tilt) + dy * sin(s->tilt),
           v = dy * cos(s->tilt) - dx * sin(s->tilt);
    if (fabs(u) > 1.8 * s->rx || fabs(v) > 1.8 * s->ry)
      continue;
    double r = sqrt(u * u / (s->rx * s->rx) + v * v / (s->ry * s->ry));
    if (c->hazy)
      r += 0.22 * noise_at(c, 0, x, y) + 0.12 * noise_at(c, 1, y, x);
    double cover = ramp(1 - r, c->hazy ? 0.32 : 0.26);
    most = cover > most ? cover : most;
  }
  return most;
}

typedef struct place {
  double density;
  bool lung, lesion;
} place;

static place look(const chest *c, double x, double y) {
  double ax = fabs(x), depth = lung_depth(c, x, y), heart = heart_depth(c, x, y);
  double shoulder = y + 0.99 - (ax > 0.22 ? 0.62 * (ax - 0.22) * (ax - 0.22) : 0);
  double skin = ax < 0.30 ? 1 : ramp(shoulder, 0.03), flank = 1.02 + c->fat - 0.10 * (y > 0 ? y * 0.2 : -y) - ax;
  double body = skin * ramp(flank, 0.03);
  double inside = ramp(depth, 0.022), beat = ramp(heart + 0.03, 0.13);
  double floor_tissue = ramp(y - 0.62, 0.25);
  double soft = 0.56 + 0.10 * floor_tissue + 0.05 * noise_at(c, 0, x * 0.5, y * 0.5) - 0.10 * ramp(ax - 0.86, 0.12);
  double middle = bump(x / (0.32 + 0.08 * y)) * 0.13 + 0.10 * beat * (1 + 0.5 * noise_at(c, 0, x * 0.4, y * 0.4));
  double lung = 0.17 + 0.07 * (y + 0.6) * (y > -0.6 ? 1 : 0) + vessels(c, x, y) + 0.22 * beat;
  double ill = c->n_spots ? lesion(c, x, y) : 0;
  if (ill > 0)
    lung += ill * c->spots[0].density * (c->hazy ? 1 + 0.22 * noise_at(c, 1, x, y) : 1);
  double d = mix(soft + middle, lung, inside * (1 - 0.92 * beat));
  d += bones(c, x, y, depth) * (0.35 + 0.65 * inside) * (1 - 0.6 * beat) + spine(c, x, y) * (1 - 0.3 * inside);
  return (place){ d * body + 0.02, depth > 0 && heart < 0, ill * inside * (1 - beat) > 0.5 };
}

/* ---- one image ------------------------------------------------------------------------------------------- */
static void put_spots(chest *c, dice *d, int label, double contrast) {
  c->hazy = label == 2;
  int wanted = label == 0 ? 0 : label == 1 ? 1 + (uniform(d, 0, 1) < 0.4) : 1;
  for (int tries = 0; c->n_spots < wanted && tries < 200; tries++) {
    spot s = { uniform(d, -0.8, 0.8), uniform(d, -0.6, 0.6), 0, 0, uniform(d, 0, 3.14), 0 };
    s.rx = c->hazy ? uniform(d, 0.26, 0.38) : uniform(d, 0.09, 0.13);
    s.ry = s.rx * (c->hazy ? uniform(d, 0.7, 1.2) : uniform(d, 0.85, 1.15));
    s.density = contrast * (c->hazy ? uniform(d, 0.32, 0.44) : uniform(d, 0.40, 0.54));
    double room = c->hazy ? 0.10 : s.rx * 0.8;
    if (lung_depth(c, s.x, s.y) > room && heart_depth(c, s.x, s.y) < -0.25)
      c->spots[c->n_spots++] = s;
  }
}

static void roll_chest(chest *c, const phantom *p, int64_t index) {
  dice d = { .draw = 0 };
  char id[32];
  int label = (int)(index % PHANTOM_CLASSES);
  snprintf(id, sizeof id, "%lld", (long long)index);
  mx_stream_init(&d.stream, p->seed, "phantom@1", id, 0);
  memset(c, 0, sizeof *c);
  double turn = uniform(&d, -0.06, 0.06);
  c->turn_cos = cos(turn), c->turn_sin = sin(turn);
  c->shift_x = uniform(&d, -0.05, 0.05), c->shift_y = uniform(&d, -0.05, 0.05);
  c->zoom = uniform(&d, 0.94, 1.06), c->wide = uniform(&d, 0.95, 1.06);
  c->apex = uniform(&d, -0.86, -0.78), c->lateral = uniform(&d, 0.74, 0.82), c->hilum = uniform(&d, -0.12, 0.0);
  c->base[0] = uniform(&d, 0.40, 0.52), c->base[1] = c->base[0] + uniform(&d, 0.02, 0.09);
  c->heart_x = uniform(&d, 0.10, 0.16), c->heart_y = uniform(&d, 0.24, 0.32);
  c->heart_rx = uniform(&d, 0.34, 0.42), c->heart_ry = uniform(&d, 0.23, 0.30);
  c->rib_start = uniform(&d, -0.78, -0.68), c->rib_gap = uniform(&d, 0.150, 0.175),
  c->rib_density = uniform(&d, 0.08, 0.13);
  c->spine = uniform(&d, 0.7, 1.2), c->fat = uniform(&d, -0.04, 0.08);
  c->gain = uniform(&d, 0.85, 1.15), c->offset = uniform(&d, -0.05, 0.07), c->gamma = uniform(&d, 0.85, 1.25);
  c->grain = uniform(&d, 0.012, 0.028);
  for (int o = 0; o < OCTAVES; o++)
    for (int y = 0; y < GRID + 2; y++)
      for (int x = 0; x < GRID + 2; x++)
        c->noise[o][y][x] = (float)uniform(&d, -1, 1);
  c->has_marker = uniform(&d, 0, 1) < p->marker_rate[label];
  int any = (int)uniform(&d, 0, 3);
  c->marker_letter = p->marker_tells ? label : any;
  c->marker_corner = (int)uniform(&d, 0, 4);
  c->marker_dx = uniform(&d, 0, 0.05), c->marker_dy = uniform(&d, 0, 0.05);
  put_spots(c, &d, label, p->contrast);
}

/* Lead letters, 5 x 7 pixels, one byte per row. */
static const uint8_t letters[3][7] = {
  { 0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11 }, /* R */
  { 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f }, /* L */
  { 0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10 }, /* P */
};

static void stamp_marker(const chest *c, image *im, image *mask) {
  int n = im->w, w = (int)(0.085 * n + 0.5), h = (int)(0.115 * n + 0.5);
  w = w < 5 ? 5 : w, h = h < 7 ? 7 : h;
  int gap_x = (int)((0.025 + c->marker_dx) * n), gap_y = (int)((0.025 + c->marker_dy) * n);
  int x0 = c->marker_corner & 1 ? n - w - gap_x : gap_x, y0 = c->marker_corner & 2 ? n - h - gap_y : gap_y;
  for (int y = 0; y < h; y++)
    for (int x = 0; x < w; x++) {
      if (x0 + x < 0 || y0 + y < 0 || x0 + x >= n || y0 + y >= n)
        continue;
      size_t at = (size_t)(y0 + y) * n + x0 + x;
      if (letters[c->marker_letter][y * 7 / h] >> (4 - x * 5 / w) & 1)
        im->px[at] = 250;
      if (mask)
        mask->px[at] = 255;
    }
}

void phantom_defaults(phantom *p) { *p = (phantom){ .seed = 42, .size_px = 224, .contrast = 1, .marker_tells = true }; }

void phantom_masks_free(phantom_masks *m) {
  image_free(&m->lungs);
  image_free(&m->lesion);
  image_free(&m->marker);
}

/* Approximately normal, mean 0, standard deviation 1, from 64 random bits: the sum of four 16-bit numbers. */
static double grain_of(uint64_t bits) {
  int64_t sum =
    (int64_t)(bits & 0xffff) + (int64_t)(bits >> 16 & 0xffff) + (int64_t)(bits >> 32 & 0xffff) + (int64_t)(bits >> 48);
  return (sum - 131070) / 37837.2;
}

static void expose(const chest *c, const mx_stream *grain, image *im, phantom_masks *masks) {
  int n = im->w;
  double step = 2.0 / n;
  for (int row = 0; row < n; row++)
    for (int col = 0; col < n; col++) {
      double px = (col + 0.5) * step - 1 - c->shift_x, py = (row + 0.5) * step - 1 - c->shift_y;
      double x = (px * c->turn_cos + py * c->turn_sin) * c->zoom * c->wide,
             y = (py * c->turn_cos - px * c->turn_sin) * c->zoom;
      size_t at = (size_t)row * n + col;
      place here = look(c, x, y);
      double v = here.density * c->gain + c->offset;
      v = v > 0 ? pow(v, c->gamma) : 0;
      v += c->grain * grain_of(mx_stream_bits(grain, at));
      v = v * 255 + 0.5;
      im->px[at] = v < 0 ? 0 : v > 255 ? 255 : (uint8_t)v;
      if (masks) {
        masks->lungs.px[at] = here.lung ? 255 : 0;
        masks->lesion.px[at] = here.lesion ? 255 : 0;
      }
    }
}

int phantom_draw(const phantom *p, int64_t index, image *out, phantom_masks *masks) {
  int n = p->size_px;
  chest c;
  mx_stream grain;
  char id[32];
  image im = { 0 };
  phantom_masks m = { 0 };
  int status = image_new(&im, n, n, 1);
  if (!status && masks)
    status = image_new(&m.lungs, n, n, 1) || image_new(&m.lesion, n, n, 1) || image_new(&m.marker, n, n, 1)
               ? IMAGE_NOMEM
               : IMAGE_OK;
  if (status) {
    image_free(&im);
    phantom_masks_free(&m);
    return status;
  }
  snprintf(id, sizeof id, "%lld", (long long)index);
  mx_stream_init(&grain, p->seed, "phantom-grain@1", id, 0);
  roll_chest(&c, p, index);
  expose(&c, &grain, &im, masks ? &m : NULL);
  if (c.has_marker)
    stamp_marker(&c, &im, masks ? &m.marker : NULL);
  *out = im;
  if (masks)
    *masks = m;
  return IMAGE_OK;
}
